"""A whole training of base and projection over a tiny model: what is saved, resume to the bit, chunks, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from safetensors.numpy import load_file
from small_runs import equal, killed_is_whole, weights

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError
from lodesmith.recipes.learners import way
from lodesmith.recipes.recipe import Component, load
from lodesmith.recipes.train import Training, finished, forecast, plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")

FAST = [{"match": "*.base.*", "lr": 1e-3}]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def overrides(dataset: Path, model: Path, **more: object) -> dict[str, object]:
    return small_runs.overrides(dataset, model, **{"stages.0.epochs": 3, "stages.0.optim.groups": FAST, **more})


def trained(dataset: Path, model: Path, out: Path, **more: object) -> tuple[Training, list[events.Event]]:
    planned = plan("isotropic_full", overrides(dataset, model, **more), out=out, reported=False)
    assert isinstance(planned, Training)
    return planned, list(planned.events())


def test_what_is_saved_gives_the_vectors_that_training_ended_with(
    dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    long = {"stages.0.epochs": 12, "data.validation": None}
    training, happened = trained(dataset, tiny_model, tmp_path / "run", **long)
    losses = [e.total for e in happened if isinstance(e, events.Step)]
    assert losses[-1] < 0.8 * losses[0]
    rates = next(e.lr for e in happened if isinstance(e, events.Step))
    assert set(rates) == {"*.base.*", "default"}
    before, after = load_file(tiny_model / "model.safetensors"), load_file(tmp_path / "run/model/model.safetensors")
    assert not np.array_equal(
        before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"]
    )
    documents = lode.Dataset.load(dataset).documents
    texts = [document.content for document in documents.values()]
    expected = training.learner.documents()
    assert expected.ids == tuple(documents)
    saved = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    np.testing.assert_allclose(saved.encode(texts), expected.values, atol=2e-5)
    np.testing.assert_allclose(lode.load(tmp_path / "run").encode(texts).values, expected.values, atol=2e-5)
    assert finished(tmp_path / "run")
    assert not (tmp_path / "run" / "untrained").exists()


def test_queries_carry_their_prompt(dataset: Path, tmp_path: Path) -> None:
    import tiny_models

    folder = tiny_models.build(tmp_path / "prompted", prompts={"query": "the cat ", "document": ""})
    training = plan("isotropic_full", overrides(dataset, folder), out=tmp_path / "run")
    assert isinstance(training, Training)
    texts = {str(number): text for number, text in enumerate(tiny_models.TEXTS[1:4])}
    expected = training.learner.encoder.encode(list(texts.values()), "query").values  # type: ignore[attr-defined]
    np.testing.assert_allclose(training.learner.queries(texts).values, expected, atol=2e-5)
    other = training.learner.encoder.encode(list(texts.values()), "document").values  # type: ignore[attr-defined]
    assert np.abs(other - expected).max() > 1e-2


def test_same_recipe_same_bits_with_dropout(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained(dataset, tiny_model, tmp_path / name)
    assert equal(tmp_path / "a", tmp_path / "b")
    trained(dataset, tiny_model, tmp_path / "c", **{"encoder.base_dropout": 0.0})
    assert not equal(tmp_path / "a", tmp_path / "c")


_SCRIPT = """
import sys
from pathlib import Path
from lodesmith.recipes.train import plan

settings = {"data": sys.argv[1], "base": sys.argv[2], "stages.0.epochs": 8, "stages.0.batch_size": 16,
            "stages.0.checkpoint_every": 2, "stages.0.chunk": 10, "data.validation": None}
for event in plan("isotropic_full", settings, out=Path(sys.argv[3]), resume="auto", reported=False).events():
    print(type(event).__name__, event.step, flush=True)
