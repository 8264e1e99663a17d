"""The live display of a training: loss, terms, validation, rates, throughput, time left, best so far.

On a terminal a panel that moves, and a line for each validation above it; elsewhere a line an epoch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lodesmith.cli.console import progress, say
from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.core.progress import Progress, listen

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lodesmith.recipes.train import Training
    from lodesmith.recipes.word_vectors import WordVectorsTraining

EVERY = 15.0
"""Seconds between lines within an epoch, where there is no terminal."""
CURVE = 40
"""Losses that the curve shows."""
_BARS = "▁▂▃▄▅▆▇█"


def follow(training: Training | WordVectorsTraining) -> dict[str, Any]:
    """Run a training, show what happens, and return its report."""
    state = State()
    with display(state) as show:
        for event in training.events():
            state.take(event)
            show(event)
    report: dict[str, Any] = {
        "run": str(training.out),
        "ended": state.reason,
        "model": str(training.out / "model"),
    }
    if state.measures:
        report["validation"] = dict(state.measures)
    if state.best is not None:
        report["best"] = {"step": state.best.step, "epoch": state.best.epoch, **state.best.measures}
    return report | ({"warnings": state.warnings} if state.warnings else {})


@dataclass
class State:
    """What is known so far."""

    step: events.Step | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    best: events.Validation | None = None
    reason: str = ""
    warnings: int = 0
    losses: list[float] = field(default_factory=list)
    _begun: tuple[float, int] | None = None
    _seconds: float | None = None

    def take(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case events.Step():
                if self.step is None or self.step.stage != event.stage:
                    self._begun, self.best, self.losses = None, None, []
                self.step = event
                self.losses.append(event.total)
                self._clock(event)
            case events.Validation():
                self.measures = event.measures
                self.best = event if event.best else self.best
            case events.Warning():
                self.warnings += 1
            case events.Done():
                self.reason, self._seconds = event.reason, None

    def _clock(self, step: events.Step) -> None:
        """Time left in the stage, by the steps since its first report; validations count in."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, step.step)
        elif step.steps is not None and step.step > self._begun[1]:
            self._seconds = (now - self._begun[0]) / (step.step - self._begun[1]) * (step.steps - step.step)

    @property
    def left(self) -> str:
        """Time left in the stage, as h:mm:ss."""
        return "" if self._seconds is None else duration(self._seconds)

    @property
    def curve(self) -> str:
        """The losses of the stage as a small picture."""
        size = max(1, -(-len(self.losses) // CURVE))
        means = [sum(self.losses[i : i + size]) / size for i in range(0, len(self.losses) - size + 1, size)]
        low, high = min(means, default=0.0), max(means, default=0.0)
        if len(means) < 2 or not low < high < float("inf"):
            return ""
        return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in means)


def duration(seconds: float) -> str:
    """As h:mm:ss."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def line_of(event: Event, state: State) -> str:
    """The event as one line of text; empty for what needs none."""
    match event:
        case events.Validation():
            shown = _measured(event.measures)
            begun = state.step is not None and state.step.stage == event.stage
            loss = f"loss {state.step.total:.4f}  " if begun and state.step is not None else ""
            when = f"epoch {event.epoch}" if begun or event.step else "before training"
            return f"{event.stage}, {when}: {loss}{shown}{'  (best so far)' if event.best else ''}"
        case events.Warning():
            return f"warning: {event.message}" + (f"\n         {event.cure}" if event.cure else "")
        case events.Resumed():
            return f"resumed from step {event.step} of stage {event.stage}"
    return ""


def _measured(measures: Mapping[str, float]) -> str:
    """Measures of a validation; its loss is told from that of training."""
    names = {"loss": "validation loss"}
    return "  ".join(f"{names.get(name, name)} {value:.4f}" for name, value in measures.items())


def step_line(step: events.Step, state: State) -> str:
    """A report as one line of text."""
    of = "" if step.steps is None else f"/{step.steps:,}"
    left = f", {state.left} left" if state.left else ""
    said = f"{step.stage}, epoch {step.epoch}, step {step.step:,}{of}: loss {step.total:.4f}"
    return f"{said}, {step.throughput:,.0f} examples/s{left}"


# ------------------------------------------------------------------------ the two ways


@contextmanager
def display(state: State) -> Iterator[Callable[[Event], None]]:
    """What shows events: a panel on a terminal, lines elsewhere, nothing on all but the first process."""
    if os.environ.get("RANK", "0") != "0":
        yield lambda _event: None
    elif sys.stderr.isatty():
        with _panel(state) as show:
            yield show
    else:
        with progress():
            yield _Lines(state)


class _Lines:
    """A line for each validation; for each epoch where there is none; and every 15 seconds in between."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.told = time.monotonic()
        self.before: events.Step | None = None
        self.said: events.Step | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.Step):
            ended = self.before is not None and (self.before.stage, self.before.epoch) != (event.stage, event.epoch)
            if ended and not self.state.measures:
                self._step(self.before)
            if time.monotonic() - self.told > EVERY:
                self._step(event)
            self.before = event
        elif isinstance(event, events.Done) and not self.state.measures:
            self._step(self.before)
        elif text := line_of(event, self.state):
            self._say(text)

    def _step(self, step: events.Step | None) -> None:
        if step is not None and step is not self.said:
            self.said = step
            self._say(step_line(step, self.state))

    def _say(self, text: str) -> None:
        self.told = time.monotonic()
        say(text)


