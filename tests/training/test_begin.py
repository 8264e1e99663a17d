"""An objective's `begin` comes once at the start of its stage, wherever the training was broken off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_training import batches, encoder

from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine, seed_everything

EPOCHS = 2
STEPS = 6 * EPOCHS
"""Of each of the two stages."""


class Copying(Contrast):
    """Its query tower begins as a copy of the document tower, and draws a number."""

    calls = 0

    def begin(self) -> None:
        """Copy, and shift by noise, which is the same noise whenever the stage begins."""
        self.calls += 1
        assert self.document_encoder is not None
        with torch.no_grad():
            self.encoder.load_state_dict(self.document_encoder.state_dict())
            self.encoder[0].bias.add_(torch.randn(16))  # type: ignore[index,union-attr,operator]


def stages() -> list[Stage]:
    """The towers of the first stage train apart; the second stage begins with one copied."""
    seed_everything(2)
    asking, read = encoder(), encoder()
    second = Copying(asking, read)

    def validate() -> Mapping[str, float]:
        return {"begun": float(second.calls > 0)}

    optim = OptimSettings(lr=0.01)
    first = Stage(name="one", objective=Contrast(asking, read), batches=batches(), epochs=EPOCHS, optim=optim)
    return [
        first,
        Stage(
            name="two",
            objective=second,
            batches=batches(seed=4),
            epochs=EPOCHS,
            optim=optim,
            validate=validate,
            validate_first=True,
        ),
    ]


def run(folder: Path, plan: list[Stage], resume: bool = False) -> Iterator[Event]:
    torch.set_num_threads(1)
    return fit(
        plan, engine=TorchEngine(seed=5, device="cpu"), checkpoints=folder / "c", resume=resume, recipe={}, log_every=1
    )


def weights(plan: list[Stage]) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in plan[1].objective.parameters()]


def calls(plan: list[Stage]) -> int:
    objective = plan[1].objective
    assert isinstance(objective, Copying)
    return objective.calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    plan = stages()
    happened = list(run(tmp_path_factory.mktemp("begin"), plan))
    assert calls(plan) == 1
    told = [event.measures["begun"] for event in happened if isinstance(event, events.Validation)]
    assert told == [1.0] * (1 + EPOCHS)
    return weights(plan)


@pytest.mark.parametrize(
    ("step", "begun"),
    [
        (8, 1),  # in the first stage: the second begins after the resume
        (STEPS, 1),  # between the stages, before the second begins
        (STEPS + 1, 1),  # after its first step, of which no checkpoint was written: it begins again
        (STEPS + 6, 0),  # after its first epoch's checkpoint
    ],
)
def test_a_resume_begins_a_stage_that_has_no_step_yet(
    whole: list[bytes], tmp_path: Path, step: int, begun: int
) -> None:
    wanted = events.Checkpoint if step % 6 == 0 else events.Step
    for event in run(tmp_path, stages()):
        if event.step >= step and isinstance(event, wanted):
            break
    plan = stages()
    happened = list(run(tmp_path, plan, resume=True))
    assert isinstance(happened[0], events.Resumed)
    assert calls(plan) == begun
    assert weights(plan) == whole


def test_killed_at_the_border_it_ends_with_the_same_bits(whole: list[bytes], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    dead = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=False)
    assert dead.returncode == -signal.SIGKILL
    plan = stages()
    happened = list(run(tmp_path, plan, resume=True))
    assert isinstance(happened[0], events.Resumed)
    assert happened[0].step == STEPS
    assert calls(plan) == 1
    assert weights(plan) == whole


def test_objectives_without_it_train_as_before() -> None:
    objective: Any = Contrast(nn.Linear(8, 8))
    assert not hasattr(objective, "begin")
    plan = Stage(name="s", objective=objective, batches=batches(), steps=1)
    assert isinstance(list(fit([plan], engine=TorchEngine(device="cpu")))[-1], events.Done)


def main(folder: str) -> None:
    """Train, and die with the second stage begun and no step of it done."""
    begin = Copying.begin

    def die(self: Copying) -> None:
        begin(self)
        os.kill(os.getpid(), signal.SIGKILL)

    Copying.begin = die  # type: ignore[method-assign]
    list(run(Path(folder), stages()))


if __name__ == "__main__":
    main(*sys.argv[1:])
