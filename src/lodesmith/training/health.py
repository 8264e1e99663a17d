"""Whether a training is well: what is no number stops it; what teaches nothing is named, with evidence and a cure.

The rules read events alone, so that `training.diagnosis` can apply them to a metrics file long after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, get_args

from lodesmith.core import events
from lodesmith.core.errors import DivergedError, LodesmithError
from lodesmith.core.events import Event
from lodesmith.training._rules import STEP_RULES, VALIDATION_RULES, Finding, Memory

if TYPE_CHECKING:
    from lodesmith.training.optim import OptimSettings

__all__ = [
    "CAUSES",
    "Cause",
    "Finding",
    "Health",
    "StoppedError",
    "check_finite",
    "crowded",
    "diverged",
    "heed",
    "misplaced",
    "pad_leak",
    "probed",
]

Cause = Literal[
    "nan",
    "exploding",
    "pad_leak",
    "frozen",
    "vanishing",
    "join",
    "collapse",
    "guessing",
    "zero",
    "duplicates",
    "negligible",
    "overfitting",
]
"""The short names of what can be wrong, roots before what follows from them."""
CAUSES: tuple[Cause, ...] = get_args(Cause)

LEAK = 1e-4
"""Distance, relative to the vector's length, beyond which padding has changed a vector; rounding stays below 1e-5."""
CROWDED = 0.05
"""Share of examples in a batch with another positive of their query from which that is worth a word."""


class StoppedError(LodesmithError):
    """A training was stopped by a finding that its recipe lists in `stop_on`."""


def check_finite(step: int, names: Sequence[str], values: Sequence[float]) -> None:
    """Stop at a step whose loss or gradient is NaN or infinite.

    Raises:
        DivergedError: naming the first such term and the step.
    """
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise diverged(f"{name} is {value} at step {step}")


def diverged(what: str) -> DivergedError:
    """The error of a training that gives NaN or infinity."""
    return DivergedError(
        f"{what}; the last good checkpoint is kept",
        "lower the learning rate, clip gradients, raise the temperature, or look for NaN in the stored vectors",
    )


@dataclass
class Health:
    """Watches the events of a stage.

    Args:
        seen: what it has seen, as JSON; part of a checkpoint.
    """

    seen: dict[str, Any] = field(default_factory=dict)

    def watch(self, event: Event) -> Iterator[Finding]:
        """Take one event; yields what has looked wrong for long enough, each thing once a stage."""
        memory = Memory(self.seen)
        if isinstance(event, events.Step):
            for step_rule in STEP_RULES:
                yield from step_rule(event, memory)
        elif isinstance(event, events.Validation):
            for validation_rule in VALIDATION_RULES:
                yield from validation_rule(event, memory)


# --------------------------------------------------------------- before the first step


def misplaced(settings: OptimSettings, trains: Mapping[str, bool], epochs: int | None = None) -> Iterator[Finding]:
    """Groups that are not what the recipe says of them.

    Args:
        settings: the stage's.
        trains: whether each parameter trains at first, by name, after the stage froze what it freezes.
        epochs: of the stage, where they are counted.
    """
    from fnmatch import fnmatchcase

    for group in settings.groups:
        own = [name for name in trains if fnmatchcase(name, group.match)]
        frozen = group.freeze or group.freeze_epochs > 0
        wrong = [name for name in own if trains[name] is frozen]
        if epochs is not None and group.freeze_epochs >= epochs:
            yield Finding(
                "frozen",
                f"group {group.match!r} is frozen for {group.freeze_epochs} epochs, and the stage has {epochs}: it "
                "never trains",
                "give the stage more epochs, or the group fewer frozen ones",
            )
        if wrong and frozen:
            yield Finding(
                "frozen",
                f"group {group.match!r} is said to be frozen, but {_some(wrong)} will train: an earlier group takes "
                f"{'it' if len(wrong) == 1 else 'them'}",
                "the first group that fits a parameter takes it: put the frozen group first",
            )
        elif own and len(wrong) == len(own):
            yield Finding(
                "frozen",
                f"group {group.match!r} has settings to train with, but nothing in it trains ({_some(wrong)})",
                "the first group that fits a parameter takes it, and what the model itself freezes stays frozen",
            )


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def crowded(batches: Any) -> Iterator[Finding]:
    """Batches that hold several positives of one query, where they tell it by `collisions` or `plan.collisions`."""
    plan = getattr(batches, "plan", None)
    count = getattr(batches if plan is None else plan, "collisions", 0)
    pairs = getattr(batches, "pairs", None)
    examples = len(pairs) if pairs is not None else len(getattr(plan, "order", ()))
    if count and examples and count >= CROWDED * examples:
        yield Finding(
            "duplicates",
            f"{count:,} of {examples:,} examples share a batch with another positive of their query: few queries or "
            "documents make most of the pairs",
            "they are masked, which leaves few negatives: use smaller batches, fewer pairs of one document, or mined "
            "negatives",
        )


def pad_leak(encode: Callable[[Sequence[Any]], Any], short: Any, long: Any) -> float:
    """How far a text's vector moves when a longer text stands beside it: 0 where padding is ignored.

    Args:
        encode: items together, as training does → vectors [n, d], as tensor or array.
        short: an item.
        long: a longer one.

    Returns:
        ‖alone − padded‖ / ‖alone‖.
    """
    alone = [float(x) for x in encode([short])[0]]
    padded = [float(x) for x in encode([short, long])[0]]
    return math.dist(alone, padded) / (math.hypot(*alone) or 1.0)


# -------------------------------------------------------------------- of the event stream


def probed(
    happenings: Iterator[Event], encode: Callable[[Sequence[Any]], Any], short: Any, long: Any
) -> Iterator[Event]:
    """Pass events on; a training that begins is first asked whether padding changes its vectors.

    Args:
        happenings: of `fit`.
        encode: as of `pad_leak`, without dropout and gradients.
        short: an item.
        long: a longer one.
    """
    try:
        moved = pad_leak(encode, short, long)
        first = next(happenings, None)
        if first is None:
            return
        if not moved <= LEAK and not isinstance(first, events.Resumed):
            yield events.Warning(
                0,
                first.epoch,
                first.stage,
                f"padding changes vectors: the same text, alone and beside a longer one, differs by {moved:.1%}",
                "read the last valid state or a masked mean, never a state after the padding; keep the pad row at zero",
                "pad_leak",
            )
        yield from chain([first], happenings)
    finally:
        if close := getattr(happenings, "close", None):
            close()


def heed(happenings: Iterator[Event], stop_on: Sequence[str]) -> Iterator[Event]:
    """Pass events on, and stop at a warning whose cause is listed. Every process sees the same events, so all stop.

    Raises:
        StoppedError: naming the cause, after the warning was passed on.
    """
    try:
        for event in happenings:
            yield event
            if isinstance(event, events.Warning) and event.cause and event.cause in stop_on:
                raise StoppedError(
                    f"stopped at step {event.step} by {event.cause}: {event.message}",
                    f"{event.cure}; or go on all the same: --resume without {event.cause!r} in stop_on",
                )
    finally:
        if close := getattr(happenings, "close", None):
            close()
