"""Measures of how evenly vectors fill their space, each a function of rows [n, d]; numpy alone, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.gaussianity import knots_of, unit_directions
from lodesmith.core.progress import track
from lodesmith.evaluation.hits import Floats

__all__ = [
    "Spectrum",
    "alignment",
    "blocks",
    "mean_cosine",
    "random_pairs",
    "sigreg",
    "spectrum",
    "uniformity",
    "unit_rows",
]

Rows = NDArray[np.floating]

_VALUES = 1 << 20
"""Numbers of a temporary matrix that are held at once."""


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows so short that a matrix of them and `width` columns stays in a processor's cache or near it."""
    size = max(1, _VALUES // max(1, width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def unit_rows(values: Rows) -> NDArray[np.float32]:
    """The rows at length 1, float32; a row of zeros stays."""
    rows = np.array(values, np.float32)
    # Dividing by the largest component first keeps the squares of tiny and huge vectors inside the range.
    rows /= _above_zero(np.abs(rows).max(1, keepdims=True))
    rows /= _above_zero(np.linalg.norm(rows, axis=1, keepdims=True))
    return rows


def _above_zero(lengths: Rows) -> Rows:
    return np.where(lengths > 0, lengths, 1)


def sigreg(values: Rows, *, directions: int = 256, seed: int = 0, step: int = 0, scale: float = 1.0) -> float:
    """The statistic of `losses.sigreg` of scale · values [n, d], in float64: 1.05 on average of standard normal rows,
    whatever n is."""
    integral = knots_of()
    axes = unit_directions(values.shape[1], directions, seed, step) * (integral.spacing * scale)
    sums = np.zeros((len(integral.times), directions), np.complex128)
    for place in blocks(len(values), 16 * directions):
        wave = np.exp(1j * (np.asarray(values[place], np.float64) @ axes))
        power = np.ones_like(wave)
        for multiple in range(len(sums)):
            power *= wave
            sums[multiple] += power.sum(0)
    apart = np.abs(sums / len(values) - integral.target[:, None]) ** 2
    return float(len(values) * (integral.weights @ apart).mean())


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What the covariance of rows [n, d] says, without their mean.

    Args:
        variances: float64 [min(n, d)], along the principal axes, largest first.
        axes: float64 [d, 2], the first two of them (one of d = 1), each with its largest component positive.
        mean: float64 [d].
        dimension: d.
        mean_share: ‖μ‖² over E‖x‖², 0 where the rows are centred.
        power: E‖x‖².
    """

    variances: Floats
    axes: Floats
    mean: Floats
    dimension: int
    mean_share: float
    power: float

    @property
    def singular(self) -> Floats:
        """Singular values of the centred rows over their sum."""
        values = np.sqrt(self.variances)
        found: Floats = values / (values.sum() or 1.0)
        return found

    @property
    def effective_rank(self) -> float:
        """exp(H(σ/Σσ)) (Roy & Vetterli 2007), from 1 to d; 0 where all rows are equal."""
        shares = self.singular[self.singular > 0]
        return math.exp(-float(shares @ np.log(shares))) if len(shares) else 0.0

    @property
    def isoscore(self) -> float:
        """IsoScore (Rudman et al. 2022, arXiv 2108.07344): 0 where one direction has all variance, 1 where all have the
        same. IsoScore* (arXiv 2305.19358) without shrinkage is the same number.

        Their defect and its two rescalings come down to (r − 1)/(d − 1), r the participation ratio (Σλ)²/Σλ². Of n
        even rows r is near d/(1 + d/n), so fewer than 10·d of them make the score too low by a tenth and more.
        """
        total = float(self.variances.sum())
        if total == 0 or self.dimension == 1:
            return 0.0 if total == 0 else 1.0
        ratio = total**2 / float((self.variances**2).sum())
        return (ratio - 1) / (self.dimension - 1)

    def explained(self, count: int) -> float:
        """The share of the variance along the first `count` principal axes."""
        return float(self.variances[:count].sum() / (self.variances.sum() or 1.0))


def spectrum(values: Rows) -> Spectrum:
    """The principal axes of rows [n, d]: of their covariance [d, d], or of their products [n, n] where n is smaller."""
    count, dimension = values.shape
    mean = np.asarray(values.mean(0, dtype=np.float64))
    parts = blocks(count, dimension)
    if count < dimension:
        centred = np.asarray(values, np.float64) - mean
        variances, inner = _descending(centred @ centred.T / count)
        axes = centred.T @ inner[:, :2]
        axes /= np.maximum(np.linalg.norm(axes, axis=0), np.finfo(np.float64).tiny)
    else:
        moments = np.zeros((dimension, dimension))
        for place in parts:
            rows = np.asarray(values[place], np.float64) - mean
            moments += rows.T @ rows
        variances, inner = _descending(moments / count)
        axes = inner[:, :2]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    power = float(variances.sum() + mean @ mean)
    share = float(mean @ mean) / power if power else 0.0
    return Spectrum(variances, axes * np.where(signs == 0, 1, signs), mean, dimension, share, power)


def _descending(matrix: Floats) -> tuple[Floats, Floats]:
    values, vectors = np.linalg.eigh(matrix)
    values = values[::-1]
    # What rounding leaves of a direction without variance is none.
    values = np.where(values > max(values[0], 0) * len(values) * np.finfo(np.float64).eps, values, 0.0)
    return values, vectors[:, ::-1]


def mean_cosine(unit: NDArray[np.float32]) -> tuple[float, float]:
    """Mean cosine of all pairs of different rows, and its standard error over the choice of rows; unit rows [n ≥ 2, d].

    The mean is exact: Σᵢⱼ uᵢ·uⱼ is ‖Σu‖². The error is that of a mean over pairs of n independent rows, twice the
    deviation of the rows' own mean cosines over √n (Hoeffding 1948).
    """
    count = len(unit)
    whole = unit.sum(0, dtype=np.float64)
    squares = np.einsum("nd,nd->n", unit, unit, dtype=np.float64)
    own = (unit.astype(np.float64) @ whole - squares) / (count - 1)
    return float(own.mean()), float(2 * own.std() / math.sqrt(count))


def uniformity(unit: NDArray[np.float32], scale: float = 2.0) -> float:
    """log E exp(−scale · ‖x − y‖²) over pairs of different unit rows [n ≥ 2, d] (Wang & Isola 2020); −2 · scale or a
    little above is even, 0 is one point."""
    total = 0.0
    places = list(blocks(len(unit), len(unit)))
    for place in track(places, "uniformity", unit="blocks"):
        cosines = unit[place] @ unit.T
        total += float(np.exp(2 * scale * (cosines - 1)).sum(dtype=np.float64))
    own = float(np.exp(2 * scale * (np.einsum("nd,nd->n", unit, unit) - 1)).sum(dtype=np.float64))
    return math.log((total - own) / (len(unit) * (len(unit) - 1)))


def alignment(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """E‖f(x) − f(x⁺)‖² of unit rows [p, d] that belong together (Wang & Isola 2020): 0 at best."""
    return float(((first - second) ** 2).sum(1, dtype=np.float64).mean())


def random_pairs(count: int, most: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of different rows among `count` ≥ 2, drawn with replacement."""
    random = np.random.default_rng(seed)
    first = random.integers(0, count, most)
    return first, (first + random.integers(1, count, most)) % count
