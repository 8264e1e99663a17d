"""Recipes with engine.arrays=mlx: MLX computes the gradients, and all else is as in torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import equal, weights

import mlx_runs
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.core.events import Event
from lodesmith.recipes.recipe import load
from lodesmith.recipes.train import Training, forecast, plan
from lodesmith.testing import tiny_dataset

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")

pytestmark = pytest.mark.usefixtures("cache")

TOWERS = {"data.limit": 40, "vocabulary.min_count": 1, "stages.0.batch_size": 16, "stages.1.batch_size": 16}
TOWERS |= {"stages.0.epochs": 1, "stages.1.epochs": 4}
HEAD = {"data.limit": 40, "stages.0.batch_size": 16, "stages.0.epochs": 6, "stages.0.min_steps": 0}
BAG, RNN = TOWERS | {"encoder.dimension": 16}, TOWERS | {"encoder.words": 12, "encoder.hidden": 8}
MLP = {"encoder.kind": "mlp", "encoder.hidden": 16, "encoder.dropout": 0.0}
PAIR = {"document_encoder": {"use": "rnn", "words": 8, "hidden": 8}, "encoder.dimension": 16}
BATCH = {"encoder.predictor": True, "stages.0.objective.prediction": {"weight": 0.5}}
BATCH |= MLP | {"stages.0.objective.negatives": "batch"}
World = tuple[str, dict[str, Any], dict[str, Any]]
WORLDS: dict[str, World] = {
    "bag": ("two_tower_bag", BAG, {"encoder.dropout": 0.2}),
    "rnn": ("two_tower_rnn", RNN, {"encoder.dropout": 0.2, "encoder.layers": 2}),
    "pair": ("two_tower_bag", BAG | PAIR, {"encoder.dropout": 0.2}),
    "chunks": ("two_tower_rnn", RNN | {"stages.1.chunk": 5}, {"encoder.dropout": 0.2}),
    "residual": ("isotropic", HEAD, {}),
    "corpus": ("isotropic", HEAD | MLP, {"encoder.dropout": 0.2}),
    "batch": ("isotropic", HEAD | BATCH, {"encoder.dropout": 0.2}),
}
"""Name → recipe, its settings without dropout, and further ones with dropout."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(60).save(tmp_path / "tiny")


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, dataset: Path, tiny_model: Path) -> World:
    recipe, settings, noisy = WORLDS[request.param]
    base = {"base": str(tiny_model)} if recipe == "isotropic" else {}
    return recipe, {"data": str(dataset), **base, **settings}, noisy


def training(recipe: str, settings: dict[str, Any], out: Path, arrays: str = "mlx", **more: Any) -> Training:
    """A training; a run that is there is gone on with."""
    found = plan(recipe, settings | {"engine.arrays": arrays} | more, out=out, resume="auto", reported=False)
    assert isinstance(found, Training)
    return found


class Middle:
    """The second checkpoint, which is none of the end."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, event: Event) -> bool:
        self.seen += isinstance(event, events.Checkpoint)
        return self.seen == 2


def test_every_step_is_that_of_torch(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, settings, _ = world
    settings["data.validation"] = None
    theirs = mlx_runs.steps(training(recipe, settings, tmp_path / "torch", "torch"))
    calls, vjp = [], mx.vjp
    monkeypatch.setattr(mx, "vjp", lambda *given: calls.append(1) or vjp(*given))
    ours = mlx_runs.steps(training(recipe, settings, tmp_path / "mlx"))
    assert mlx_runs.close(ours, theirs, least=9)
    assert len(calls) >= len(ours)
    a, b = weights(tmp_path / "mlx"), weights(tmp_path / "torch")
    assert a.keys() == b.keys()
    for name, own in a.items():
        np.testing.assert_allclose(own, b[name], atol=2e-3)


def test_same_recipe_same_bits_broken_off_and_resumed_too(world: World, tmp_path: Path) -> None:
    recipe, settings, noisy = world
    settings |= noisy | {f"stages.{at}.checkpoint_every": 2 for at in range(1 + (recipe != "isotropic"))}
    whole = mlx_runs.steps(training(recipe, settings, tmp_path / "whole"))
    begun = mlx_runs.steps(training(recipe, settings, tmp_path / "parts"), Middle())
    mx.random.seed(99)
    rest = mlx_runs.steps(training(recipe, settings, tmp_path / "parts"))
    assert 0 < len(rest) < len(whole)
    assert begun == whole[: len(begun)]
    assert rest == whole[-len(rest) :]
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_either_goes_on_with_a_run_of_the_other(dataset: Path, tmp_path: Path) -> None:
    settings = {"data": str(dataset), **BAG, "data.validation": None, "stages.1.checkpoint_every": 2}
    whole = mlx_runs.steps(training("two_tower_bag", settings, tmp_path / "whole", "torch"))
    for first, second in (("torch", "mlx"), ("mlx", "torch")):
        mlx_runs.steps(training("two_tower_bag", settings, tmp_path / first, first), Middle())
        told: list[Event] = []
        planned = training("two_tower_bag", settings, tmp_path / first, second)
        rest = mlx_runs.steps(planned, lambda event, told=told: told.append(event))  # type: ignore[misc]
        assert mlx_runs.close(rest, whole[-len(rest) :], least=2)
        assert isinstance(told[1], events.Warning)
        assert f"resumed with engine.arrays {second}, begun with {first}" in told[1].message
        assert load(tmp_path / first / "recipe.yaml").engine.arrays == first


def test_the_fingerprint_is_that_of_the_experiment() -> None:
    plain = load("two_tower_bag", {"data": "some"})
    assert plain.engine.arrays == "torch"
    assert load("two_tower_bag", {"data": "some", "engine.arrays": "mlx"}).fingerprint == plain.fingerprint


def test_a_forecast_times_what_will_compute(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, vjp = [], mx.vjp
    monkeypatch.setattr(mx, "vjp", lambda *given: calls.append(1) or vjp(*given))
    planned = training("two_tower_bag", {"data": str(dataset), **BAG}, tmp_path / "run")
    assert forecast(planned)["training_seconds"] > 0
    assert calls
    assert planned.engine_settings["device"] == "cpu"


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        ("two_tower_bag", {"engine.precision": "bfloat16"}, "float32, not in bfloat16"),
        ("isotropic", {"engine.processes": 2}, "one process, not in 2"),
        ("isotropic", {"encoder.freeze_base": False}, "no projected whose base trains"),
        ("late", {}, "MLX trains no tokens"),
        ("distil", {"teacher": "minilm"}, "MLX trains no student"),
        ("clara", {"encoder.activation_checkpointing": True}, "MLX keeps what the backward pass needs"),
        ("two_tower_bag", {"document_encoder": {"use": "lodesmith.encoders.Bag"}}, "MLX trains no lodesmith"),
        ("two_tower_bag", {"engine.arrays": "jax"}, r"engine\.arrays"),
    ],
)
def test_what_mlx_cannot_do_is_refused(
    recipe: str, more: dict[str, Any], said: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        plan(recipe, {"data": str(dataset), "engine.arrays": "mlx", **more}, out=tmp_path / "run")
    assert caught.value.do
    assert not (tmp_path / "run").exists()


def test_processes_of_torchrun_are_refused_and_a_missing_extra_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"data": str(dataset), "engine.arrays": "mlx"}
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, not in 2"):
        plan("two_tower_bag", given, out=tmp_path / "run")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delitem(sys.modules, "lodesmith.encoders._mlx_through", raising=False)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lodesmith\[mlx\]'"):
        plan("two_tower_bag", given, out=tmp_path / "run")
