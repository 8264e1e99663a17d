"""The display of a training: lines without a terminal, a panel on one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lodesmith.cli import live
from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.core.progress import tell


def step(number: int, epoch: int, loss: float, stage: str = "one") -> events.Step:
    terms = {"triplet": loss, "active": 0.25}
    return events.Step(number, epoch, stage, terms, loss, {"default": 1e-3}, {"a": 2.0, "b": 0.5}, 1234.0, 40)


RUN: tuple[Event, ...] = (
    events.Validation(0, 1, "one", {"nDCG@10": 0.1}, True),
    step(10, 1, 0.9),
    step(20, 2, 0.5),
    events.Validation(20, 2, "one", {"nDCG@10": 0.6}, True),
    events.Warning(20, 2, "one", "something is odd", "mend it", "zero"),
    step(30, 3, 0.4),
    events.Validation(30, 3, "one", {"nDCG@10": 0.5}),
    events.Done(30, 3, "one", "complete"),
)


class Told:
    """A training that was planned."""

    def __init__(self, happened: tuple[Event, ...] = RUN) -> None:
        self.happened, self.out = happened, Path("run")

    def events(self) -> Iterator[Event]:
        for event in self.happened:
            tell("encode documents", 3, 10, "texts")
            tell("encode documents", 10, 10, "texts")
            yield event


@pytest.fixture(autouse=True)
def first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)


def test_lines_say_each_epoch_once(capsys: pytest.CaptureFixture[str]) -> None:
    report = live.follow(Told())  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "one, before training: nDCG@10 0.1000  (best so far)",
        "one, epoch 2: loss 0.5000  nDCG@10 0.6000  (best so far)",
        "warning: something is odd",
        "         mend it",
        "one, epoch 3: loss 0.4000  nDCG@10 0.5000",
    ]
    assert report["ended"] == "complete"
    assert report["best"] == {"step": 20, "epoch": 2, "nDCG@10": 0.6}
    assert report["validation"] == {"nDCG@10": 0.5}
    assert report["warnings"] == 1


def test_without_validation_there_is_still_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    plain = tuple(event for event in RUN if isinstance(event, events.Step | events.Done))
    report = live.follow(Told(plain))  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "one, epoch 1, step 10/40",
        "one, epoch 2, step 20/40",
        "one, epoch 3, step 30/40",
    ]
    assert "1,234 examples/s" in lines[0]
    assert "best" not in report


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert live.follow(Told())["ended"] == "complete"  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def drawn(width: int, encoding: str = "utf-8") -> str:
    """The panel after the last report."""
    from rich.console import Console

    state = live.State()
    for event in RUN[:-1]:
        state.take(event)
    raw = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=raw, width=width, force_terminal=False)
    console.print(live._Screen(state, console))
    raw.flush()
    return raw.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 100])
def test_the_panel_holds_every_figure_within_its_width(width: int) -> None:
    text = drawn(width)
    for wanted in ("30 of 40", "0.4000", "triplet 0.4000", "1,234 examples/s", "0.001", "a 2", "0.5000", "epoch 2"):
        assert wanted in text, wanted
    assert max(map(len, text.splitlines())) <= width
    assert "█" in text
    assert "█" not in drawn(width, "ascii")


def test_the_panel_lives_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    live.follow(Told())  # type: ignore[arg-type]
    text = terminal.getvalue()
    assert "one, epoch 2: loss 0.5000  nDCG@10 0.6000  (best so far)" in text
    assert "something is odd" in text
    assert "best" in text.rpartition("╭")[2]
    assert "encode documents" not in text.rpartition("╭")[2]


def test_time_left_is_that_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[float] = [0.0]
    monkeypatch.setattr("lodesmith.cli.live.time.monotonic", lambda: now[0])
    state = live.State()
    state.take(step(10, 1, 0.9))
    assert state.left == ""
    now[0] = 20.0
    state.take(step(20, 2, 0.9))
    assert state.left == "0:00:40"
    state.take(step(30, 1, 0.9, "two"))
    assert (state.losses, state.best) == ([0.9], None)
    assert live.duration(3725) == "1:02:05"


def test_the_curve_is_as_long_as_it_may_be() -> None:
    state = live.State()
    for number in range(1, 200):
        state.take(step(number, 1, 1 / number))
    assert 20 <= len(state.curve) <= live.CURVE
    assert (state.curve[0], state.curve[-1]) == ("█", "▁")
    flat: Any = live.State()
    flat.losses = [1.0, 1.0]
    assert flat.curve == ""
