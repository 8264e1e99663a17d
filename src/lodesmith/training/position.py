"""Where a training stands, which training it is, and what surrounds it: the plain part of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lodesmith.core.errors import ResumeError
from lodesmith.core.hashing import fingerprint
from lodesmith.training.stage import Engine, Stage

SHOWN = 5
"""So many differences are listed."""


@dataclass
class Position:
    """Counts of what is done.

    Args:
        step: optimiser steps of the whole training.
        stage: number of the stage in progress, from 0.
        epoch: whole epochs of the stage.
        batch: batches of the epoch in progress.
        stage_step: optimiser steps of the stage.
        planned: steps of the stage by its plan; the schedule ends there.
        best: the monitored measure's best value in this stage.
        best_step: when that was.
        stale: validations since.
        waited: validations since, or since the schedule `plateau` lowered the rate.
        lowered: how many times it did.
        validated: the step of the last validation.
        reason: why the last finished stage ended.
    """

    step: int = 0
    stage: int = 0
    epoch: int = 0
    batch: int = 0
    stage_step: int = 0
    planned: int = 0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    waited: int = 0
    lowered: int = 0
    validated: int | None = None
    reason: str = ""

    @property
    def shown_epoch(self) -> int:
        """The number, from 1, of the epoch that the last step belongs to."""
        return self.epoch + (1 if self.batch or not self.epoch else 0)

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def identity(stages: Sequence[Stage], engine: Engine, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued, with its fingerprint."""
    plain = {"recipe": recipe, "stages": [stage.settings for stage in stages], "engine": engine.settings}
    plain = json.loads(json.dumps(plain, allow_nan=False))
    return {**plain, "fingerprint": fingerprint(plain)}


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse another training's checkpoint.

    Raises:
        ResumeError: the two differ; the message says where.
    """
    if saved.get("fingerprint") == now["fingerprint"]:
        return
    found = [d for d in differences(saved, now) if not d.startswith("fingerprint")]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ResumeError(
        f"{path} belongs to another training: {'; '.join(found[:SHOWN])}{more}",
        "resume with the settings it was begun with, or start in another folder",
    )


def check_processes(saved: Mapping[str, Any], engine: Engine, path: Path) -> None:
    """Refuse to go on with another number of processes: each has its share of a batch and random numbers of its own, so
    that what would come of it is neither the one training nor the other.

    Raises:
        ResumeError: the checkpoint was written by more or fewer; the message says how many.
    """
    before = saved["processes"]
    if before == engine.world:
        return
    raise ResumeError(
        f"{path} was written by {_counted(before)}, and {_counted(engine.world)} would go on",
        f"resume it by `lode train` with engine.processes={before}, or by torchrun with as many; or train anew in "
        "another folder",
    )


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def differences(saved: Any, now: Any, place: str = "") -> Iterator[str]:
    """Each place where two JSON values differ: `stages.0.optim.lr is 0.1, the checkpoint has 0.01`."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in [*saved, *(key for key in now if key not in saved)]:
            yield from differences(saved.get(key), now.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for number, (old, new) in enumerate(zip(saved, now, strict=True)):
            yield from differences(old, new, f"{place}.{number}")
    elif saved != now:
        yield f"{place} is {json.dumps(now)}, the checkpoint has {json.dumps(saved)}"


def surroundings(engine: Engine) -> dict[str, Any]:
    """What changes the last bits without changing the plan."""
    return {"threads": engine.threads, "processes": engine.world, "torch": version("torch")}
