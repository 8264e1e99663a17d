"""Every setting of a tower's training can be reached through its recipe, and does there what it says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError
from lodesmith.core.events import Event
from lodesmith.recipes.doctoring import doctor
from lodesmith.recipes.train import Training, plan
from lodesmith.testing import tiny_dataset
from lodesmith.training.health import StoppedError

pytestmark = pytest.mark.usefixtures("cache")

SMALL = {
    "two_tower_bag": {"encoder.dimension": 8},
    "two_tower_rnn": {"encoder.words": 8, "encoder.hidden": 6},
}
LEAKY = '''
import torch
from lodesmith.data.text_batches import pad
from lodesmith.encoders import Bag

class Leaky(Bag):
    """A mean over all places of the batch, those of padding among them."""

    def forward(self, packed):
        ids = pad(packed)["input_ids"]
        return (self.embedding(ids) + 0.1).mean(1)
'''


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(60).save(tmp_path / "tiny")


def planned(recipe: str, dataset: Path, out: Path, **more: Any) -> Training:
    """Two short stages, of 1 and 2 epochs."""
    short = {"stages.0.epochs": 1, "stages.1.epochs": 2, "stages.0.batch_size": 16, "stages.1.batch_size": 16}
    settings = {"data": str(dataset), "vocabulary.min_count": 1} | short | SMALL[recipe] | more
    made = plan(recipe, settings, out=out, reported=False)
    assert isinstance(made, Training)
    return made


def trained(recipe: str, dataset: Path, out: Path, **more: Any) -> list[Event]:
    """Without validation the last weights stay, also where the first were better."""
    return list(planned(recipe, dataset, out, **({"data.validation": None} | more)).events())


def steps(happened: Sequence[Event], stage: str) -> list[events.Step]:
    return [event for event in happened if isinstance(event, events.Step) and event.stage == stage]


def moved(run: Path) -> bool:
    """Whether the vector of a text is another after training."""
    text = ["The cat eats apples."]
    before, after = (lode.load(run / name).encode(text).values for name in ("untrained", "model"))
    return bool(np.isfinite(after).all()) and not np.allclose(before, after, atol=1e-3)


# ------------------------------------------------------------------------ towers


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    "own",
    [
        {"layers": 1, "bidirectional": False, "dropout": 0.3, "pooling": "last"},
        {"layers": 2, "bidirectional": True, "dropout": 0.2, "pooling": "mean", "dimension": 5},
        {"layers": 2, "bidirectional": False, "dropout": 0.0, "pooling": "max"},
    ],
)
def test_every_recurrent_tower_is_trained_and_loads_as_it_was(
    cell: str, own: dict[str, Any], dataset: Path, tmp_path: Path
) -> None:
    settings = {"cell": cell, **own}
    trained("two_tower_rnn", dataset, tmp_path / "run", **{f"encoder.{k}": v for k, v in settings.items()})
    found = lode.load(tmp_path / "run").settings  # type: ignore[attr-defined]
    assert {name: found[name] for name in settings} == settings
    assert moved(tmp_path / "run")


@pytest.mark.parametrize("weights", ["uniform", "idf", "learned"])
@pytest.mark.parametrize("separate", [False, True])
def test_every_bag_is_trained(weights: str, separate: bool, dataset: Path, tmp_path: Path) -> None:
    other = {"document_encoder": {"use": "rnn", "words": 8, "hidden": 4}} if separate else {}
    trained("two_tower_bag", dataset, tmp_path / "run", **{"encoder.weights": weights, **other})
    encoder: Any = lode.load(tmp_path / "run")
    bag = encoder.query if separate else encoder
    assert type(encoder).__name__ == ("TowerPair" if separate else "Bag")
    drawn: Any = lode.load(tmp_path / "run" / "untrained")
    assert not torch.equal(bag.embedding.weight, (drawn.query if separate else drawn).embedding.weight)
    assert moved(tmp_path / "run")


def test_a_frozen_base_has_no_second_tower(dataset: Path, tmp_path: Path) -> None:
    for recipe, wrong in (("isotropic", "projected"), ("two_tower_bag", "projected")):
        settings = {"data": str(dataset), "document_encoder": {"use": wrong if recipe != "isotropic" else "bag"}}
        with pytest.raises(ConfigError, match=f"document_encoder: '{wrong}' has no tower of its own"):
            plan(recipe, settings, out=tmp_path / "run")


# ------------------------------------------------------------------------ training


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("negatives", ["random", "mined", "batch_all", "batch_hard", "semi_hard"])
def test_every_triplet_is_trained(similarity: str, negatives: str, dataset: Path, tmp_path: Path) -> None:
    with ColumnWriter(dataset, "negatives", "query", {}) as column:
        for query in column.missing(list(lode.Dataset.load(dataset).split("train"))):
            column.add(query, [{"ids": [f"d{number}" for number in range(9)], "scores": [1.0] * 9}])
        column.finish()
    settings: dict[str, Any] = {f"stages.{n}.objective.similarity": similarity for n in (0, 1)}
    settings |= {
        "stages.0.objective.negatives": negatives,
        "stages.0.epochs": 6,
        "stages.0.optim.lr": 0.02,
        "data.negatives_each": 9,
    }
    happened = trained("two_tower_bag", dataset, tmp_path / "run", **settings, **{"data.negatives": "negatives"})
    first, *_, last = [step.total for step in steps(happened, "triplet")]
    assert last < first
    assert lode.load(tmp_path / "run").metric == similarity


@pytest.mark.parametrize(("use", "schedule"), [("adamw", "cosine"), ("adam", "linear"), ("sgd", "constant")])
def test_optimisers_and_schedules(use: str, schedule: str, dataset: Path, tmp_path: Path) -> None:
    own = {"use": use, "schedule": schedule, "warmup": 0.0, "lr": 0.05, "clip": 0.5}
    settings = {f"stages.1.optim.{name}": value for name, value in own.items()}
    happened = trained("two_tower_bag", dataset, tmp_path / "run", **settings, **{"stages.1.epochs": 12})
    rates = [step.lr["default"] for step in steps(happened, "contrast")]
    assert (rates == [0.05] * len(rates)) if schedule == "constant" else rates == sorted(set(rates), reverse=True)
    assert moved(tmp_path / "run")


def test_a_plateau_lowers_the_rate_where_validation_stands_still(dataset: Path, tmp_path: Path) -> None:
    own = {"schedule": "plateau", "plateau": {"patience": 1, "factor": 0.5}, "lr": 1e-9, "warmup": 0.0}
    settings: dict[str, Any] = {f"stages.1.optim.{name}": value for name, value in own.items()}
    settings |= {"stages.1.batch_size": 4, "stages.1.epochs": 4, "data.validation": "dev"}
    happened = trained("two_tower_bag", dataset, tmp_path / "run", **settings)
    rates = [step.lr["default"] for step in steps(happened, "contrast")]
    assert rates[0] == 1e-9
    assert rates[-1] <= 0.25e-9


@pytest.mark.parametrize("recipe", sorted(SMALL))
def test_mixed_precision(recipe: str, dataset: Path, tmp_path: Path) -> None:
    smooth = {"stages.0.objective.negatives": "random"}  # semi-hard ones are others where rounding decides
    totals = {}
    for precision in ("float32", "bfloat16"):
        happened = trained(recipe, dataset, tmp_path / precision, **{"engine.precision": precision}, **smooth)
        totals[precision] = [step.total for step in steps(happened, "triplet") + steps(happened, "contrast")]
        encoder: Any = lode.load(tmp_path / precision)
        assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
        assert moved(tmp_path / precision)
    # Scores are float32 in either case, and towers have no product of matrices of autocast's own.
    assert totals["bfloat16"] == pytest.approx(totals["float32"], rel=0.05)


def test_several_trackers_at_once(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb"):
        pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    happened = trained("two_tower_bag", dataset, run, tracking=["tensorboard", "wandb"])
    assert not [event for event in happened if isinstance(event, events.Warning) and "tracking" in event.message]
    assert list((run / "tracking" / "tensorboard").glob("events.out.tfevents.*"))
    assert list((run / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"))


# ------------------------------------------------------------------------ validation and health


def test_the_loss_on_validation_is_that_of_the_objective(dataset: Path, tmp_path: Path) -> None:
    training = planned("two_tower_bag", dataset, tmp_path / "run", **{"stages.1.batch_size": 1000})
    happened = list(training.events())
    told = [event for event in happened if isinstance(event, events.Validation)]
    assert all(event.measures["loss"] > 0 for event in told)
    best = next(event for event in reversed(told) if event.best and event.stage == "contrast")
    pairs = [(q, d) for q, own in training.pairs.validation.items() for d in own]
    encoder = lode.load(tmp_path / "run")
    queries = encoder.encode([training.dataset.queries[q].content for q, _ in pairs], "query").values
    documents = encoder.encode([training.dataset.documents[d].content for _, d in pairs]).values
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, documents)]
    logits = (unit[0] @ unit[1].T) / 0.05
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert len({document for _, document in pairs}) == len(pairs)  # nothing is masked
    assert best.measures["loss"] == pytest.approx(expected, rel=1e-4)


def test_an_objective_of_mined_negatives_alone_has_no_loss_without_them(dataset: Path, tmp_path: Path) -> None:
    from lodesmith.recipes.validating import Validating

    settings = {"stages.0.objective.negatives": "mined", "stages.1.objective.negatives": "own"}
    settings["data.negatives"] = "negatives"
    training = planned("two_tower_bag", dataset, tmp_path / "run", **settings)
    for stage in training.recipe.stages:
        found = Validating(training.recipe, stage, training.dataset, training.pairs, training.learner)()
        assert "loss" not in found
        assert "nDCG@10" in found


def test_a_tower_that_padding_moves_is_told_before_the_first_step(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaky_tower.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(str(tmp_path))
    own: dict[str, Any] = {"encoder.use": "leaky_tower.Leaky", "encoder.weights": "uniform"}
    try:
        with pytest.raises(StoppedError, match="stopped at step 0 by pad_leak"):
            trained("two_tower_bag", dataset, tmp_path / "run", stop_on=["pad_leak"], **own)
    finally:
        sys.modules.pop("leaky_tower", None)
    report = doctor(str(tmp_path / "run"))
    assert [problem["cause"] for problem in report.to_json()["problems"]] == ["pad_leak"]
    happened = trained("two_tower_bag", dataset, tmp_path / "right", stop_on=["pad_leak"])
    assert isinstance(happened[-1], events.Done)
