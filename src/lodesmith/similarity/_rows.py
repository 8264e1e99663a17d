"""The exact kernel: sums whose bits depend on the summands alone.

The products of float32 numbers are exact in float64. They are added by halving: the second half of a row onto its
first, until one number is left. Every step is elementwise, so a row's sum is the same in any batch, at any position,
with any number of threads and on any IEEE machine; its relative error is at most (log2 d + 1)·2⁻⁵³ of Σ|products|.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.vectors import Vectors

_NARROW = 24


def pairs(queries: NDArray[np.floating], documents: NDArray[np.floating]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two arrays [n, d] as fresh float64 tensors, after rounding to float32.

    Raises:
        InputError: their shapes differ.
    """
    if queries.shape != documents.shape or queries.ndim != 2:
        raise InputError(f"row pairs must be [n, d] twice, not {list(queries.shape)} and {list(documents.shape)}")
    return wide(queries), wide(documents)


def wide(rows: NDArray[np.floating]) -> torch.Tensor:
    """A fresh float64 tensor of the rows, after rounding to float32."""
    return torch.from_numpy(np.asarray(rows, np.float32).astype(np.float64))


def halving_sum(summands: torch.Tensor) -> torch.Tensor:
    """Sum each row of float64 [n, d] by halving; overwrites the argument. Returns float64 [n]."""
    width = summands.shape[1]
    while width > _NARROW:
        half = (width + 1) // 2
        summands[:, : width - half] += summands[:, half:width]
        width = half
    summands = summands[:, :width].T.contiguous()  # short rows are slow to add, long columns are not
    while width > 1:
        half = (width + 1) // 2
        summands[: width - half] += summands[half:width]
        width = half
    return summands[0]


def norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean lengths [n] of rows [n, d], by the exact kernel."""
    values = wide(rows)
    lengths: NDArray[np.float64] = halving_sum(values.square_()).sqrt().numpy()
    return lengths


def to_float32(scores: torch.Tensor) -> NDArray[np.float32]:
    """One rounding to float32."""
    rounded: NDArray[np.float32] = scores.to(torch.float32).numpy()
    return rounded


def items(given: Vectors | NDArray[np.floating]) -> Vectors:
    """`Vectors`, or the rows of an array [n, d] as items "0", "1", …"""
    return given if isinstance(given, Vectors) else Vectors.dense(given, [str(i) for i in range(len(given))])


def positions(queries: int, documents: int, pairs: NDArray[np.integer] | None) -> NDArray[np.int64]:
    """Pairs of positions, int64 [n, 2], checked; item i with item i where None.

    Raises:
        InputError: another shape, a position that does not exist, or sides of different numbers where None.
    """
    if pairs is None:
        if queries != documents:
            raise InputError(f"{queries} queries and {documents} documents are no pairs", "say which: pairs [n, 2]")
        return np.repeat(np.arange(queries), 2).reshape(-1, 2)
    found: NDArray[np.int64] = np.asarray(pairs, np.int64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise InputError(f"pairs must be [n, 2], not {list(found.shape)}")
    if len(found) and (found.min() < 0 or (found.max(axis=0) >= [queries, documents]).any()):
        raise InputError(f"a pair lies outside {queries} queries and {documents} documents")
    return found