@contextmanager
def _panel(state: State) -> Iterator[Callable[[Event], None]]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    screen = _Screen(state, console)
    with Live(screen, console=console, refresh_per_second=4) as live, listen(screen.work):

        def show(event: Event) -> None:
            if isinstance(event, events.Step):
                screen.settle()
            if text := line_of(event, state):
                style = "yellow" if isinstance(event, events.Warning) else None
                live.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

        yield show


class _Screen:
    """What is drawn: bars of the work beside the training (encoding and the like), and the training."""

    def __init__(self, state: State, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.state = state
        self.curves = (console.encoding or "").lower().startswith("utf")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
        )
        self.bars = Bars(*columns, TimeRemainingColumn(), console=console, auto_refresh=False)
        self.tasks: dict[str, Any] = {}

    def settle(self) -> None:
        """The training goes on: work of unknown size is over."""
        for label in [label for label, task in self.tasks.items() if self.bars.tasks and self._size(task) is None]:
            self.bars.remove_task(self.tasks.pop(label))

    def _size(self, task: Any) -> float | None:
        return next(own.total for own in self.bars.tasks if own.id == task)

    def work(self, report: Progress) -> None:
        """Progress of other work; what is done leaves the screen."""
        if not report.done and report.total is None:
            return
        if report.label not in self.tasks:
            self.tasks[report.label] = self.bars.add_task(report.label, total=report.total, unit=report.unit)
        self.bars.update(self.tasks[report.label], completed=report.done, total=report.total)
        if report.total is not None and report.done >= report.total:
            self.bars.remove_task(self.tasks.pop(report.label))

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        parts: list[RenderableType] = [self.bars] if self.tasks else []
        return Group(*parts, *([] if self.state.step is None else [self._training(self.state.step)]))

    def _training(self, step: events.Step) -> RenderableType:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, value in self._rows(step):
            table.add_row(name, Text(value))
        title = f"{step.stage}, epoch {step.epoch}"
        return Panel(table, title=Text(title), title_align="left", border_style="dim", expand=False)

    def _rows(self, step: events.Step) -> Iterator[tuple[str, str]]:
        of = "" if step.steps is None else f" of {step.steps:,}"
        yield "step", f"{step.step:,}{of}  {_share(step)}".rstrip()
        yield "loss", f"{step.total:.4f}  {self.state.curve if self.curves else ''}".rstrip()
        if len(step.terms) > 1:
            yield "terms", "  ".join(f"{name} {value:.4f}" for name, value in step.terms.items())
        yield "speed", f"{step.throughput:,.0f} examples/s" + (f", {self.state.left} left" if self.state.left else "")
        yield "rate", _by_group(step.lr)
        yield "gradient", _by_group(step.grad_norm)
        best = self.state.best
        if self.state.measures:
            yield "now", _measured(self.state.measures)
        if best is not None:
            yield "best", f"{_measured(best.measures)}  (epoch {best.epoch}, step {best.step:,})"


def _share(step: events.Step) -> str:
    return f"({step.step / step.steps:.0%})" if step.steps else ""


def _by_group(values: Mapping[str, float]) -> str:
    if list(values) == ["default"]:
        return f"{values['default']:.3g}"
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())
