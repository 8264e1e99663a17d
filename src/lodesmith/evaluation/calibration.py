"""How far predicted probabilities can be trusted."""

from __future__ import annotations

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.evaluation.agreement import ranks
from lodesmith.evaluation.hits import Floats

__all__ = ["calibration_error", "reliability"]

BINS = 10


def calibration_error(probabilities: Floats, outcomes: Floats, bins: int = BINS) -> float:
    """The expected calibration error over bins of equally many items: Σ share · |mean outcome − mean probability|.

    Bins of equal width, as in Naeini et al. (2015), hold next to nothing where predictions lie close together.

    Args:
        probabilities: [n], n ≥ 1.
        outcomes: [n] of 0 and 1.
        bins: how many; no more than items.
    """
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(len(p) * abs(outcomes[p].mean() - probabilities[p].mean()) for p in parts) / len(order))


def reliability(probabilities: Floats, outcomes: Floats) -> dict[str, float | None]:
    """Figures of predicted probabilities [n] beside what happened [n], 0 or 1.

    Returns:
        `queries`: n; `base_rate`: the share of ones; `brier`: the mean squared error (Brier 1950); `brier_base_rate`:
        that of always saying the base rate; `calibration_error`; `auc`: the chance that a one has a higher probability
        than a zero, None where there is one kind alone.

    Raises:
        InputError: there is nothing to compare.
    """
    if not len(outcomes) or len(outcomes) != len(probabilities):
        raise InputError(f"{len(probabilities)} probabilities and {len(outcomes)} outcomes", "give as many of both")
    rate = float(outcomes.mean())
    return {
        "queries": len(outcomes),
        "base_rate": rate,
        "brier": float(((probabilities - outcomes) ** 2).mean()),
        "brier_base_rate": rate * (1 - rate),
        "calibration_error": calibration_error(probabilities, outcomes),
        "auc": _auc(probabilities, outcomes),
    }


def _auc(probabilities: Floats, outcomes: Floats) -> float | None:
    """The statistic of Mann and Whitney (1947) by its largest value."""
    ones = float(outcomes.sum())
    zeros = len(outcomes) - ones
    if not ones or not zeros:
        return None
    return (float(ranks(probabilities)[outcomes > 0].sum()) - ones * (ones + 1) / 2) / (ones * zeros)
