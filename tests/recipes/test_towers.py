"""The recipes of towers: they learn from scratch, end in a standard model folder, and resume to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from small_runs import equal, weights

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.recipes.train import forecast, plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")

SMALL = {
    "two_tower_bag": {"encoder.dimension": 16},
    "two_tower_rnn": {"encoder.words": 12, "encoder.hidden": 8},
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


@pytest.fixture(params=sorted(SMALL))
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Queries in words that no document has: without training, nothing is found but by chance."""
    dataset = tiny_dataset(120)
    for key, query in dataset.queries.items():
        dataset.queries[key] = replace(query, text=" ".join(word[::-1] for word in query.text.strip("?").split()))
    return dataset.save(tmp_path / "foreign")


def overrides(dataset: Path, recipe: str, **more: object) -> dict[str, object]:
    short = {"stages.0.epochs": 1, "stages.1.epochs": 3, "stages.0.batch_size": 16, "stages.1.batch_size": 16}
    return {"data": str(dataset), "vocabulary.min_count": 1} | short | SMALL[recipe] | more


def test_it_learns_and_its_run_can_be_evaluated(foreign: Path, recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    happened = list(lode.train(recipe, out=out, **overrides(foreign, recipe, **{"stages.1.epochs": 12})))
    validations = [e.measures["nDCG@10"] for e in happened if isinstance(e, events.Validation)]
    assert max(validations) > validations[0] + 0.1
    assert isinstance(happened[-1], events.Done)
    systems = {e.system: e for e in map(lode.Evaluation.load, sorted((out / "evaluations").glob("*.json")))}
    assert set(systems) == {"random", "bm25", "untrained", recipe}
    again = lode.evaluate(str(out), foreign)
    assert again.per_query == systems[recipe].per_query
    assert again.cost["parameters"] > 0


def test_sentence_transformers_gives_the_same_vectors(dataset: Path, recipe: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    list(lode.train(recipe, out=tmp_path / "run", **overrides(dataset, recipe)))
    texts = ["The cat eats apples.", "The owl", "nothing known zzz apples"]
    ours = lode.load(tmp_path / "run").encode(texts).values
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(model.encode(texts), ours, atol=1e-5)


def test_stopped_and_resumed_it_is_the_same(dataset: Path, recipe: str, tmp_path: Path) -> None:
    settings = overrides(dataset, recipe, **{"stages.1.checkpoint_every": 2})
    list(lode.train(recipe, out=tmp_path / "whole", **settings))
    for _ in range(2):
        list(islice(plan(recipe, settings, out=tmp_path / "parts", resume="auto", reported=False).events(), 7))
    list(plan(recipe, settings, out=tmp_path / "parts", resume=True, reported=False).events())
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_towers_of_their_own_for_each_side(dataset: Path, tmp_path: Path) -> None:
    settings = overrides(dataset, "two_tower_bag", document_encoder={"use": "bag", "dimension": 16})
    list(lode.train("two_tower_bag", out=tmp_path / "run", **settings))
    encoder = lode.load(tmp_path / "run")
    sides = [encoder.encode(["The cat eats apples."], side=side).values for side in ("query", "document")]
    assert not np.allclose(*sides)


def test_mined_negatives_reach_the_objective(dataset: Path, tmp_path: Path) -> None:
    from lodesmith.core.columns import ColumnWriter

    queries = list(lode.Dataset.load(dataset).split("train"))
    settings = {"data.negatives": "negatives", "data.negatives_each": 2}
    with pytest.raises(InputError, match="no such column"):
        list(lode.train("two_tower_bag", out=tmp_path / "a", **overrides(dataset, "two_tower_bag", **settings)))
    with ColumnWriter(dataset, "negatives", "query", {}) as column:
        for query in column.missing(queries):
            column.add(query, [{"ids": ["d1", "d2", "d3", "unknown"], "scores": [1, 1, 1, 1]}])
        column.finish()
    training = plan("two_tower_bag", overrides(dataset, "two_tower_bag", **settings), out=tmp_path / "b")
    batch = next(iter(training.learner.batches(training.recipe.stages[1])))
    rows = [list(training.dataset.documents).index(key) for key in ("d1", "d2")]
    assert set(batch["negative_ids"].flatten().tolist()) <= {*rows, -1}
    assert batch["negative_ids"].shape[1] == 2


def test_forecast_and_settings_that_cannot_be(dataset: Path, tmp_path: Path) -> None:
    training = plan("two_tower_bag", overrides(dataset, "two_tower_bag"), out=tmp_path / "run")
    report = forecast(training)
    assert report["trainable_parameters"] == report["vocabulary"] * 17
    assert report["training_seconds"] > 0
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="dimnsion"):
        plan("two_tower_bag", overrides(dataset, "two_tower_bag", **{"encoder.dimnsion": 3}), out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"stages\.1\.pool"):
        plan("two_tower_bag", overrides(dataset, "two_tower_bag", **{"stages.1.pool": 5}), out=tmp_path / "y")


def test_metrics_say_the_terms_by_name(dataset: Path, tmp_path: Path) -> None:
    list(lode.train("two_tower_bag", out=tmp_path / "run", **overrides(dataset, "two_tower_bag")))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    terms = {name for line in lines for name in line["terms"]}
    assert terms == {"triplet", "active", "infonce"}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigkill_in_the_second_epoch_and_resume_give_the_same_bits(ranks: int, dataset: Path, tmp_path: Path) -> None:
    long = {"stages.0.epochs": 1, "stages.1.epochs": 8, "stages.1.batch_size": 8, "stages.1.checkpoint_every": 3}
    settings = [f"{key}={value}" for key, value in overrides(dataset, "two_tower_bag", **long).items()]
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, "-m", "lodesmith.cli.main", "train", "two_tower_bag", *settings, "--out"]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], env=environment, capture_output=True, check=True, timeout=280)
    process = subprocess.Popen([*command, str(killed)], env=environment, stderr=subprocess.DEVNULL)
    try:
        metrics = killed / "metrics.jsonl"
        while not (metrics.exists() and '"epoch": 2, "stage": "contrast"' in metrics.read_text()):
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        launched = psutil.Process(process.pid)
        for own in [*launched.children(recursive=True), launched]:
            own.kill()
        process.wait()
    assert not (killed / "model").exists()
    subprocess.run([*command, str(killed), "--resume"], env=environment, capture_output=True, check=True, timeout=280)
    assert equal(whole, killed)


@pytest.mark.slow
def test_two_processes_train_as_one(dataset: Path, tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in overrides(dataset, "two_tower_bag").items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    for ranks in ("1", "2"):
        verb = ["-m", "lodesmith.cli.main", "train", "two_tower_bag", *settings, "--out", str(tmp_path / ranks)]
        done = subprocess.run([*launcher, ranks, *verb], env=environment, capture_output=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    one, two = ((tmp_path / ranks / "metrics.jsonl").read_text().splitlines() for ranks in ("1", "2"))
    assert len(one) == len(two)  # written by one process
    for left, right in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert (left["event"], left["step"]) == (right["event"], right["step"])
        if left["event"] == "step":
            exact = 1e-5 if left["step"] <= 10 else 1e-4  # sums in another order drift apart from step to step
            assert right["total"] == pytest.approx(left["total"], abs=exact)
    a, b = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all(np.allclose(a[name], b[name], atol=1e-3) for name in a)
