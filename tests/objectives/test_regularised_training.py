"""Regularised trainings: what a resume brings back, and what a recipe gives the objective."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.data.batching import PairBatches
from lodesmith.objectives.contrast import Contrast
from lodesmith.testing import tiny_dataset
from lodesmith.training import OptimSettings, Stage, fit, read_metrics
from lodesmith.training.engine import TorchEngine

STEPS = 18
"""Of six batches an epoch; the schedules end after 14."""
SETTINGS: dict[str, Any] = {
    "sigreg": {"weight": 0.02, "begin": 0.5, "steps": 14, "directions": 16},
    "gor": {"weight": 1.0, "begin": 0.0, "steps": 14, "schedule": "cosine"},
    "seed": 7,
}


def stage(**settings: Any) -> Stage:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((60, 8)).astype(np.float32)
    pairs = np.stack([rng.permutation(96) % 60, rng.permutation(96) % 60], 1)
    batches = PairBatches(pairs, queries, queries + rng.standard_normal((60, 8)).astype(np.float32), batch_size=16)
    torch.manual_seed(1)
    objective = Contrast(nn.Linear(8, 8), predictor=nn.Linear(8, 8), **{**SETTINGS, **settings})
    optim = OptimSettings(lr=0.01)
    return Stage(name="s", objective=objective, batches=batches, steps=STEPS, optim=optim, checkpoint_every=4)


def run(plan: Stage, folder: Path, resume: bool = False) -> Iterator[Event]:
    return fit(
        [plan],
        engine=TorchEngine(seed=3, device="cpu"),
        checkpoints=folder / "c",
        resume=resume,
        recipe={},
        log_every=1,
    )


def told(happened: list[Event]) -> list[tuple[Any, ...]]:
    steps = [event for event in happened if isinstance(event, events.Step)]
    return [(event.step, dict(event.terms), event.total, dict(event.weights)) for event in steps]


def state(plan: Stage) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in plan.objective.state_dict().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[Any, ...]], dict[str, bytes]]:
    """What a training tells that nothing disturbs, and how it ends."""
    plan = stage()
    return told(list(run(plan, tmp_path_factory.mktemp("whole")))), state(plan)


def test_the_schedule_goes_by_steps_and_the_weights_are_told(whole: Any) -> None:
    weights = [row[3] for row in whole[0]]
    assert [row["sigreg"] for row in weights] == pytest.approx([max(0.02, 0.5 - 0.48 * i / 14) for i in range(STEPS)])
    assert weights[0]["gor"] == 0.0
    assert weights[-1]["gor"] == 1.0
    for _, terms, total, weight in whole[0]:
        assert terms.keys() == weight.keys() == {"infonce", "sigreg", "gor", "prediction"}
        assert total == pytest.approx(sum(weight[name] * terms[name] for name in terms), rel=1e-5)
    assert int.from_bytes(whole[1]["regularisers.step"], "little") == STEPS


@pytest.mark.parametrize("after", [5, 9, 15])
def test_a_broken_training_resumes_to_the_same_bits(whole: Any, tmp_path: Path, after: int) -> None:
    before = []
    for event in run(stage(), tmp_path):
        before.append(event)
        if event.step >= after and isinstance(event, events.Step):
            break
    plan = stage()
    later = list(run(plan, tmp_path, resume=True))
    assert any(isinstance(event, events.Resumed) and 0 < event.step <= after for event in later)
    assert state(plan) == whole[1]
    expected = {row[0]: row for row in whole[0]}
    assert all(row == expected[row[0]] for row in told(before) + told(later))


def test_another_seed_or_weight_trains_otherwise(whole: Any, tmp_path: Path) -> None:
    for name, settings in {"seed": {"seed": 8}, "weight": {"gor": {"weight": 0.5}}}.items():
        plan = stage(**settings)
        list(run(plan, tmp_path / name))
        assert state(plan)["encoder.weight"] != whole[1]["encoder.weight"]


# ------------------------------------------------------------------------ by a recipe


@pytest.mark.usefixtures("cache")
def test_a_recipe_regularises_by_its_own_seed_and_validates_without(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Contrast] = []
    begin = Contrast.__init__

    @functools.wraps(begin)
    def noted(self: Contrast, *given: Any, **settings: Any) -> None:
        begin(self, *given, **settings)
        made.append(self)

    monkeypatch.setattr(Contrast, "__init__", noted)
    out, data = tmp_path / "run", tiny_dataset(120).save(tmp_path / "tiny")
    settings = {
        "data": str(data),
        "base": str(tiny_model),
        "seed": 5,
        "stages.0.batch_size": 16,
        "stages.0.epochs": 1,
        "encoder.predictor": True,
        "stages.0.objective.sigreg.weight": 0.1,
    }
    list(lode.train("isotropic", out=out, **settings))
    trained = next(objective for objective in made if not isinstance(objective.encoder, nn.Identity))
    assert trained.regularisers.seed == 5
    assert len(made) > 1
    rows = read_metrics(out / "metrics.jsonl")
    steps = [row for row in rows if row["event"] == "step"]
    assert steps[-1]["terms"].keys() == {"infonce", "sigreg", "prediction"}
    assert steps[-1]["weights"] == {"infonce": 1.0, "sigreg": 0.1, "prediction": 1.0}
    validated = next(row["measures"]["loss"] for row in rows if row["event"] == "validation")
    plain = tmp_path / "plain"
    list(lode.train("isotropic", out=plain, **{**settings, "stages.0.objective.sigreg.weight": 0}))
    first = next(row for row in read_metrics(plain / "metrics.jsonl") if row["event"] == "validation")
    assert first["measures"]["loss"] == validated
    names = [file.name for file in (out / "model").rglob("*.safetensors")]
    assert names.count("model.safetensors") == 2
