"""Cosine of the angle between two vectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.similarity._rows import halving_sum, norms, pairs, to_float32

__all__ = ["cosine", "cosine_rows"]


def cosine(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """cos(q, d) for every query [n, d] and document [m, d]: a tensor [n, m]; differentiable; 0 for a zero vector."""
    return _unit(queries) @ _unit(documents).T


def _unit(rows: torch.Tensor) -> torch.Tensor:
    # Dividing by the largest component first keeps the squares of tiny and huge vectors inside the range.
    largest = rows.detach().abs().amax(dim=-1, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    return torch.nn.functional.normalize(rows, dim=-1)


def cosine_rows(queries: NDArray[np.floating], documents: NDArray[np.floating]) -> NDArray[np.float32]:
    """cos(q, d) of row pairs, [n, d] twice: float32 [n]; 0 where either vector is zero. Products, lengths and quotient
    are float64 in a fixed order, rounded once.

    Raises:
        InputError: the shapes differ.
    """
    first, second = pairs(queries, documents)
    return to_float32(quotient(halving_sum(first.mul_(second)), norms(queries) * norms(documents)))


def quotient(products: torch.Tensor, lengths: NDArray[np.float64]) -> torch.Tensor:
    """products / lengths, float64 [n]; 0 where the lengths are."""
    divisor = torch.from_numpy(lengths)
    return torch.where(divisor > 0, products / divisor, torch.zeros_like(products))
