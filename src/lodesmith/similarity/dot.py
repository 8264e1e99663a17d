"""Inner product."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.similarity._rows import halving_sum, pairs, to_float32

__all__ = ["dot", "dot_rows"]


def dot(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """q·d for every query [n, d] and document [m, d]: a tensor [n, m]; differentiable."""
    return queries @ documents.T


def dot_rows(queries: NDArray[np.floating], documents: NDArray[np.floating]) -> NDArray[np.float32]:
    """q·d of row pairs, [n, d] twice: float32 [n]. The sum is taken in float64 in a fixed order and rounded once, so
    a pair's score has the same bits in any batch.

    Raises:
        InputError: the shapes differ.
    """
    first, second = pairs(queries, documents)
    return to_float32(halving_sum(first.mul_(second)))
