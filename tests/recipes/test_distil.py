"""`distil`: a student that mimics a teacher it never runs, saved with its projection and without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_runs import equal

import lodesmith as lode
import tiny_models
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.events import Checkpoint, Event, Step, Validation
from lodesmith.core.files import read_json, sha256_folder
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.recipes import targets, validating
from lodesmith.recipes.run_report import report
from lodesmith.recipes.targets import ceiling
from lodesmith.recipes.teaching import teach_vectors
from lodesmith.recipes.train import forecast, plan
from lodesmith.testing import tiny_dataset

CONTRAST = {"name": "contrast", "objective": {"use": "contrast"}}
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("teacher") / "teacher", layers=4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_dataset(60).save(tmp_path / "tiny")


def settings(data: Path, model: Path, /, **more: object) -> dict[str, object]:
    small = {f"stages.{at}.{name}": value for at in (0, 1) for name, value in (("batch_size", 16), ("epochs", 2))}
    return {"data": str(data), "base": str(model), "teacher": str(model), **small, **more}


def run(out: Path, **given: object) -> list[Event]:
    return list(plan("distil", given, out=out, reported=False).events())


def test_a_student_nears_its_teacher(data: Path, teacher: Path, tmp_path: Path) -> None:
    events = run(tmp_path / "run", **settings(data, teacher, **{"stages.0.optim.lr": 1e-3, "stages.0.epochs": 6}))
    told = [event.geometry for event in events if isinstance(event, Validation) and event.stage == "align"]
    for name in ("teacher_documents", "teacher_queries"):
        assert told[0][name] < told[-1][name] <= 1
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert {"teacher", "base", "model_files", "student_files"} <= manifest.keys()
    told = read_json(tmp_path / "run" / "teacher.json")
    assert told["teachers"] == [str(teacher)]
    assert told["ceiling"]["explained"] == pytest.approx(1)


@pytest.mark.parametrize("geometry", [True, False])
def test_alignment_keeps_what_is_nearest_its_teacher(
    geometry: bool, data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few queries whose ranking gets worse meanwhile do not undo it."""
    real, asked = validating.score, []

    def worse(*given: Any, **more: Any) -> SimpleNamespace:
        asked.append(real(*given, **more).means)
        return SimpleNamespace(means=asked[-1] | {"nDCG@10": 1 / len(asked)})

    monkeypatch.setattr(validating, "score", worse)
    more = {"stages.0.optim.lr": 1e-3, "evaluation.geometry": geometry}
    events = [e for e in run(tmp_path / "run", **settings(data, teacher, **more)) if isinstance(e, Validation)]
    align, retrieve = ([event for event in events if event.stage == name] for name in ("align", "retrieve"))
    near = [event.measures["teacher"] for event in align]
    assert near == sorted(near)
    assert near[-1] > near[0] + 0.1
    assert [event.best for event in align] == [True] * len(align)
    if geometry:
        assert near == [event.geometry["teacher_queries"] for event in align]
        assert retrieve[0].geometry["teacher_queries"] == near[-1], "the last weights go on"
    assert [event.best for event in retrieve] == [True] + [False] * (len(retrieve) - 1)
    assert all("teacher" not in event.measures for event in retrieve)


@pytest.mark.parametrize(
    ("more", "monitored"),
    [
        ({"evaluation.validate_on": "DATA"}, "teacher"),
        ({"evaluation.validate_on": "DATA", "data.validation": None}, "mean/nDCG@10"),
        (
            {
                "encoder": {"use": "bag", "dimension": 16},
                "stages.0.objective": {"use": "mimic", "relational": 1},
                "stages.1.objective": {"use": "mimic", "infonce": 1, "relational": 1},
            },
            "nDCG@10",
        ),
    ],
)
def test_a_ranking_decides_where_no_query_can_be_held_beside_the_teacher(
    more: dict[str, Any], monitored: str, data: Path, teacher: Path, tmp_path: Path
) -> None:
    more = {name: [data] if value == "DATA" else value for name, value in more.items()}
    training = plan("distil", settings(data, teacher, **more), out=tmp_path / "run", reported=False)
    told = [event for event in training.events() if isinstance(event, Validation) and event.stage == "align"]
    assert training.stage(training.recipe.stages[0]).monitor == monitored
    assert next(iter(told[0].measures)) == monitored


