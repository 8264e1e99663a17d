"""The steps since the last report: read from the device together, checked, and averaged."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from lodesmith.core.errors import DivergedError
from lodesmith.training.health import check_finite
from lodesmith.training.stage import Engine


@dataclass(frozen=True)
class Figures:
    """One step's figures as numbers: terms, total, gradient norms, in this order."""

    terms: tuple[str, ...]
    groups: tuple[str, ...]
    values: tuple[float, ...]
    chance: Mapping[str, float]


@dataclass
class Window:
    """Collects steps. What is in it belongs to a checkpoint, so that a resumed run reports the same means.

    Args:
        engine: reads rows.
        rows: steps not yet read.
        figures: steps read and not yet reported.
        examples: trained on since the last report.
        seconds: spent on them, without validation, checkpoints and whoever reads the events.
    """

    engine: Engine
    rows: list[Any] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    examples: int = 0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.rows) + len(self.figures)

    def add(self, row: Any) -> None:
        """Take the figures of a step; nothing is transferred."""
        self.rows.append(row)
        self.examples += row.examples

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def read(self, step: int) -> None:
        """Transfer and check what was collected; `step` is the last one's number.

        Raises:
            DivergedError: a figure is NaN or infinite.
        """
        with self.timed():
            read = self.engine.read(self.rows)
        first = step - len(self.rows) + 1
        for number, (row, values) in enumerate(zip(self.rows, read, strict=True), start=first):
            names = [*row.terms, "the total loss"]
            if not self.engine.scaled:
                names += [f"the gradient norm of group {name!r}" for name in row.groups]
            try:
                check_finite(number, names, values[: len(names)])
            except DivergedError as error:
                raise DivergedError(error.what + self._before(number), error.do) from None
            self.figures.append(Figures(row.terms, row.groups, tuple(values), row.chance))
        self.rows.clear()

    def _before(self, step: int) -> str:
        """How the gradients went in the steps before one that diverged."""
        norms = [math.hypot(*own.values[len(own.terms) + 1 :]) for own in self.figures]
        if not norms:
            return ""
        first = f"{norms[0]:.3g} at step {step - len(norms)}"
        return f" (the gradient norm was {first}{f', {norms[-1]:.3g} at step {step - 1}' if len(norms) > 1 else ''})"

    def report(self) -> dict[str, Any]:
        """Means over the window, as the fields of a `Step` event; the window is empty afterwards."""
        parts: dict[str, dict[str, list[float]]] = {"terms": {}, "grad_norm": {}, "chance": {}}
        totals = []
        for own in self.figures:
            count = len(own.terms)
            _collect(parts["terms"], own.terms, own.values[:count])
            _collect(parts["grad_norm"], own.groups, own.values[count + 1 :])
            _collect(parts["chance"], tuple(own.chance), tuple(own.chance.values()))
            totals.append(own.values[count])
        throughput = self.examples / self.seconds if self.seconds else 0.0
        self.figures, self.examples, self.seconds = [], 0, 0.0
        means = {name: _means(lists) for name, lists in parts.items()}
        return {**means, "total": sum(totals) / len(totals), "throughput": throughput}

    def state(self) -> list[dict[str, Any]]:
        """What is not yet reported, as JSON (after `read`)."""
        finite = [[v if math.isfinite(v) else None for v in own.values] for own in self.figures]
        return [asdict(own) | {"values": values} for own, values in zip(self.figures, finite, strict=True)]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take back what `state` gave. Its examples belong to another process's clock and do not count."""
        self.figures = []
        for own in state:
            values = tuple(math.nan if v is None else v for v in own["values"])
            self.figures.append(Figures(tuple(own["terms"]), tuple(own["groups"]), values, own["chance"]))


def _collect(lists: dict[str, list[float]], names: Sequence[str], values: Sequence[float]) -> None:
    for name, value in zip(names, values, strict=True):
        lists.setdefault(name, []).append(value)


def _means(lists: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in lists.items()}
