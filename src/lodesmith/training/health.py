"""Whether a training is well: numbers that are no numbers stop it; losses that teach nothing are pointed out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lodesmith.core.errors import DivergedError

FLAT = 5
"""So many reports in a row must look the same before anything is said."""
NEAR = 1e-3
"""Relative distance at which a loss counts as that of guessing."""

CURES = {
    "chance": "the scores do not tell the positives apart: a collapsed or constant encoder, frozen parameters, a wrong "
    "join of queries and documents, or a temperature that is far too high",
    "zero": "nothing is left to learn from: no negatives (a batch of 1, or all of them masked as duplicates), or too "
    "easy ones; use larger batches, hard negatives or a lower temperature",
}


def check_finite(step: int, names: Sequence[str], values: Sequence[float]) -> None:
    """Stop at a step whose loss or gradient is NaN or infinite.

    Raises:
        DivergedError: naming the first such term and the step.
    """
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise DivergedError(
                f"{name} is {value} at step {step}; the last good checkpoint is kept",
                "lower the learning rate, clip gradients, raise the temperature, or look for NaN in the stored vectors",
            )


@dataclass
class Health:
    """Watches the reported loss terms of a stage. What it has seen is part of a checkpoint."""

    seen: dict[str, int] = field(default_factory=dict)
    """`cause:term` → reports in a row; −1 once it was said."""

    def watch(self, terms: Mapping[str, float], chance: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Take one report; yields (message, cure) where something has looked wrong `FLAT` times in a row.

        Args:
            terms: the mean of each term since the last report.
            chance: the value of a term when the model guesses: log of the number of candidates for InfoNCE.
        """
        for name, value in terms.items():
            level = chance.get(name, 0.0)
            guessing = level > 0 and abs(value - level) <= NEAR * level
            if self._again(f"chance:{name}", guessing):
                yield f"{name} stays at {value:.4f} = log({math.exp(level):.0f}), the loss of guessing", CURES["chance"]
            if self._again(f"zero:{name}", value == 0.0):
                yield f"{name} stays at exactly 0", CURES["zero"]

    def _again(self, cause: str, holds: bool) -> bool:
        count = self.seen.get(cause, 0)
        if count < 0:
            return False
        count = count + 1 if holds else 0
        self.seen[cause] = -1 if count == FLAT else count
        return count == FLAT
