"""A small training with everything that a resume must bring back: dropout, two stages, groups, early stopping.

As a program it trains into a folder and kills itself where it is told.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.data.batching import PairBatches
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import Group, OptimSettings, Stage, fit, record
from lodesmith.training.engine import TorchEngine, seed_everything
from lodesmith.training.optim import Plateau

STEPS_AN_EPOCH = 6


def batches(seed: int = 3, batch_size: int = 16) -> PairBatches:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((60, 8)).astype(np.float32)
    documents = queries + rng.standard_normal((60, 8)).astype(np.float32)
    pairs = np.stack([rng.permutation(96) % 60, rng.permutation(96) % 60], 1)
    return PairBatches(pairs, queries, documents, batch_size=batch_size, seed=seed)


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 8))


def stages(lr: float = 0.01, epochs: int = 4) -> list[Stage]:
    """Two stages over one encoder. The first one's last layer waits for two epochs; the second trains that layer alone,
    lowers its rate on a plateau, and counts its checkpoints in steps."""
    seed_everything(11)
    shared = encoder()
    first = Contrast(shared, temperature=0.1)
    second = Contrast(shared, similarity="dot")
    probe = next(iter(batches(seed=99)))

    def validate() -> Mapping[str, float]:
        return {"agreement": -float(first(probe)["infonce"])}

    groups = (Group(match="encoder.0.*", freeze=True), Group(match="*.bias", lr=0.1))
    return [
        Stage(
            name="one",
            objective=first,
            batches=batches(),
            epochs=epochs,
            optim=OptimSettings(lr=lr, warmup=0.1, groups=(Group(match="encoder.3.*", freeze_epochs=2),)),
            validate=validate,
            monitor="agreement",
            patience=3,
        ),
        Stage(
            name="two",
            objective=second,
            batches=batches(seed=4),
            steps=15,
            optim=OptimSettings(use="sgd", lr=0.003, groups=groups, schedule="plateau", plateau=Plateau(patience=1)),
            validate=validate,
            validate_every=5,
            monitor="agreement",
            checkpoint_every=4,
        ),
    ]


def run(folder: Path, plan: list[Stage], resume: bool = False, **options: Any) -> Iterator[Event]:
    torch.set_num_threads(1)
    options = {"recipe": {"toy": 1}, "log_every": 4, "engine": TorchEngine(seed=5), **options}
    return record(fit(plan, checkpoints=folder / "checkpoints", resume=resume, **options), folder / "metrics.jsonl")


def weights(plan: list[Stage]) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in plan[0].objective.parameters()]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_while_writing(number: int) -> None:
    """Kill the process after half of the number-th tensor file is on the disk."""
    import safetensors.torch

    save, calls = safetensors.torch.save_file, iter(range(10**6))

    def half(tensors: Any, path: Path) -> None:
        save(tensors, path)
        if next(calls) == number:
            os.truncate(path, path.stat().st_size // 2)
            _die()

    safetensors.torch.save_file = half


def main(folder: str, how: str, number: str) -> None:
    if how == "write":
        _die_while_writing(int(number))
    for event in run(Path(folder), stages(), log_every=1):
        if how == "step" and isinstance(event, events.Step) and event.step == int(number):
            _die()


if __name__ == "__main__":
    main(*sys.argv[1:])
