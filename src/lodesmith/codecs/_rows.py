"""Rows that are fit to be encoded, and inner products whose bits depend on the two rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, NotFiniteError

Rows = NDArray[np.float32]

_BITS = 26
"""Of a component on the grid. By Cauchy–Schwarz no partial sum of two such rows leaves the 53 bits of float64."""

_UNIT = 1e-3
"""How far from 1 a length may be for its row to count as one of unit length."""


def checked(values: NDArray[Any], dimension: int | None = None) -> Rows:
    """The rows [n, d] as float32.

    Raises:
        InputError: it is no matrix, has no columns, or has another dimension than was fitted.
        NotFiniteError: a value is NaN or infinite in float32.
    """
    if values.ndim != 2 or values.shape[1] < 1:
        raise InputError(f"vectors must be [n, d], not {list(values.shape)}", "give one row a vector")
    if dimension is not None and values.shape[1] != dimension:
        raise InputError(
            f"the vectors have {values.shape[1]} dimensions, the codec was fitted on {dimension}",
            "fit it on vectors of the same model",
        )
    with np.errstate(over="ignore"):
        rows = np.asarray(values, np.float32)
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise NotFiniteError(f"the vector of row {first} has NaN or infinite values", "encode it again")
    return rows


def fitted(dimension: int | None) -> int:
    """The dimension that a codec was fitted on.

    Raises:
        InputError: it was not.
    """
    if dimension is None:
        raise InputError("the codec has not been fitted", "call fit(values) with the documents' vectors first")
    return dimension


def lengths(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean lengths [n]. Squares are added by halving, elementwise, so a row's has the same bits in any batch."""
    squares = np.square(rows, dtype=np.float64)
    width = squares.shape[1]
    while width > 1:
        half = (width + 1) // 2
        squares[:, : width - half] += squares[:, half:width]
        width = half
    size: NDArray[np.float64] = np.sqrt(squares[:, 0])
    return size


def unit(rows: Rows) -> Rows:
    """The rows at length 1; a zero row stays zero."""
    size = lengths(rows)[:, None]
    return np.asarray(rows / np.where(size > 0, size, 1.0), np.float32)


def are_unit(rows: Rows) -> bool:
    """Whether all rows but zero ones have length 1, to a thousandth. What stands for such rows should have it too:
    coarse codes shrink them by different amounts, and inner products would no longer be cosines."""
    size = lengths(rows)
    return bool((np.abs(size[size > 0] - 1) < _UNIT).all())


def products(queries: Rows, rows: Rows) -> Rows:
    """Inner products float32 [q, n] of queries [q, d] and rows [n, d].

    Each side is rounded to 26 bits below its length's power of two. Products and sums of such numbers are exact in
    float64, in any order: a score has the same bits in any batch, block or number of threads. The rounding moves it by
    at most 2⁻²⁵·√d of the product of the lengths; rounding errors mostly cancel, and it is near 2⁻²⁷ then.

    Raises:
        InputError: their dimensions differ, or a query is NaN or infinite.
    """
    left, scale = _on_grid(checked(queries, rows.shape[1]))
    right, other = _on_grid(rows)
    exact = left @ right.T
    exact *= scale[:, None]
    exact *= other[None]
    with np.errstate(over="ignore"):
        return exact.astype(np.float32)


def _on_grid(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whole numbers [n, d] of at most 26 bits, and what to multiply each row by: a power of two."""
    _, exponents = np.frexp(lengths(rows))
    scale = np.ldexp(1.0, exponents - _BITS)
    return np.rint(rows / scale[:, None]), scale
