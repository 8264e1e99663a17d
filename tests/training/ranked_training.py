"""Run under torchrun: two ranks train on halves of each batch, break after the second epoch, and resume. Then they
measure different things, and still agree when to stop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from test_fit import STILL, Numbers, Toy

from lodesmith.core import events
from lodesmith.training import Group, Stage, fit
from lodesmith.training.engine import TorchEngine

LATE = STILL.model_copy(update={"momentum": 0.5, "groups": (Group(match="b", freeze_epochs=1, lr=0.02),)})
"""One group begins in the second epoch: the wrapper around the objective is made anew."""


class Half(Numbers):
    """Every second example of each batch."""

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield {"x": batch["x"][torch.distributed.get_rank() :: 2]}


def train(folder: Path, toy: Toy, resume: bool) -> Iterator[events.Event]:
    values = [float(i % 5) for i in range(16)]
    plan = Stage(name="s", objective=toy, batches=Half(values), optim=LATE, epochs=3)
    return fit([plan], checkpoints=folder / "checkpoints", resume=resume, engine=TorchEngine(device="cpu"))


def disagree(folder: Path, rank: int) -> tuple[int, float]:
    """The first rank sees its best in the second epoch, the other one ever better; epochs trained, and the result."""
    toy = Toy()
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.2] if rank == 0 else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    plan = Stage(
        name="s",
        objective=toy,
        batches=Half([1.0] * 16),
        optim=STILL,
        epochs=6,
        validate=lambda: {"quality": next(scores)},
        monitor="quality",
        patience=2,
    )
    happened = list(fit([plan], checkpoints=folder, engine=TorchEngine(device="cpu")))
    return sum(isinstance(event, events.Validation) for event in happened), toy.w.item()


def main(folder: Path) -> None:
    for event in train(folder, Toy(), resume=False):
        if isinstance(event, events.Checkpoint) and event.epoch == 2:
            break
    toy = Toy()
    happened = list(train(folder, toy, resume=True))
    resumed = "resumed" if isinstance(happened[0], events.Resumed) else "anew"
    rank = torch.distributed.get_rank()
    epochs, kept = disagree(folder / "disagree", rank)
    (folder / f"rank{rank}.txt").write_text(f"{toy.w.item()!r} {resumed} {toy.b.item()!r} {epochs} {kept}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
