"""`lode train … --sweep KEY=a,b`: what the verb does when there are several recipes or values."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lodesmith.cli.console import progress, say, show
from lodesmith.cli.live import State, display
from lodesmith.core.errors import ConfigError
from lodesmith.core.events import Event


def several(recipe: str) -> list[str]:
    """The recipes of a comma-separated argument; a file that has a comma in its name stays whole."""
    return [recipe] if Path(recipe).exists() else [part.strip() for part in recipe.split(",") if part.strip()]


def train_all(
    recipe: str,
    overrides: Sequence[str],
    sweeps: Sequence[str],
    *,
    out: Path | None,
    dry_run: bool,
    auto: bool,
    as_json: bool,
) -> None:
    """Train every combination, measure and compare them; or tell what that would take.

    Raises:
        ConfigError: `auto`: what is compared has to be computed in one way.
    """
    if auto:
        raise ConfigError(
            "--auto fits one run, and a sweep has several",
            "try it on one of them (--auto --dry-run), and give the chunk that it chooses to all",
        )
    from lodesmith.recipes.sweep import plan

    sweep = plan(several(recipe), overrides, sweeps, out=out)
    if dry_run:
        with progress():
            forecast = sweep.forecast()
        show(as_json, forecast, _told(forecast))
        return
    swept = (part for text in sweeps for part in ("--sweep", text))
    command = shlex.join(["lode", "train", recipe, *overrides, *swept])
    report = sweep.run(say=say, follow=_follow, shown=progress, command=command)
    show(as_json, report.to_json(), report.to_text())


def _follow(happenings: Iterator[Event]) -> None:
    state = State()
    with display(state) as shown:
        for event in happenings:
            state.take(event)
            shown(event)


def _told(forecast: dict[str, Any]) -> str:
    runs = [f"{run['state']:<9}{run['name']}" for run in forecast["runs"]]
    return "\n".join([*runs, *(f"{key}: {value}" for key, value in forecast["sum"].items()), f"out: {forecast['out']}"])
