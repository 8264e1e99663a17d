"""The geometry of a model's vectors: isotropy and what goes with it, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.gaussianity import knots_of
from lodesmith.core.protocols import Metric
from lodesmith.evaluation._hubs import Hubness, hubness
from lodesmith.evaluation._isotropy import (
    Rows,
    Spectrum,
    alignment,
    mean_cosine,
    random_pairs,
    sigreg,
    spectrum,
    uniformity,
    unit_rows,
)

__all__ = ["Geometry", "Histogram", "Picture", "Positives", "figures", "measure"]

AXES = (1, 10, 50, 100)
"""Numbers of principal axes whose share of the variance is shown."""
ENOUGH = 10
"""Vectors a dimension below which IsoScore is too low."""

_BINS = 80
_PAIRS = 200_000
_POINTS = 2000
_CROWD = 1024
_DIRECTIONS = 64


@dataclass(frozen=True)
class Positives:
    """Queries with a relevant document: `pairs` of them, alignment E‖f(x) − f(x⁺)‖², and their mean cosine."""

    pairs: int
    alignment: float
    cosine: float


@dataclass(frozen=True)
class Histogram:
    """Shares of cosines in equal bins from −1 to 1: of random pairs, and of positive ones (empty where unknown)."""

    random: tuple[float, ...]
    positive: tuple[float, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Points on the first two principal axes of the documents: some documents, and some queries."""

    documents: tuple[tuple[float, float], ...]
    queries: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Geometry:
    """Figures of n vectors of d dimensions.

    Args:
        items: n.
        dimension: d.
        metric: how neighbours were found.
        sigreg: the statistic T of the vectors as they are; it grows with n where they are not standard normal.
        sigreg_scaled: T of the vectors times `scale`, so that only their shape counts, not their size.
        scale: √(d / E‖x‖²).
        floor: what T of standard normal vectors is on average, for any n.
        isoscore: 0 to 1.
        effective_rank: exp(H(σ/Σσ)).
        mean_share: ‖μ‖² over E‖x‖².
        mean_cosine: of all pairs.
        mean_cosine_error: its standard error.
        uniformity: of unit vectors.
        explained: number of principal axes → their share of the variance.
        spectrum: normalised singular values of the centred vectors, largest first.
        hubness: None where it was left out.
        positives: None where none are known.
        histogram, picture: for plots.
    """

    items: int
    dimension: int
    metric: Metric
    sigreg: float
    sigreg_scaled: float
    scale: float
    floor: float
    isoscore: float
    effective_rank: float
    mean_share: float
    mean_cosine: float
    mean_cosine_error: float
    uniformity: float
    explained: Mapping[int, float]
    spectrum: tuple[float, ...]
    histogram: Histogram
    picture: Picture
    hubness: Hubness | None = None
    positives: Positives | None = None

    @property
    def biased(self) -> bool:
        """Whether there are too few vectors for IsoScore: it is then lower than that of many."""
        return self.items < ENOUGH * self.dimension

    @property
    def measures(self) -> dict[str, float]:
        """The figures by a short name, for a log."""
        found = {
            "sigreg": self.sigreg,
            "sigreg/n": self.sigreg / self.items,
            "sigreg_scaled": self.sigreg_scaled,
            "isoscore": self.isoscore,
            "effective_rank": self.effective_rank,
            "mean_cosine": self.mean_cosine,
            "uniformity": self.uniformity,
        }
        if self.positives:
            found["alignment"] = self.positives.alignment
        if self.hubness:
            found["hubness"] = self.hubness.skewness
        return found

    def to_json(self, *, points: bool = False) -> dict[str, Any]:
        """A JSON object; `points` adds those of the picture."""
        value = asdict(self) | {
            "sigreg_per_item": self.sigreg / self.items,
            "sigreg_scaled_per_item": self.sigreg_scaled / self.items,
            "isoscore_biased": self.biased,
            "explained": {str(count): share for count, share in self.explained.items()},
        }
        if not points:
            del value["picture"]
        return value

    def to_text(self) -> str:
        """A table: measure, figure, and how to read it."""
        rows = self.rows()
        first, second = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
        lines = [f"{self.items:,} vectors of {self.dimension} dimensions, compared by {self.metric}"]
        lines += [f"{name:<{first}}  {figure:>{second}}  {note}".rstrip() for name, figure, note in rows]
        return "\n".join(lines)

    def rows(self) -> list[tuple[str, str, str]]:
        """(measure, figure, how to read it), as `to_text` shows them."""
        need = f"too low: below {ENOUGH}·d = {ENOUGH * self.dimension:,} vectors it is biased"
        shares = ", ".join(f"{share:.3f} by {count}" for count, share in self.explained.items() if count > 1)
        found = [
            (
                "SIGReg T",
                _figure(self.sigreg),
                f"T/N {self.sigreg / self.items:.2g}; standard normal vectors have T {self.floor:.3f}",
            ),
            (
                "SIGReg T, rescaled",
                _figure(self.sigreg_scaled),
                f"T/N {self.sigreg_scaled / self.items:.2g}; vectors × {self.scale:.3g}, so that E‖x‖² = d",
            ),
            ("IsoScore", f"{self.isoscore:.3f}", need if self.biased else "1 is even, 0 one direction"),
            ("effective rank", f"{self.effective_rank:.1f}", f"of {min(self.dimension, self.items - 1)}"),
            ("variance explained", f"{self.explained[1]:.3f}", f"by the first axis; {shares}".rstrip("; ")),
            ("mean's share of E‖x‖²", f"{self.mean_share:.3f}", "0 is centred"),
            ("mean cosine", _signed(self.mean_cosine), f"± {self.mean_cosine_error:.3f}, of random pairs"),
            ("uniformity", _signed(self.uniformity), "−4 is even, 0 one point"),
        ]
        if self.positives:
            note = f"{self.positives.pairs:,} positive pairs, mean cosine {self.positives.cosine:.3f}; 0 is best"
            found.append(("alignment", f"{self.positives.alignment:.3f}", note))
        if hubs := self.hubness:
            note = f"{hubs.never:.1%} of items in no list, none in more than {hubs.most:,}; 0 is even"
            found.append((f"hubness, skew of N_{hubs.k}", _signed(hubs.skewness, 2), note))
        return found


