"""`lode train … --auto`, and recipes that want several processes: what the verb does before it trains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lodesmith.cli.console import progress, say

if TYPE_CHECKING:
    from lodesmith.recipes.auto import Choice


def fitted(recipe: str, overrides: Sequence[str], *, out: Path | None, resume: bool, auto: bool) -> Choice | None:
    """What is chosen for this machine, told on standard error; where it is asked for, or was when the run was begun."""
    from lodesmith.recipes.auto import choose, kept

    chosen = None
    if auto:
        with progress():
            chosen = choose(recipe, overrides, out=out, resume=resume)
    elif resume and "RANK" not in os.environ:  # a process that was launched has been told
        chosen = kept(recipe, overrides, out=out)
    if chosen is not None:
        say(chosen.to_text())
    return chosen


def launched(training: object, recipe: str, overrides: Sequence[str], *, resume: bool, as_json: bool) -> int | None:
    """Train in as many processes as the recipe wants and give their exit code; None where this one is enough."""
    from lodesmith.recipes.launching import end_with_launcher, launch, processes_of

    end_with_launcher()
    if (processes := processes_of(training)) == 1:
        return None
    out: Path = training.out  # type: ignore[attr-defined]
    options = [*(["--resume"] if resume else []), *(["--json"] if as_json else []), "--out", str(out)]
    return launch(["train", recipe, *overrides, *options], processes)