def test_both_students_load_anywhere(data: Path, teacher: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    wide = tiny_models.build(tmp_path / "wide", "mpnet", dense=48)
    events = run(tmp_path / "run", **settings(data, teacher, teacher=f"{teacher},{wide}"))
    steps = {event.stage: event.lr for event in events if isinstance(event, Step)}
    for stage, times in (("align", 20), ("retrieve", 10)):  # a new projection has farther to go than its base
        assert steps[stage]["*.projection.*"] == pytest.approx(times * steps[stage]["default"])
    projected, native = (SentenceTransformer(str(tmp_path / "run" / name)) for name in ("model", "model_student"))
    texts = ["the cat eats apples", "music"]
    assert projected.encode(texts).shape == (2, 32 + 48)
    assert native.encode(texts).shape == (2, 32)
    assert sum("layer." in name and "query.weight" in name for name, _ in native.named_parameters()) == 3
    own = lode.load(tmp_path / "run").encode(texts)
    np.testing.assert_allclose(own.values, projected.encode(texts), atol=1e-5)


def test_the_teacher_does_not_run_in_the_loop(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    real = TransformerEncoder.encode

    def encode(self: TransformerEncoder, batch: list[str], *more: object) -> object:
        texts.extend(batch)
        return real(self, batch, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformerEncoder, "encode", encode)
    run(tmp_path / "one", **settings(data, teacher))
    everything = {document.content for document in lode.Dataset.load(data).documents.values()}
    assert everything <= set(texts)
    assert len(texts) == len(set(texts))  # each once, over six passes
    texts.clear()
    run(tmp_path / "two", **settings(data, teacher, seed=1))
    assert not texts


@pytest.mark.parametrize("encoder", [{"use": "student", "layers": 3}, {"use": "bag"}])
def test_the_teacher_is_loaded_once(
    encoder: dict[str, object], data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    real = targets.load_encoder
    monkeypatch.setattr(targets, "load_encoder", lambda name: loaded.append(name) or real(name))
    run(tmp_path / "run", **settings(data, teacher, encoder=encoder))
    assert loaded == [str(teacher)]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data: Path, teacher: Path, tmp_path: Path) -> None:
    given = settings(data, teacher)
    run(tmp_path / "whole", **given)
    for kept in (2, 3, None):
        training = plan("distil", given, out=tmp_path / "parts", resume="auto", reported=False)
        for _ in _until(training.events(), kept):
            pass
    assert equal(tmp_path / "whole", tmp_path / "parts")


def _until(events: Iterator[Event], checkpoints: int | None) -> Iterator[Event]:
    """The events up to the checkpoint of that number."""
    for event in events:
        yield event
        if checkpoints is not None and isinstance(event, Checkpoint):
            checkpoints -= 1
            if not checkpoints:
                return


def test_a_teacher_that_is_gone_is_not_needed(data: Path, teacher: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(teacher, tmp_path / "own"))
    teach_vectors(data, str(own))
    shutil.rmtree(own)
    list(plan("distil", settings(data, teacher, teacher=str(own)), out=tmp_path / "run").events())
    assert (tmp_path / "run" / "report.html").exists()
    measured = {path.stem for path in (tmp_path / "run" / "evaluations").iterdir()}
    assert measured == {"random", "bm25", "untrained", "distil"}


def test_another_teacher_is_not_measured(data: Path, teacher: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(teacher, tmp_path / "own"))
    given = settings(data, teacher, teacher=str(own))
    run(tmp_path / "run", **given)
    shutil.rmtree(own)
    tiny_models.build(own, "mpnet")
    report(plan("distil", given, out=tmp_path / "run", resume=True))
    assert not (tmp_path / "run" / "evaluations" / "own.json").exists()
    assert (tmp_path / "run" / "evaluations" / "distil.json").exists()


def test_a_run_has_a_folder_of_its_own(data: Path, teacher: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(teacher, tmp_path / "copy"))
    for place, kind in ((model, "a model"), (data, "a dataset")):
        before = sorted(place.rglob("*"))
        with pytest.raises(InputError, match=f"{kind} is here"):
            run(place, **settings(data, teacher))
        assert sorted(place.rglob("*")) == before


def test_what_was_ended_before_its_first_step_is_resumed(data: Path, teacher: Path, tmp_path: Path) -> None:
    given = settings(data, teacher)
    run(tmp_path / "run", **given)
    ended = tmp_path / "ended"
    ended.mkdir()
    shutil.copy(tmp_path / "run" / "recipe.yaml", ended)
    shutil.copytree(teacher, ended / "untrained")  # of an attempt with other settings
    with pytest.raises(ResumeError, match="another recipe"):
        plan("distil", {**given, "seed": 5}, out=ended, resume=True)
    list(plan("distil", given, out=ended, resume=True, reported=False).events())
    assert equal(tmp_path / "run", ended)
    assert sha256_folder(ended / "untrained") == sha256_folder(tmp_path / "run" / "untrained")


def test_the_report_has_the_teacher_beside(data: Path, teacher: Path, tmp_path: Path) -> None:
    given = settings(data, teacher, **{"base": "teacher", "stages.0.epochs": 1, "stages.1.epochs": 1})
    list(plan("distil", given, out=tmp_path / "run").events())
    measured = {path.stem for path in (tmp_path / "run" / "evaluations").iterdir()}
    assert measured == {"random", "bm25", "teacher", "untrained", "distil"}


def test_similarities_are_the_teachers_own(data: Path, teacher: Path, tmp_path: Path) -> None:
    other = tiny_models.build(tmp_path / "dot", similarity_fn_name="dot")
    training = plan("distil", settings(data, teacher, teacher=str(other)), out=tmp_path / "run", reported=False)
    objective = training.stage(training.recipe.stages[1]).objective
    assert objective._teacher.similarity.__name__ == "dot"


def test_a_dry_run_encodes_nothing_by_the_teacher(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformerEncoder, "encode", None)
    told = forecast(plan("distil", settings(data, teacher, **{"data.limit": 32}), out=tmp_path / "run"))
    assert told["steps"]["align"] == 4


def test_another_teacher_is_another_run(data: Path, teacher: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(teacher, tmp_path / "own"))
    given = settings(data, teacher, teacher=str(own))
    for _ in _until(plan("distil", given, out=tmp_path / "run", reported=False).events(), 1):
        pass
    shutil.rmtree(own)
    tiny_models.build(own, "mpnet")
    with pytest.raises(ResumeError, match="the teacher is not"):
        list(plan("distil", given, out=tmp_path / "run", resume=True, reported=False).events())


@pytest.mark.parametrize("use", ["bag", "rnn"])
def test_a_tower_begins_with_its_teachers_words(use: str, data: Path, teacher: Path, tmp_path: Path) -> None:
    encoder = {"use": use, "init": "teacher"}
    events = run(tmp_path / "run", **settings(data, teacher, encoder=encoder))
    first = next(event for event in events if isinstance(event, Validation))
    assert first.geometry["teacher_documents"] > (0.3 if use == "bag" else -1)
    assert lode.load(tmp_path / "run").encode(["the cat"]).values.shape == (1, 32)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"teacher": None}, "add teacher=MODEL"),
        ({"stages.0.monitor": "teachers"}, "teachers"),
        ({"stages.0.objective.infonce": 1.0}, "pairs: none has none"),
        ({"stages.0.objective": {"use": "contrast"}}, "not for contrast"),
        ({"stages.0.objective": {"use": "mimic"}}, "no term has a weight"),
        ({"stages.1.objective.margin_mse": 1.0}, "set data.negatives=negatives"),
        ({"encoder": {"use": "projected"}}, "mimics nobody"),
        ({"stages.0.objective.mse": {"weight": 0}, "stages.0.objective.cosine": 0}, "no term has a weight"),
        ({"stages.0.objective.dimensions": [8]}, "whole vectors"),
        ({"stages.0.objective": {"use": "contrast"}, "stages.0.pairs": "judged", "stages.1": CONTRAST}, "no stage"),
        ({"base": "teacher", "teacher": None}, "the recipe has none"),
        ({"encoder": {"use": "bag", "init": "teacher"}, "teacher": None}, "the recipe has none"),
        ({"stages.0.objective.mse": {"weight": -1}}, "greater than or equal to 0"),
        ({"teacher": "nowhere/model"}, "nowhere/model"),
        ({"teacher": "minilm, minilm"}, "has one name twice"),
        ({"stages.1.objective.temperature": 0.0}, "stages.1.objective: the temperature must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    data: Path, teacher: Path, tmp_path: Path, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises((ConfigError, InputError)) as caught:
        run(tmp_path / "run", **settings(data, teacher, **wrong))
    assert said in f"{caught.value.what} {caught.value.do}"


def test_the_ceiling_is_of_texts_drawn_by_the_seed(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodesmith.recipes.targets.SAMPLE", 20)
    own = plan("distil", settings(data, teacher, seed=1), out=tmp_path / "run", reported=False).learner
    monkeypatch.setattr(own, "_native", lambda: 4)
    assert own.ceiling() == ceiling(own.targets.sample(1), 4) != ceiling(own.targets.sample(0), 4)


def test_pairs_of_texts_have_targets_of_their_own(data: Path, teacher: Path, tmp_path: Path) -> None:
    (data / "columns").mkdir(exist_ok=True)
    made = ({"document": f"d{at}", "text": f"asks for {at}", "kind": "title"} for at in range(40))
    (data / "columns" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    training = plan("distil", settings(data, teacher, **{"stages.0.pairs": "text"}), out=tmp_path / "run")
    own = training.learner
    batch = next(iter(own.batches(training.recipe.stages[0])))
    texts = [own.text_pairs.passages[number] for number in batch["document_ids"].tolist()]
    expected = TransformerEncoder(teacher).encode(texts, "document").values
    np.testing.assert_allclose(batch["document_targets"], expected, atol=2e-3)
