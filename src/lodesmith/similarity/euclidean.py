"""Negative squared Euclidean distance.

Its ranking is that of the inner product minus ½‖d‖², since −‖q − d‖² = 2(q·d − ½‖d‖²) − ‖q‖².
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.similarity._rows import halving_sum, pairs, to_float32

__all__ = ["euclidean", "euclidean_rows"]


def euclidean(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """−‖q − d‖² for every query [n, d] and document [m, d]: a tensor [n, m], never above 0; differentiable.

    Both sides are shifted by the documents' mean first: distances stay, and the expansion into inner products then
    loses no digits to a large common component.
    """
    centre = documents.detach().mean(dim=0, keepdim=True)
    queries, documents = queries - centre, documents - centre
    products = queries @ documents.T
    squares = queries.square().sum(-1)[:, None] + documents.square().sum(-1)[None, :]
    return (2 * products - squares).clamp(max=0)


def euclidean_rows(queries: NDArray[np.floating], documents: NDArray[np.floating]) -> NDArray[np.float32]:
    """−‖q − d‖² of row pairs, [n, d] twice: float32 [n]. Differences are taken before squaring, in float64 and summed
    in a fixed order, so that close vectors keep their digits; rounded once.

    Raises:
        InputError: the shapes differ.
    """
    first, second = pairs(queries, documents)
    return to_float32(0 - halving_sum(first.sub_(second).square_()))  # 0 − x, since −0.0 would print oddly