"""


def test_stop_then_resume_gives_the_same_bits(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(dataset, tiny_model, **{"stages.0.checkpoint_every": 3, "stages.0.chunk": 10})
    list(lode.train("isotropic_full", out=tmp_path / "whole", **settings))
    seen = 0
    for event in lode.train("isotropic_full", out=tmp_path / "stopped", **settings):
        seen += isinstance(event, events.Checkpoint)
        if seen == 2:
            break
    assert not finished(tmp_path / "stopped")
    happened = list(lode.train("isotropic_full", out=tmp_path / "stopped", resume=True, **settings))
    assert any(isinstance(event, events.Resumed) and event.step > 0 for event in happened)
    assert equal(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_kill_then_resume_gives_the_same_bits(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    killed_is_whole(_SCRIPT, (str(dataset), str(tiny_model)), tmp_path, checkpoints=4, OMP_NUM_THREADS="1")


@pytest.mark.parametrize("objective", ["contrast", "triplet"])
def test_chunks_teach_what_whole_batches_teach(dataset: Path, tiny_model: Path, tmp_path: Path, objective: str) -> None:
    settings: dict[str, object] = {"encoder.base_dropout": 0.0, "data.validation": None}
    settings |= {"stages.0.objective": {"use": objective}, "stages.0.epochs": 1, "stages.0.optim.use": "sgd"}
    runs = [
        [e for e in trained(dataset, tiny_model, tmp_path / f"{chunk}", **settings, **more)[1] if e.step]
        for chunk, more in ((None, {}), (5, {"stages.0.chunk": 5}))
    ]
    whole, parts = ([e for e in run if isinstance(e, events.Step)] for run in runs)
    assert [e.total for e in parts] == pytest.approx([e.total for e in whole], rel=1e-5)
    assert [e.grad_norm for e in parts] == [pytest.approx(e.grad_norm, rel=1e-4) for e in whole]
    left, right = weights(tmp_path / "None"), weights(tmp_path / "5")
    for name, value in left.items():
        np.testing.assert_allclose(right[name], value, atol=1e-6)


def test_mined_negatives_reach_the_objective(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = lode.Dataset.load(dataset)
    wrong = list(data.documents)[-3:]
    with ColumnWriter(dataset, "negatives", "query", {}) as column:
        for query in column.missing(list(data.split("train"))):
            column.add(query, [{"ids": wrong, "scores": [1, 1, 1]}])
        column.finish()
    settings = {"data.negatives": "negatives", "data.negatives_each": 2, "stages.0.objective.negatives": "own"}
    training = plan("isotropic_full", overrides(dataset, tiny_model, **settings), out=tmp_path / "run")
    assert isinstance(training, Training)
    batch: dict[str, Any] = next(iter(training.learner.batches(training.recipe.stages[0])))
    rows = [list(data.documents).index(key) for key in wrong[:2]]
    assert set(batch["negative_ids"].flatten().tolist()) == set(rows)
    assert len(batch["negatives"]["offsets"]) == 2 * len(batch["query_ids"]) + 1
    happened = list(training.events())
    assert isinstance(happened[-1], events.Done)


def test_bfloat16_trains(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = {"engine.precision": "bfloat16", "stages.0.chunk": 8, "stages.0.epochs": 1, "data.validation": None}
    _, happened = trained(dataset, tiny_model, tmp_path / "run", **settings)
    assert all(np.isfinite(e.total) for e in happened if isinstance(e, events.Step))
    assert all(value.dtype == np.float32 for value in weights(tmp_path / "run").values())


def test_the_way_of_training_follows_from_the_encoder() -> None:
    assert way(Component(use="projected")) == "vectors"
    assert way(load("isotropic_full").encoder) == "texts"
    assert way(load("two_tower_bag").encoder) == "tokens"
    assert way(load("isotropic", ["encoder.freeze_base=false"]).encoder) == "texts"


def test_settings_that_do_not_fit_are_refused(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(dataset, tiny_model)
    with pytest.raises(ConfigError, match="only a recipe over a frozen base"):
        plan("isotropic_full", settings | {"stages.0.pool": 3}, out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"encoder\.freeze_layers"):
        plan("isotropic_full", settings | {"encoder.freeze_layers": "many"}, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="chunk"):
        plan("isotropic_full", settings | {"stages.0.chunk": 0}, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="the base has 2 layers"):
        trained(dataset, tiny_model, tmp_path / "y", **{"encoder.freeze_layers": 7})


def test_frozen_layers_end_as_they_began(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = {"encoder.freeze_layers": 1, "stages.0.epochs": 1, "data.validation": None}
    trained(dataset, tiny_model, tmp_path / "run", **settings)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(tmp_path / "run/model/model.safetensors")
    same = {name for name, value in before.items() if np.array_equal(value, after[name])}
    assert all((".layer.1." not in name) == (name in same) for name in before if "pooler" not in name)


def test_forecast_changes_nothing(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    training = plan("isotropic_full", overrides(dataset, tiny_model), out=tmp_path / "run")
    assert isinstance(training, Training)
    before = training.learner.encoder.fingerprint  # type: ignore[attr-defined]
    report = forecast(training)
    assert report["training_seconds"] > 0
    assert report["validation_seconds"] > 0
    assert report["trainable_parameters"] > 32 * 32
    assert training.learner.encoder.fingerprint == before  # type: ignore[attr-defined]
    assert all(parameter.grad is None for parameter in training.learner.encoder.parameters())  # type: ignore[attr-defined]
    assert not (tmp_path / "run").exists()


def test_metrics_name_the_groups(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    list(lode.train("isotropic_full", out=tmp_path / "run", **overrides(dataset, tiny_model)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert {"*.base.*", "default"} == set(steps[-1]["grad_norm"])
    assert all(value > 0 for value in steps[-1]["grad_norm"].values())
    assert (tmp_path / "run" / "report.html").exists()


def test_what_is_measured_of_a_run_is_its_own_base_and_not_the_one_that_it_began_with(
    tiny_model: Path, tmp_path: Path
) -> None:
    from lodesmith.recipes.systems import document_vectors, load_encoder

    folder, out = tiny_dataset(40).save(tmp_path / "data"), tmp_path / "out"
    moved = {"data.validation": None, "stages.0.optim.lr": 1e-2, "stages.0.optim.groups": [], "stages.0.epochs": 2}
    list(lode.train("isotropic_full", out=out, data=str(folder), base=str(tiny_model), **moved))
    documents = lode.Dataset.load(folder).documents
    encoder = load_encoder(str(out))
    fresh = encoder.encode([document.content for document in documents.values()]).values
    untrained = load_encoder(str(tiny_model)).encode([d.content for d in documents.values()]).values
    assert abs(fresh - untrained).max() > 0.01
    np.testing.assert_allclose(document_vectors(str(out), encoder, documents).values, fresh, atol=2e-6)
