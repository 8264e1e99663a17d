"""Hubs: items that are among the nearest of far more items than others (Radovanović et al. 2010)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.progress import track
from lodesmith.core.protocols import Metric
from lodesmith.evaluation._isotropy import Rows, blocks, unit_rows

__all__ = ["Hubness", "hubness", "occurrences"]


@dataclass(frozen=True)
class Hubness:
    """The k-occurrence N_k: in how many items' lists of the k nearest others an item stands; its mean is k.

    Args:
        k: how long the lists are.
        skewness: of N_k; 0 is even, above 1 a few items are near to everything.
        never: the share of items that are in no list: no item finds them.
        most: the largest N_k.
    """

    k: int
    skewness: float
    never: float
    most: int


def hubness(values: Rows, metric: Metric = "cosine", k: int = 10) -> Hubness:
    """Of rows [n ≥ 2, d]; lists are shorter where there are no k others."""
    k = min(k, len(values) - 1)
    counts = occurrences(values, metric, k)
    apart = counts - counts.mean()
    spread = float((apart**2).mean()) ** 0.5
    skewness = float((apart**3).mean()) / spread**3 if spread else 0.0
    return Hubness(k, skewness, float((counts == 0).mean()), int(counts.max()))


def occurrences(values: Rows, metric: Metric, k: int) -> NDArray[np.int64]:
    """N_k of every row: int64 [n], by exact search. Which of two equally near rows is taken is not settled."""
    rows = unit_rows(values) if metric == "cosine" else np.asarray(values, np.float32)
    # −‖x − y‖² ranks as x·y − ½‖y‖² does.
    minus = 0.5 * np.einsum("nd,nd->n", rows, rows) if metric == "euclidean" else np.zeros(len(rows), np.float32)
    counts = np.zeros(len(rows), np.int64)
    for place in track(list(blocks(len(rows), len(rows))), "neighbours", unit="blocks"):
        scores = rows[place] @ rows.T - minus
        scores[np.arange(len(scores)), np.arange(place.start, place.stop)] = -np.inf
        nearest = np.argpartition(scores, -k, axis=1)[:, -k:]
        counts += np.bincount(nearest.ravel(), minlength=len(rows))
    return counts
