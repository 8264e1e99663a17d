"""How far one ranker does what another does: the share of its quality, its results, and the order of its scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.results import Estimate, Evaluation
from lodesmith.core.run import Run
from lodesmith.evaluation.hits import Floats
from lodesmith.evaluation.significance import bootstrap_means, interval

__all__ = ["overlap", "ranks", "retained", "spearman"]


def retained(student: Evaluation, teacher: Evaluation, measure: str = "nDCG@10", seed: int = 0) -> Estimate:
    """The ratio of the student's mean to the teacher's, 1 where they are equal, with its 95 % interval.

    The interval is the percentile bootstrap over queries of the ratio of the two means, which stay paired: each draw
    of queries serves both. A mean of ratios by query is something else, and undefined where the teacher finds nothing.

    Args:
        student: evaluated on the queries of `teacher`.
        teacher: the whole of it.
        measure: which both have.
        seed: of the resampling.

    Raises:
        InputError: their queries differ, or the teacher's mean is 0.
    """
    if student.per_query.keys() != teacher.per_query.keys():
        raise InputError(f"{student.system} and {teacher.system} have other queries", "evaluate both on one split")
    both = [
        np.array([evaluation.per_query[query][measure] for query in teacher.per_query], np.float64)
        for evaluation in (student, teacher)
    ]
    kept, whole = (float(values.mean()) for values in both)
    if whole <= 0:
        raise InputError(
            f"the teacher {teacher.system!r} has {measure} 0 on {teacher.dataset}: nothing can be retained",
            "choose another teacher or dataset",
        )
    drawn = bootstrap_means(both, seed=seed)
    drawn = drawn[drawn[:, 1] > 0]
    return Estimate(kept / whole, *interval(drawn[:, 0] / drawn[:, 1], kept / whole))


def overlap(a: Run, b: Run, k: int = 10) -> dict[str, float]:
    """The share of b's first k results that are among a's first k, for each query of b: 0 to 1.

    A query without results in b counts 1 where a has none either, else 0.
    """
    first, second = a.top(k), b.top(k)
    found = {}
    for query, ranking in second.items():
        mine = {document for document, _ in first[query]} if query in first else set()
        theirs = {document for document, _ in ranking}
        found[query] = len(mine & theirs) / len(theirs) if theirs else float(not mine)
    return found


def ranks(values: ArrayLike) -> Floats:
    """Ranks [n] of values [n] from 1, the smallest first; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    means: Floats = np.cumsum(counts) - (counts - 1) / 2
    return means[place.reshape(-1)]


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's correlation of two scores of the same items, [n] each: Pearson's of the ranks, ties sharing theirs.

    None where it is not defined: fewer than two items, or one side has a single value.
    """
    first, second = (_centred(ranks(values)) for values in (a, b))
    length = float(np.sqrt((first @ first) * (second @ second)))
    return float(np.clip(first @ second / length, -1.0, 1.0)) if length > 0 else None


def _centred(values: NDArray[np.float64]) -> Floats:
    return values - values.mean() if len(values) else values
