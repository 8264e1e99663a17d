"""A batch of queries in few bits, and how far the products with a row can be from its exact score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.protocols import Metric
from lodesmith.indexes._precision import Floats, Packed, Product, pack
from lodesmith.indexes._segment import Block
from lodesmith.similarity._rows import norms, wide

Ints = NDArray[np.int64]

_KERNEL = 2.0**-20
"""The share of a score's magnitude that covers its roundings to float32: the exact score's own, and those of the
norms, means and offsets that the approximate score is made of (each at most 2⁻²³)."""


@dataclass
class Batch:
    """A batch of queries, ready to be multiplied.

    Args:
        raw: float64 [q, d], as given. single: float32 [q, d], as given, or of unit length under the cosine.
        norms: float64 [q], their lengths (cosine only).
        packed: y = q, q/‖q‖ or 2(q − centre), in few bits.
        constant: float64 [q], what a query's scores have in common: score = y·x + offset + constant.
        centre: ‖centre‖.
    """

    raw: torch.Tensor
    single: torch.Tensor
    norms: Floats
    packed: Packed
    constant: Floats
    centre: float
    metric: Metric

    @classmethod
    def of(
        cls, raw: NDArray[np.float32], metric: Metric, precision: str, centre: NDArray[np.float32], blocks: list[Block]
    ) -> Batch:
        """Pack queries for these blocks."""
        given = wide(raw)
        exact, middle = given.clone(), wide(centre[None])
        lengths = norms(raw) if metric == "cosine" else np.zeros(0)
        least = 0.0
        if metric == "cosine":
            exact /= torch.from_numpy(np.where(lengths > 0, lengths, 1.0))[:, None]
        single = exact.float()
        constant = (exact * middle).sum(dim=1)
        if metric == "euclidean":
            exact -= middle
            constant = -exact.square().sum(dim=1)
            exact *= 2
            ratio = max((float(-b.offset.min()) / b.scale for b in blocks if b.offset is not None), default=0.0)
            least = ratio / (2.0**30 if precision == "int8" else 2.0**100)
        packed = pack(exact.float(), precision, shared=metric == "euclidean", least=least)
        packed = Packed(packed.values, np.broadcast_to(packed.scale, len(raw)), packed.residual, packed.norm)
        return cls(
            given, single, lengths, packed, constant.numpy(), float(np.linalg.norm(centre.astype(np.float64))), metric
        )

    def error(self, residual: Floats | float, norm: Floats | float, product: Product, at: Ints | slice) -> Floats:
        """How far an approximate score can be from the exact kernel's, for the queries `at` and rows of that make."""
        own, lost = self.packed.norm[at], self.packed.residual[at]
        bound = own * residual + lost * norm + product.accumulation * own * norm + 2.0**-140
        if self.metric == "euclidean":
            bound += _KERNEL * (own / 2 + norm) ** 2 + product.rounding * own * norm
        else:
            bound += _KERNEL * own * (norm + self.centre)
        exact: Floats = bound
        return exact
