"""What every verb shares: options, progress on standard error, one result on standard output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from lodesmith.core.progress import Progress, listen

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]


def show(as_json: bool, value: Any, text: str) -> None:
    """Print the verb's result: JSON or text."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    put((json.dumps(value, ensure_ascii=plain, allow_nan=False) if as_json else text.rstrip("\n")) + "\n")


def put(text: str) -> None:
    """Write on standard output; where its reader is gone (`| head`), it and what follows go nowhere."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first() -> bool:
    """Whether this is the first of the processes that train together, or the only one: it alone tells the result."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a remark on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def progress() -> Iterator[None]:
    """Draw the progress of the block on standard error: bars on a terminal, a line each 15 seconds elsewhere."""
    if sys.stderr.isatty():
        with _bars():
            yield
    else:
        with listen(_Lines()):
            yield


@contextmanager
def _bars() -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def draw(report: Progress) -> None:
            if report.label not in tasks or report.done == 0:
                if report.label in tasks:
                    bars.remove_task(tasks[report.label])
                tasks[report.label] = bars.add_task(report.label, total=report.total, unit=report.unit)
            bars.update(tasks[report.label], completed=report.done, total=report.total)

        with listen(draw):
            yield


class _Lines:
    """Progress for logs: at most a line each 15 seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, report: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= 15:
            self._last = now
            total = "" if report.total is None else f"/{report.total:,}"
            say(f"{report.label}: {report.done:,}{total} {report.unit}".rstrip())
