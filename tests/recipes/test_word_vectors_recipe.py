"""The recipe of word vectors: its run directory, resume, texts of every kind, and towers that begin with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError, MissingExtraError, ResumeError
from lodesmith.core.files import read_json
from lodesmith.encoders.word_vectors import WordVectors, read_word_vectors, write_word_vectors
from lodesmith.recipes.recipe import WordVectorsRecipe, load, load_any
from lodesmith.recipes.train import finished, forecast, plan
from lodesmith.testing import tiny_dataset

pytest.importorskip("gensim", reason="pip install 'lodesmith[words]'")
pytestmark = pytest.mark.usefixtures("cache")

SMALL = {"dimension": 16, "epochs": 3, "min_count": 1, "subsample": 0.0}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def run(data: Path | str | tuple[str, ...], out: Path, **more: object) -> list[events.Event]:
    given = str(data) if isinstance(data, Path) else data
    return list(plan("word_vectors", {"data": given} | SMALL | more, out=out, reported=False).events())


def rows(out: Path) -> np.ndarray:
    return load_file(out / "model" / "model.safetensors")["embedding.weight"]


# ------------------------------------------------------------------------ the run


def test_a_run_leaves_the_contract_s_files_and_stands_in_a_table(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    happened = list(lode.train("word_vectors", out=out, data=str(dataset), **SMALL))
    steps = [event for event in happened if isinstance(event, events.Step)]
    assert [(step.step, step.epoch, step.steps) for step in steps] == [(1, 1, 3), (2, 2, 3), (3, 3, 3)]
    assert all(step.terms == {"negative_sampling": step.total} and step.throughput > 0 for step in steps)
    assert isinstance(happened[-1], events.Done)
    assert finished(out)
    for name in ("recipe.yaml", "manifest.json", "metrics.jsonl", "checkpoints", "model/modules.json", "report.html"):
        assert (out / name).exists(), name
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["step"] * 3 + ["done"]
    assert load_any(out / "recipe.yaml").fingerprint == read_json(out / "manifest.json")["recipe"]
    systems = {e.system: e for e in map(lode.Evaluation.load, sorted((out / "evaluations").glob("*.json")))}
    assert set(systems) == {"random", "bm25", "untrained", "word_vectors"}
    assert lode.evaluate(str(out), dataset).per_query == systems["word_vectors"].per_query
    assert not (out / "checkpoints" / "corpus").exists()


def test_the_model_is_the_mean_of_the_vectors_here_and_in_sentence_transformers(dataset: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    run(dataset, tmp_path / "run")
    vectors = read_word_vectors(tmp_path / "run")
    assert vectors.fingerprint == read_word_vectors(tmp_path / "run" / "model").fingerprint
    expected = np.mean([vectors.values[vectors.ids[word]] for word in ("the", "cat", "eats", "apples")], axis=0)
    texts = ["The cat eats apples."]
    np.testing.assert_allclose(lode.load(tmp_path / "run").encode(texts).values[0], expected, atol=1e-6)
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    np.testing.assert_allclose(model.encode(texts)[0], expected, atol=1e-6)


def test_settings_reach_the_trainer(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "a")
    run(dataset, tmp_path / "b")
    np.testing.assert_array_equal(rows(tmp_path / "a"), rows(tmp_path / "b"))
    for name, value in {"model": "cbow", "window": 1, "negatives": 2, "seed": 3, "word_vectors.epochs": 2}.items():
        run(dataset, tmp_path / name, **{name: value})
        assert not np.array_equal(rows(tmp_path / name), rows(tmp_path / "a")), name
    run(dataset, tmp_path / "short", max_size=7)
    assert len(rows(tmp_path / "short")) == 7


def test_what_queries_say_is_not_trained_on_but_covered(tmp_path: Path) -> None:
    data = tiny_dataset(120)
    queries = [lode.Query(key, f"{query.text} zebra zebra") for key, query in data.queries.items()]
    folder = lode.Dataset.of(data.documents.values(), queries, data.judgements).save(tmp_path / "data")
    training = plan("word_vectors", {"data": str(folder)} | SMALL, out=tmp_path / "run", reported=False)
    assert training.summary == {}
    list(training.events())
    found = training.summary["coverage"]
    assert found["documents"]["tokens_known"] == 1.0
    assert found["queries"]["missing"] == {"zebra": 240}
    assert found["queries"]["tokens_known"] == pytest.approx(1 - 240 / found["queries"]["tokens"])
    assert "zebra" not in read_word_vectors(tmp_path / "run").ids


# ------------------------------------------------------------------------ going on


def test_stopped_and_resumed_it_is_the_same(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "whole")
    settings = {"data": str(dataset)} | SMALL
    for count in (1, 4):  # in the middle of the reports of an epoch, and at its end
        list(islice(plan("word_vectors", settings, out=tmp_path / "p", resume="auto", reported=False).events(), count))
    happened = list(plan("word_vectors", settings, out=tmp_path / "p", resume=True, reported=False).events())
    assert isinstance(happened[0], events.Resumed)
    np.testing.assert_array_equal(rows(tmp_path / "p"), rows(tmp_path / "whole"))
    told = [
        [{k: v for k, v in json.loads(line).items() if k not in ("throughput", "seconds")} for line in file]
        for file in ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("p", "whole"))
    ]
    assert told[0] == told[1]
    again = list(plan("word_vectors", settings, out=tmp_path / "p", resume=True, reported=False).events())
    assert [type(event) for event in again] == [events.Done]


@pytest.mark.slow
def test_sigkill_and_resume_through_the_verb(dataset: Path, tmp_path: Path) -> None:
    """Enough epochs that the kill falls into them; what they leave is compared bit by bit."""
    settings = [f"{key}={value}" for key, value in (SMALL | {"epochs": 60, "data": dataset}).items()]
    verb = [sys.executable, "-m", "lodesmith.cli.main", "train", "word_vectors", *settings, "--json"]
    subprocess.run([*verb, "--out", str(tmp_path / "whole")], check=True, capture_output=True, timeout=240)
    with subprocess.Popen(
        [*verb, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        metrics, end = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert time.monotonic() < end
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert not finished(tmp_path / "killed")
    with pytest.raises(InputError, match="this run has no model yet"):
        read_word_vectors(tmp_path / "killed")
    command = [*verb, "--out", str(tmp_path / "killed"), "--resume"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=240)
    assert b"resumed from step" in done.stderr
    np.testing.assert_array_equal(rows(tmp_path / "killed"), rows(tmp_path / "whole"))


def test_what_cannot_go_on_is_refused(dataset: Path, tmp_path: Path) -> None:
    settings = {"data": str(dataset)} | SMALL
    with pytest.raises(ResumeError, match="no run to resume"):
        plan("word_vectors", settings, out=tmp_path / "run", resume=True)
    list(islice(plan("word_vectors", settings, out=tmp_path / "run").events(), 2))
    with pytest.raises(InputError, match="a run is here already"):
        plan("word_vectors", settings, out=tmp_path / "run")
    with pytest.raises(ResumeError, match=r"word_vectors\.window was 5, is 2"):
        plan("word_vectors", settings | {"window": 2}, out=tmp_path / "run", resume=True)
    tiny_dataset(121).save(dataset)
    with pytest.raises(ResumeError, match="texts have changed"):
        list(plan("word_vectors", settings, out=tmp_path / "run", resume=True).events())


# ------------------------------------------------------------------------ its texts


def test_texts_and_datasets_together(dataset: Path, tmp_path: Path) -> None:
    place = tmp_path / "texts, and more"
    place.mkdir()
    (place / "a.txt").write_text("alpha beta alpha beta\ngamma beta\n")
    (place / "b.pdf").write_bytes(b"%PDF-")
    training = plan("word_vectors", {"data": f"{place}"} | SMALL, out=tmp_path / "one")
    assert training.recipe.data.path == (str(place),)  # a comma in a name that is there
    happened = list(training.events())
    assert isinstance(happened[-1], events.Done)
    assert set(training.summary["coverage"]) == {"documents"}
    assert training.summary["skipped"] == {".pdf": 1}
    assert not (tmp_path / "one" / "report.html").exists()
    place = place.rename(tmp_path / "texts")
    both = f"{dataset}, {place / 'a.txt'}"
    run(both, tmp_path / "both", document="line")
    assert {"alpha", "cat"} <= read_word_vectors(tmp_path / "both").ids.keys()
    run((str(dataset), str(place / "a.txt")), tmp_path / "listed", document="line")
    np.testing.assert_array_equal(rows(tmp_path / "listed"), rows(tmp_path / "both"))
    training = plan("word_vectors", {"data": f"{place / 'a.txt'}", "data.document": "line"} | SMALL, out=tmp_path / "x")
    assert training.vocabulary.seen["texts"] == 2


def test_settings_that_cannot_be(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no data"):
        plan("word_vectors", out=tmp_path / "x")
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        plan("word_vectors", {"data": f"{dataset},nowhere"}, out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"word_vectors\.dimnsion.*\n?.*did you mean 'dimension'"):
        plan("word_vectors", {"data": str(dataset), "word_vectors.dimnsion": 3}, out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"word_vectors\.model"):
        plan("word_vectors", {"data": str(dataset), "model": "glove"}, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="has no stages"):
        load("word_vectors")
    monkeypatch.setitem(sys.modules, "gensim", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lodesmith\[words\]'"):
        plan("word_vectors", {"data": str(dataset)}, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_round_trip_and_forecast(dataset: Path, tmp_path: Path) -> None:
    recipe = load_any("word_vectors", ["data=a,b", "dimension=7", "seed=2"])
    assert isinstance(recipe, WordVectorsRecipe)
    assert (recipe.word_vectors.dimension, recipe.data.path) == (7, "a,b")
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_any(tmp_path / "r.yaml") == recipe
    report = forecast(plan("word_vectors", {"data": str(dataset)} | SMALL, out=tmp_path / "run"))
    assert report["trainable_parameters"] == 2 * 16 * report["vocabulary"]
    assert report["training_seconds"] > 0
    assert report["steps"] == {"word_vectors": 3}
    assert not (tmp_path / "run").exists()


def test_only_the_first_of_several_processes_trains(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert [type(event) for event in run(dataset, tmp_path / "run")] == [events.Done]
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------ towers that begin with it


def bag(dataset: Path, out: Path, **more: object) -> object:
    short = {"stages.0.epochs": 1, "stages.1.epochs": 3, "stages.0.batch_size": 16, "stages.1.batch_size": 16}
    settings = {"data": str(dataset), "vocabulary.min_count": 1, "encoder.dimension": 16} | short | more
    return plan("two_tower_bag", settings, out=out, reported=False)


@pytest.mark.parametrize("spelling", ["run", "run/model", "v.txt", "v.bin", "v.vec", "folder"])
def test_a_tower_begins_with_word_vectors(dataset: Path, tmp_path: Path, spelling: str) -> None:
    run(dataset, tmp_path / "run", epochs=1)
    vectors = read_word_vectors(tmp_path / "run")
    write_word_vectors(vectors, tmp_path / "v.txt", "glove")
    write_word_vectors(vectors, tmp_path / "v.bin", "word2vec-binary")
    write_word_vectors(vectors, tmp_path / "v.vec", "word2vec")
    WordVectors(vectors.words, vectors.values).save(tmp_path / "folder")
    training = bag(dataset, tmp_path / "tower", **{"encoder.init": str(tmp_path / spelling)})
    first = training.learner.encoder.embedding.weight.detach().numpy().copy()  # type: ignore[attr-defined]
    found = {word: first[at] for at, word in enumerate(training.learner.vocabulary.words)}  # type: ignore[attr-defined]
    for word, row in zip(vectors.words, vectors.values, strict=True):
        np.testing.assert_array_equal(found[word], row)
    if spelling == "run":
        assert isinstance(list(training.events())[-1], events.Done)  # type: ignore[attr-defined]
        before = read_word_vectors(tmp_path / "tower" / "untrained")
        own, given = before.values[before.ids["cat"]], vectors.values[vectors.ids["cat"]]
        weight = own / given  # of the term: a bag's rows have it in them
        np.testing.assert_allclose(weight, weight[0], rtol=1e-5)
        assert lode.load(tmp_path / "tower").encode(["the cat"]).values.shape == (1, 16)


def test_a_tower_begins_with_what_a_transformer_says(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    training = bag(dataset, tmp_path / "tower", **{"encoder.init": f"distil:{tiny_model}"})
    weight = training.learner.encoder.embedding.weight.detach()[2:].double()  # type: ignore[attr-defined]
    words = training.learner.vocabulary.words[2:]  # type: ignore[attr-defined]
    said = torch.from_numpy(lode.load(tiny_model).encode(list(words)).values).double()
    said -= said.mean(0)
    # principal components: of all projections to 16 dimensions, theirs keeps the most; its Gram matrix says how much
    values = torch.linalg.svdvals(said)
    scale = (values[:16] ** 2).sum().sqrt() / len(words) ** 0.5
    np.testing.assert_allclose(torch.linalg.svdvals(weight), values[:16] / scale, atol=1e-4)
    list(training.events())  # type: ignore[attr-defined]
    assert finished(tmp_path / "tower")
    random = bag(dataset, tmp_path / "x").learner.encoder.embedding.weight.detach()[2:]  # type: ignore[attr-defined]
    assert not np.allclose(random, weight)


def test_a_tower_of_another_dimension_says_both(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "run", epochs=1)
    settings = {"encoder.init": str(tmp_path / "run"), "encoder.dimension": 8}
    with pytest.raises(InputError, match="the word vectors have 16 dimensions, the embedding 8"):
        list(bag(dataset, tmp_path / "tower", **settings).events())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("group", "moves"),
    [({"freeze": True}, [False] * 3), ({}, [True] * 3), ({"freeze_epochs": 2}, [False, False, True])],
)
def test_embeddings_are_frozen_trained_or_unfrozen_at_an_epoch(
    dataset: Path, tmp_path: Path, group: dict[str, object], moves: list[bool]
) -> None:
    run(dataset, tmp_path / "run", epochs=1)
    own = {"match": "encoder.embedding.*"} | group
    held = {"match": "encoder.embedding.*", "freeze": True}
    settings = {"stages.0.optim.groups": [held], "stages.1.optim.groups": [own], "encoder.init": str(tmp_path / "run")}
    training = bag(dataset, tmp_path / "tower", **settings)
    tower = training.learner.encoder  # type: ignore[attr-defined]
    first = tower.embedding.weight.detach().clone()
    moved, weighted = [], []
    for event in training.events():  # type: ignore[attr-defined]
        if isinstance(event, events.Validation) and event.stage == "contrast":
            moved.append(not torch.equal(tower.embedding.weight.detach(), first))
            weighted.append(bool(tower.log_weights.detach().any()))
    assert moved == [False, *moves]  # the first validation is before the first step
    assert all(weighted)  # the term weights train all the while
