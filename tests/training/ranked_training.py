"""Run under torchrun: two ranks train on halves of each batch, break after the second epoch, and resume."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from test_fit import STILL, Numbers, Toy

from lodesmith.core import events
from lodesmith.training import Stage, fit
from lodesmith.training.engine import TorchEngine


class Half(Numbers):
    """Every second example of each batch."""

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield {"x": batch["x"][torch.distributed.get_rank() :: 2]}


def train(folder: Path, toy: Toy, resume: bool) -> Iterator[events.Event]:
    values = [float(i % 5) for i in range(16)]
    plan = Stage(name="s", objective=toy, batches=Half(values), optim=STILL, epochs=3)
    return fit([plan], checkpoints=folder / "checkpoints", resume=resume, engine=TorchEngine(device="cpu"))


def main(folder: Path) -> None:
    for event in train(folder, Toy(), resume=False):
        if isinstance(event, events.Checkpoint) and event.epoch == 2:
            break
    toy = Toy()
    happened = list(train(folder, toy, resume=True))
    resumed = "resumed" if isinstance(happened[0], events.Resumed) else "anew"
    rank = torch.distributed.get_rank()
    (folder / f"rank{rank}.txt").write_text(f"{toy.w.item()!r} {resumed}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
