"""Trainings whose every step is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lodesmith.core.events import Event
from lodesmith.recipes.train import Training
from lodesmith.training.engine import TorchEngine


def steps(training: Training, until: Callable[[Event], bool] | None = None) -> list[list[float]]:
    """The terms and the total of every step of a training, which is broken off after an event."""
    seen: list[list[float]] = []
    step = TorchEngine.step

    def kept(engine: TorchEngine, *given: Any) -> Any:
        row = step(engine, *given)
        seen.append(row.values[: len(row.terms) + 1].tolist())
        return row

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TorchEngine, "step", kept)
        for event in training.events():
            if until is not None and until(event):
                break
    return seen


def close(ours: list[list[float]], theirs: list[list[float]], least: int) -> bool:
    """Whether two trainings have the same steps, at least so many, with the same figures to a thousandth."""
    assert len(ours) == len(theirs) >= least
    return all(a == pytest.approx(b, rel=1e-3, abs=1e-5) for a, b in zip(ours, theirs, strict=True))
