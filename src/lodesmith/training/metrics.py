"""`metrics.jsonl`: one line an event, in strict JSON, the same after a resumed run as after an uninterrupted one.

The exceptions are the timings (`throughput`, `seconds`) and warnings about the interruption itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lodesmith.core import events
from lodesmith.core.errors import InputError
from lodesmith.core.events import Event
from lodesmith.core.files import atomic_file
from lodesmith.core.lines import LineError, bounded_lines, decode_json

_TOLD = {events.Step: "step", events.Validation: "validation", events.Warning: "warning", events.Done: "done"}
"""Checkpoints are left out: those that an interruption adds would make the file differ."""
_MORE = ("weights", "chance", "evidence", "geometry")
"""Mappings of names to numbers that only some events have."""


def to_line(event: Event) -> dict[str, Any] | None:
    """The metrics line of an event; None for events that have none. NaN and infinity become null."""
    kind = _TOLD.get(type(event))
    if kind is None:
        return None
    line: dict[str, Any] = {"event": kind, "step": event.step, "epoch": event.epoch, "stage": event.stage}
    for name, default in (("terms", {}), ("total", None), ("lr", {}), ("grad_norm", {}), ("throughput", None)):
        line[name] = _plain(getattr(event, name, default))
    line["measures"] = _plain(getattr(event, "measures", {}))
    for name in (*_MORE, "steps", "best", "message", "cure", "cause", "reason", "seconds"):
        if hasattr(event, name):
            line[name] = _plain(getattr(event, name))
    return line


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a metrics file. A last line that a kill cut off is left out.

    Raises:
        InputError: there is no such file, or a line is broken.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    found = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is empty or cut off
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"broken line: {error.msg}", path=path, line=number) from None
    return found


def read_lenient(path: Path | str) -> tuple[list[dict[str, Any]], list[str]]:
    """The good lines of a metrics file, and what is wrong with each other one, with its number.

    Raises:
        InputError: there is no such file.
    """
    good, broken = [], []
    try:
        with Path(path).open("rb") as file:
            for line in bounded_lines(file):
                try:
                    good.append(_checked(decode_json(line)))
                except LineError as error:
                    cut = not line.raw.endswith(b"\n") and error.kind == "broken-json"
                    said = "cut off: the training was killed while it wrote it" if cut else str(error)
                    broken.append(f"{path}:{line.number}: {said}")
    except OSError as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    return good, broken


def _checked(line: dict[str, Any]) -> dict[str, Any]:
    for name, kind in (("event", str), ("step", int), ("epoch", int), ("stage", str)):
        if not isinstance(line.get(name), kind):
            raise LineError("not-metrics", f"not a metrics line: {name!r} is {line.get(name)!r}")
    for name in ("terms", "lr", "grad_norm", "measures", *_MORE):
        own = line.get(name, {})
        if not isinstance(own, dict) or not all(v is None or isinstance(v, int | float) for v in own.values()):
            raise LineError("not-metrics", f"not a metrics line: {name!r} is no mapping of names to numbers")
    return line


def drop_after(path: Path, step: int) -> set[str]:
    """Take out the lines after a step, and the end of the training, atomically; returns the step's own lines."""
    lines = read_metrics(path) if path.exists() else []
    kept = set()
    with atomic_file(path) as handle:
        for line in lines:
            if line["step"] <= step and line["event"] != "done":
                handle.write(_dump(line))
                if line["step"] == step:
                    kept.add(_dump(line))
    return kept


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def record(happenings: Iterator[Event], path: Path | str) -> Iterator[Event]:
    """Pass events on and write them to a metrics file, each before the next one happens.

    A training that starts replaces the file; one that is resumed cuts it back to the step it resumes from. What was
    told at that very step is not written twice: a stage that begins there says again what it said before the break.
    """
    path = Path(path)
    handle: IO[str] | None = None
    kept: set[str] = set()
    try:
        for event in happenings:
            if handle is None:
                kept = drop_after(path, event.step if isinstance(event, events.Resumed) else -1)
                handle = path.open("a", encoding="utf-8", buffering=1)
            if (line := to_line(event)) and _dump(line) not in kept:
                handle.write(_dump(line))
            yield event
    finally:
        if close := getattr(happenings, "close", None):
            close()
        if handle is not None:
            handle.close()
