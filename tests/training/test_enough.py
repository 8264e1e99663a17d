"""A stage that ends once its measure is good enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import batches, encoder

from lodesmith.core import events
from lodesmith.core.errors import ConfigError, ResumeError
from lodesmith.core.events import Event
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine, seed_everything

EPOCH = 6


class Scores:
    """What each validation finds, one after another; the last one ever after."""

    def __init__(self, *values: float) -> None:
        self.values, self.asked = values, 0

    def __call__(self) -> Mapping[str, float]:
        self.asked += 1
        return {"quality": self.values[min(self.asked, len(self.values)) - 1]}


def stage(validate: Callable[[], Mapping[str, float]] | None, **settings: Any) -> Stage:
    seed_everything(7)
    own = {"name": "s", "epochs": 5, "monitor": "quality", "optim": OptimSettings(lr=0.01)} | settings
    return Stage(objective=Contrast(encoder()), batches=batches(), validate=validate, **own)


def run(plan: list[Stage], folder: Path | None = None, resume: bool = False) -> Iterator[Event]:
    torch.set_num_threads(1)
    return fit(plan, engine=TorchEngine(seed=5, device="cpu"), checkpoints=folder, resume=resume, recipe={})


def ended(happened: list[Event]) -> events.Done:
    done = happened[-1]
    assert isinstance(done, events.Done)
    return done


@pytest.mark.parametrize(
    ("values", "enough", "higher", "steps"),
    [
        ((0.2, 0.5, 0.9, 1.0), 0.9, True, 3 * EPOCH),  # reached to the digit
        ((0.2, 0.95, 0.1, 1.0), 0.9, True, 2 * EPOCH),
        ((3.0, 2.0, 0.5, 0.1), 1.0, False, 3 * EPOCH),
        ((0.5, 2.0, 3.0, 0.1), 1.0, False, EPOCH),
    ],
)
def test_it_stops_at_the_validation_that_reaches_it(
    values: tuple[float, ...], enough: float, higher: bool, steps: int
) -> None:
    scores = Scores(*values)
    happened = list(run([stage(scores, enough=enough, higher=higher)]))
    done = ended(happened)
    assert done.step == steps
    assert scores.asked == steps // EPOCH
    assert done.reason == "quality is enough"
    told = [event.step for event in happened if isinstance(event, events.Step)]
    assert told[-1] == steps  # what was learned since the last report is told
    assert not any(isinstance(event, events.Warning) and "ended before" in event.message for event in happened)


def test_a_model_that_is_good_enough_takes_no_step() -> None:
    happened = list(run([stage(Scores(0.9), enough=0.9, validate_first=True), stage(Scores(0.1), name="t", epochs=1)]))
    assert {(event.stage, event.step) for event in happened if isinstance(event, events.Validation)} == {
        ("s", 0),
        ("t", EPOCH),
    }
    assert ended(happened).reason == "complete"  # which is of the last stage


def test_what_is_not_reached_is_told() -> None:
    happened = list(run([stage(Scores(0.1, 0.3, 0.2), enough=0.9, epochs=3)]))
    assert ended(happened).step == 3 * EPOCH
    (told,) = [event for event in happened if isinstance(event, events.Warning) and "ended before" in event.message]
    assert told.message == "stage s ended before quality was 0.9: its best is 0.3"
    assert told.cure
    assert ended(happened).reason.startswith("complete; the weights of step 12")


def test_patience_may_end_it_first() -> None:
    reason = ended(list(run([stage(Scores(0.5, 0.4, 0.4, 1.0), enough=0.9, patience=2)]))).reason
    assert "has not become better for 2 validations" in reason


def test_what_is_no_number_is_not_enough() -> None:
    happened = list(run([stage(Scores(float("inf"), float("nan")), enough=0.9, epochs=2)]))
    assert ended(happened).step == 2 * EPOCH


def weights(plan: list[Stage]) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in plan[0].objective.parameters()]


@pytest.mark.parametrize("at", [EPOCH, 2 * EPOCH, 3 * EPOCH])
def test_a_resume_ends_at_the_same_step_with_the_same_bits(tmp_path: Path, at: int) -> None:
    def plan() -> list[Stage]:
        made: list[Stage] = []

        def measured() -> Mapping[str, float]:  # of the weights alone, as a validation is
            return {"quality": float(made[0].objective.encoder[0].weight.detach().sub(begun).abs().max())}

        made.append(stage(measured, enough=0.12, epochs=9))
        begun = made[0].objective.encoder[0].weight.detach().clone()
        return made

    whole = plan()
    done = ended(list(run(whole, tmp_path / "whole")))
    assert done.reason == "quality is enough"
    assert 2 * EPOCH < done.step < 9 * EPOCH
    for event in run(plan(), tmp_path / "broken"):
        if isinstance(event, events.Checkpoint) and event.step == at:
            break
    again = plan()
    happened = list(run(again, tmp_path / "broken", resume=True))
    assert isinstance(happened[0], events.Resumed)
    assert (ended(happened).step, ended(happened).reason) == (done.step, done.reason)
    assert weights(again) == weights(whole)


def test_it_is_part_of_the_identity_where_it_is_given(tmp_path: Path) -> None:
    plain = stage(Scores(0.1))
    assert set(plain.settings) == {
        "name",
        "epochs",
        "steps",
        "validate_every",
        "validate_first",
        "monitor",
        "higher",
        "patience",
        "optim",
    }  # as it was before there was any, or older trainings could not be gone on with
    assert stage(Scores(0.1), enough=0.5).settings == plain.settings | {"enough": 0.5}
    for event in run([stage(Scores(0.1), enough=0.5)], tmp_path):
        if isinstance(event, events.Checkpoint):
            break
    with pytest.raises(ResumeError):
        list(run([stage(Scores(0.1), enough=0.6)], tmp_path, resume=True))


def test_it_needs_something_to_compare() -> None:
    with pytest.raises(ConfigError, match="has enough but monitors nothing"):
        stage(Scores(0.1), enough=0.5, monitor=None)
    with pytest.raises(ConfigError, match="has no validation"):
        stage(None, enough=0.5)
    assert not stage(Scores(0.1)).is_enough(1.0)
    assert not stage(Scores(0.1), enough=0.5).is_enough(None)


@pytest.mark.parametrize("use", ["adamw", "adam", "sgd"])
def test_a_step_shows_in_the_version_of_what_it_moves(use: Any) -> None:
    plan = stage(None, monitor=None, epochs=1, optim=OptimSettings(use=use, lr=0.01))
    before = [parameter._version for parameter in plan.objective.parameters()]
    list(run([plan]))
    after = [parameter._version for parameter in plan.objective.parameters()]
    assert all(new >= old + EPOCH for new, old in zip(after, before, strict=True))