def measure(
    values: Rows,
    pairs: tuple[Rows, Rows] | None = None,
    *,
    metric: Metric = "cosine",
    neighbours: int = 10,
    directions: int = 256,
    seed: int = 0,
) -> Geometry:
    """Measure vectors [n, d].

    Uniformity and hubness compare all pairs: their time grows with n²; all else is linear in n.

    Args:
        values: the documents'.
        pairs: queries and a relevant document of each, [p, d] twice.
        metric: by which neighbours are found.
        neighbours: k of the hubness; 0 leaves it out.
        directions: of SIGReg.
        seed: of directions and random pairs.

    Raises:
        InputError: there are fewer than two vectors, or one is not finite, or shapes do not fit.
    """
    _check(values, pairs)
    axes, unit = spectrum(values), unit_rows(values)
    scale = math.sqrt(axes.dimension / axes.power) if axes.power else 1.0
    cosine, error = mean_cosine(unit)
    positives, cosines = _positives(pairs)
    return Geometry(
        items=len(values),
        dimension=axes.dimension,
        metric=metric,
        sigreg=sigreg(values, directions=directions, seed=seed),
        sigreg_scaled=sigreg(values, directions=directions, seed=seed, scale=scale),
        scale=scale,
        floor=knots_of().floor,
        isoscore=axes.isoscore,
        effective_rank=axes.effective_rank,
        mean_share=axes.mean_share,
        mean_cosine=cosine,
        mean_cosine_error=error,
        uniformity=uniformity(unit),
        explained={count: axes.explained(count) for count in AXES if count == 1 or count <= axes.dimension},
        spectrum=tuple(axes.singular.tolist()),
        histogram=_histogram(unit, cosines, seed),
        picture=_picture(values, pairs, axes, seed),
        hubness=hubness(values, metric, neighbours) if neighbours else None,
        positives=positives,
    )


