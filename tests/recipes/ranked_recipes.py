"""Recipes trained by one process and by two: `ranked_recipes.py FOLDER DATASET MODEL`, alone or under torchrun.

Each run reports every step. Then, under torchrun: a run that one process began is gone on with, one is begun and left
after its first checkpoint, and a finished one is trained again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lodesmith.core import events
from lodesmith.core.errors import ResumeError
from lodesmith.recipes.train import Training, plan
from lodesmith.training.fit import fit

FROZEN = {"encoder.kind": "linear", "stages.0.optim.lr": 1e-2}
TUNED = {"encoder.base_dropout": 0.0, "stages.0.optim.groups": [{"match": "*.base.*", "lr": 2e-4}]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "in_batch": ("isotropic", FROZEN),
    "sigreg": ("isotropic", FROZEN | {"stages.0.objective.sigreg.weight": 0.1}),
    "full": ("isotropic_full", TUNED),
    "full_in_chunks": ("isotropic_full", TUNED | {"stages.0.chunk": 5}),
}
SHORT = {"stages.0.epochs": 4, "stages.0.batch_size": 16, "data.limit": 49}
"""The last batch of an epoch has one pair: one of two processes has none of it."""


def planned(case: str, world: dict[str, str], out: Path, *, resume: bool = False) -> Training:
    recipe, own = CASES[case]
    made = plan(recipe, world | SHORT | own, out=out, resume=resume, reported=False)
    assert isinstance(made, Training)
    return made


def begin(case: str, world: dict[str, str], out: Path) -> None:
    """Train up to the first checkpoint, and leave it there."""
    for event in planned(case, world, out).events():
        if isinstance(event, events.Checkpoint):
            break


def refused(case: str, world: dict[str, str], out: Path) -> str:
    """What is said when the run is gone on with."""
    try:
        list(planned(case, world, out, resume=True).events())
    except ResumeError as error:
        return str(error)
    return "not refused"


def main(folder: Path, world: dict[str, str]) -> None:
    fit.__kwdefaults__["log_every"] = 1
    ranks, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    for case in CASES:
        list(planned(case, world, folder / ranks / case).events())
    if ranks == "1":
        begin("in_batch", world, folder / "begun-by-1")
        return
    (folder / f"refused-{rank}.txt").write_text(refused("in_batch", world, folder / "begun-by-1"))
    begin("in_batch", world, folder / "begun-by-2")
    again = list(planned("in_batch", world, folder / ranks / "in_batch", resume=True).events())
    (folder / f"again-{rank}.txt").write_text(" ".join(type(event).__name__ for event in again))


if __name__ == "__main__":
    main(Path(sys.argv[1]), {"data": sys.argv[2], "base": sys.argv[3]})
