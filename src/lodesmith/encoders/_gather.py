"""Sums of rows by bags, as one gather, whose gradient on a CPU is one gather too.

The gradient of a row is the sum of the gradients of the bags that have it: the same operation with the roles of rows
and bags exchanged. torch's own backward pass adds bag by bag into a zeroed table, which takes twice as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag

from lodesmith.encoders._cells import in_float32, once

__all__ = ["gather_sum"]

_NARROW = 1 << 16
"""Ids below this are sorted as sixteen bits, by counting."""


def gather_sum(rows: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ w(t)·rows[ids(t)] over the tokens t of each bag.

    Args:
        rows: [v, d].
        ids: int64 [total].
        offsets: int64 [n + 1], where each bag begins; the last is `total`.
        weights: [total]; None for ones.

    Returns:
        [n, d], with gradients for rows and weights.
    """
    if rows.device.type != "cpu" or not torch.is_grad_enabled():
        return embedding_bag(ids, rows, offsets[:-1], mode="sum", per_sample_weights=weights)
    found: Tensor = _GatherSum.apply(rows, ids, offsets, weights)  # type: ignore[no-untyped-call]
    return found


class _GatherSum(Function):
    @staticmethod
    @in_float32
    def forward(ctx: Any, rows: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """The sums."""
        ctx.save_for_backward(rows, ids, offsets, weights)
        return embedding_bag(ids, rows, offsets[:-1], mode="sum", per_sample_weights=weights)

    @staticmethod
    @once
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:
        """Gradients."""
        rows, ids, offsets, weights = ctx.saved_tensors
        bags = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
        to_rows = to_weights = None
        if ctx.needs_input_grad[0]:
            plain = ids.numpy().astype(np.uint16 if len(rows) <= _NARROW else np.int32)
            order = torch.from_numpy(np.argsort(plain, kind="stable"))
            starts = np.concatenate([[0], np.cumsum(np.bincount(plain, minlength=len(rows)))[:-1]])
            to_rows = embedding_bag(
                bags[order],
                given.contiguous(),
                torch.from_numpy(starts),
                mode="sum",
                per_sample_weights=None if weights is None else weights[order],
            )
        if weights is not None and ctx.needs_input_grad[3]:
            to_weights = torch.linalg.vecdot(rows[ids], given[bags])
        return to_rows, None, None, to_weights