def figures(
    values: Rows, pairs: tuple[Rows, Rows] | None = None, *, metric: Metric = "cosine", seed: int = 0
) -> dict[str, float]:
    """What `Geometry.measures` says of vectors [n, d], quickly enough for every epoch: SIGReg along fewer directions,
    and what compares all pairs (uniformity, hubness) over `_CROWD` of the rows, spread evenly over them.

    Hubness depends on the number of rows: compare it with that of as many only.

    Raises:
        InputError: there are fewer than two vectors, or one is not finite, or shapes do not fit.
    """
    _check(values, pairs)
    axes, unit = spectrum(values), unit_rows(values)
    crowd = np.linspace(0, len(values) - 1, min(_CROWD, len(values))).astype(np.int64)
    statistics = [
        sigreg(values, directions=_DIRECTIONS, seed=seed, scale=scale)
        for scale in (1.0, math.sqrt(axes.dimension / axes.power) if axes.power else 1.0)
    ]
    found = {
        "sigreg": statistics[0],
        "sigreg/n": statistics[0] / len(values),
        "sigreg_scaled": statistics[1],
        "sigreg_scaled/n": statistics[1] / len(values),
        "isoscore": axes.isoscore,
        "effective_rank": axes.effective_rank,
        "mean_cosine": mean_cosine(unit)[0],
        "uniformity": uniformity(unit[crowd]),
        "hubness": hubness(values[crowd], metric).skewness,
    }
    positives, _ = _positives(pairs)
    return found | ({} if positives is None else {"alignment": positives.alignment})


def _check(values: Rows, pairs: tuple[Rows, Rows] | None) -> None:
    if values.ndim != 2 or len(values) < 2 or not values.shape[1]:
        raise InputError(f"geometry needs at least two vectors [n, d], not {list(values.shape)}")
    for rows in (values, *(pairs or ())):
        if rows.shape[1:] != values.shape[1:]:
            raise InputError(f"vectors of {rows.shape[1:]} and of {values.shape[1:]} dimensions do not fit")
        if not np.isfinite(rows).all():
            raise InputError("a vector has a component that is NaN or infinite", "look at the model: lode doctor MODEL")
    if pairs and len(pairs[0]) != len(pairs[1]):
        raise InputError(f"positive pairs need two sides: {len(pairs[0])} != {len(pairs[1])}")


def _positives(pairs: tuple[Rows, Rows] | None) -> tuple[Positives | None, NDArray[np.float32]]:
    if pairs is None or not len(pairs[0]):
        return None, np.empty(0, np.float32)
    first, second = map(unit_rows, pairs)
    cosines = np.einsum("nd,nd->n", first, second)
    return Positives(len(first), alignment(first, second), float(cosines.mean(dtype=np.float64))), cosines


def _histogram(unit: NDArray[np.float32], positive: NDArray[np.float32], seed: int) -> Histogram:
    first, second = random_pairs(len(unit), min(_PAIRS, len(unit) * (len(unit) - 1)), seed)
    random = np.concatenate(
        [np.einsum("nd,nd->n", unit[a], unit[b]) for a, b in zip(_parts(first), _parts(second), strict=True)]
    )
    return Histogram(_shares(random), _shares(positive) if len(positive) else ())


def _parts(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(places, max(1, len(places) // 4096))


def _shares(cosines: NDArray[np.float32]) -> tuple[float, ...]:
    counts, _ = np.histogram(np.clip(cosines, -1, 1), _BINS, (-1, 1))
    return tuple((counts / len(cosines)).tolist())


def _picture(values: Rows, pairs: tuple[Rows, Rows] | None, axes: Spectrum, seed: int) -> Picture:
    queries = _points(np.unique(pairs[0], axis=0), axes, seed) if pairs and len(pairs[0]) else ()
    return Picture(_points(values, axes, seed), queries)


def _points(values: Rows, axes: Spectrum, seed: int) -> tuple[tuple[float, float], ...]:
    chosen = np.random.default_rng(seed).permutation(len(values))[:_POINTS]
    flat = (np.asarray(values[np.sort(chosen)], np.float64) - axes.mean) @ axes.axes
    return tuple((round(float(row[0]), 5), round(float(row[-1]), 5) if len(row) > 1 else 0.0) for row in flat)


def _figure(statistic: float) -> str:
    return f"{statistic:,.0f}" if statistic >= 1000 else f"{statistic:.3g}" if statistic >= 100 else f"{statistic:.3f}"


def _signed(number: float, digits: int = 3) -> str:
    text = f"{abs(number):.{digits}f}"
    return text if number >= 0 or float(text) == 0 else f"−{text}"
