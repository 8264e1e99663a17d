"""The metrics file: the contract's lines, strict JSON, cut back on resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from lodesmith.core import events
from lodesmith.core.errors import InputError
from lodesmith.core.events import Event
from lodesmith.training.metrics import read_metrics, record, to_line

FIELDS = ["event", "step", "epoch", "stage", "terms", "total", "lr", "grad_norm", "throughput", "measures"]


def step(number: int) -> events.Step:
    return events.Step(number, 1, "s", {"infonce": 0.5}, 0.5, {"default": 0.1}, {"default": 2.0}, 100.0)


def write(path: Path, *happened: Event) -> list[Event]:
    return list(record(iter(happened), path))


def test_every_line_has_the_fields_of_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    happened = (
        step(1),
        events.Validation(1, 1, "s", {"nDCG@10": 0.5}, True),
        events.Checkpoint(1, 1, "s", tmp_path),
        events.Warning(1, 1, "s", "odd", "mend it"),
        events.Done(1, 1, "s", "complete", 2.0),
    )
    assert write(path, *happened) == list(happened)
    lines = read_metrics(path)
    assert [line["event"] for line in lines] == ["step", "validation", "warning", "done"]
    assert all(list(line)[: len(FIELDS)] == FIELDS for line in lines)
    assert lines[0]["terms"] == {"infonce": 0.5}
    assert lines[0]["grad_norm"] == {"default": 2.0}
    assert lines[1]["measures"] == {"nDCG@10": 0.5}
    assert lines[2]["cure"] == "mend it"
    assert lines[3]["reason"] == "complete"


def test_what_is_no_number_becomes_null() -> None:
    line = to_line(events.Step(1, 1, "s", {"a": math.nan}, math.inf, {}, {"g": -math.inf}))
    assert line is not None
    assert (line["terms"], line["total"], line["grad_norm"]) == ({"a": None}, None, {"g": None})
    json.dumps(line, allow_nan=False)


def test_a_line_is_there_before_the_next_event_happens(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    happenings = record(iter([step(1), step(2)]), path)
    next(happenings)
    assert len(read_metrics(path)) == 1
    happenings.close()  # type: ignore[attr-defined]


def test_resuming_cuts_back_and_starting_replaces(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), step(2), step(3), events.Done(3, 1, "s", "complete"))
    with path.open("a") as handle:
        handle.write('{"event": "step", "st')  # cut off by a kill
    write(path, events.Resumed(2, 1, "s", tmp_path), step(4))
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 4]
    write(path, step(1))
    assert [line["step"] for line in read_metrics(path)] == [1]


def test_closing_closes_the_training(tmp_path: Path) -> None:
    closed = []

    def training() -> Iterator[Event]:
        try:
            yield step(1)
            yield step(2)
        finally:
            closed.append(True)

    for _ in record(training(), tmp_path / "metrics.jsonl"):
        break
    del _
    assert closed == [True]


def test_a_broken_line_is_located(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2"):
        read_metrics(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_metrics(tmp_path / "absent")
