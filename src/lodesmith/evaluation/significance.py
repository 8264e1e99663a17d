"""How sure a difference is: bootstrap, randomisation test, t-test, Holm's correction, power.

Everything here takes arrays of per-query values, is seeded, and works in blocks, so that memory does not follow
the number of resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lodesmith.core.errors import ConfigError
from lodesmith.evaluation.hits import Floats

__all__ = ["bootstrap_means", "detectable", "holm", "interval", "randomisation_p", "t_p"]

RESAMPLES = 10_000
SAME = 1e-9
"""Per-query values that differ by no more than this are a tie: summation order alone makes such differences."""

_BLOCK = 1 << 16
"""Random draws that are held at once: few enough for a processor's cache."""

_POWER = 1.959964 + 0.841621
"""Standard normal quantiles of 5 % two-sided and of 80 % power."""


def bootstrap_means(columns: Sequence[Floats], *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means of each column over queries drawn with replacement; one draw serves all columns, so they stay paired.

    A column's means do not depend on which other columns there are.

    Args:
        columns: m arrays of one value a query [n], n ≥ 1.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        float64 [resamples, m].
    """
    queries = len(columns[0])
    random = np.random.default_rng(seed)
    means = np.empty((resamples, len(columns)))
    for first, last in _blocks(resamples, queries):
        drawn = random.integers(0, queries, (last - first, queries))
        drawn += np.arange(last - first)[:, None] * queries
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        for number, column in enumerate(columns):
            means[first:last, number] = times @ column / queries
    return means


def _blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, size))
    for first in range(0, total, step):
        yield first, min(first + step, total)


def interval(means: Floats, mean: float, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap means [resamples] (Efron & Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), mean), max(float(high), mean)  # where all values are equal, rounding may cross the mean


def randomisation_p(difference: Floats, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the paired randomisation test: signs of per-query differences are flipped at random.

    p = (c + 1) / (permutations + 1), c the flips whose mean is at least as far from 0 as the one observed
    (Smucker, Allan & Carterette 2007; the added one keeps the test exact: Phipson & Smyth 2010).

    Args:
        difference: per query [n]; zeros do not matter.
        permutations: random flips.
        seed: of the flips; the result depends on these arguments alone.

    Raises:
        ConfigError: fewer than one permutation.
    """
    if permutations < 1:
        raise ConfigError(f"there must be at least 1 permutation, not {permutations}", "10000 is usual")
    nonzero = difference[difference != 0]
    if not len(nonzero):
        return 1.0
    total = float(nonzero.sum())
    observed = abs(total) - SAME * float(np.abs(nonzero).sum())  # rounding must not turn a tie into a smaller value
    random = np.random.default_rng(seed)
    reached = 0
    for first, last in _blocks(permutations, len(nonzero)):
        packed = random.integers(0, 256, (last - first, -(-len(nonzero) // 8)), np.uint8)
        kept = np.unpackbits(packed, axis=1, count=len(nonzero)).astype(np.float64)
        reached += int(np.count_nonzero(np.abs(2 * (kept @ nonzero) - total) >= observed))
    return (reached + 1) / (permutations + 1)


def t_p(difference: Floats) -> float:
    """Two-sided p of the paired t-test on per-query differences [n], n ≥ 2; 1 where all are zero."""
    mean, spread = float(difference.mean()), float(difference.std(ddof=1))
    if spread == 0:
        return 0.0 if mean else 1.0
    return student_p(mean / (spread / math.sqrt(len(difference))), len(difference) - 1)


def student_p(t: float, freedom: int) -> float:
    """P(|T| ≥ |t|) of Student's t: the incomplete beta function I_x(ν/2, 1/2) at x = ν / (ν + t²) (DLMF 8.17)."""
    square = t * t
    if square == 0:
        return 1.0
    x, y = freedom / (freedom + square), square / (freedom + square)
    a, b = freedom / 2, 0.5
    # log x by way of y where x is near 1, so that no digits are lost with many degrees of freedom
    log_x = math.log1p(-y) if y < 0.5 else math.log(x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * log_x + b * math.log(y))
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _beta_fraction(a, b, x) / a)
    return min(1.0, max(0.0, 1 - front * _beta_fraction(b, a, y) / b))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (DLMF 8.17.22) by Lentz's method."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return 1 / value


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected over their family by Holm's step-down method (1979), in the order given."""
    corrected = [0.0] * len(p)
    running = 0.0
    for rank, which in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        running = max(running, min(1.0, (len(p) - rank) * p[which]))
        corrected[which] = running
    return corrected


def detectable(difference: Floats) -> float:
    """The mean difference that this many queries, spread like these [n ≥ 2], find with 80 % power at 5 % two-sided."""
    return _POWER * float(difference.std(ddof=1)) / math.sqrt(len(difference))
