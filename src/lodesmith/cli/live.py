"""The live display of a training: loss, validation, throughput, time left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lodesmith.cli.console import say
from lodesmith.core import events
from lodesmith.core.progress import tell

if TYPE_CHECKING:
    from lodesmith.recipes.train import Training


def follow(training: Training) -> dict[str, Any]:
    """Run a training, show what happens, and return its report."""
    measures: dict[str, float] = {}
    reason = ""
    last = time.monotonic()
    for event in training.events():
        match event:
            case events.Step():
                tell(f"{event.stage}: loss {event.total:.4f}", event.step, event.steps, "steps")
                if time.monotonic() - last > 15:
                    last = time.monotonic()
                    say(f"step {event.step}: loss {event.total:.4f}, {event.throughput:,.0f} examples/s")
            case events.Validation():
                measures = dict(event.measures)
                shown = "  ".join(f"{name} {value:.4f}" for name, value in measures.items())
                say(f"epoch {event.epoch}: {shown}{'  (best so far)' if event.best else ''}")
            case events.Warning():
                say(f"warning: {event.message}" + (f"\n         {event.cure}" if event.cure else ""))
            case events.Done():
                reason = event.reason
    return {"run": str(training.out), "ended": reason, "model": str(training.out / "model")} | (
        {"validation": measures} if measures else {}
    )
