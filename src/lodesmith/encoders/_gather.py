"""Weighted sums of rows by bags, as one gather over the distinct words of each bag, whose gradient on a CPU is one
gather too.

The gradient of a row is the sum of the gradients of the bags that have it: the same operation with the roles of rows
and bags exchanged. One sort of (word, bag) brings equal words of a bag together (in running text every second word is
there already) and gives the order of the way back. torch's own backward pass adds word by word into a zeroed table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag, pad

from lodesmith.encoders._cells import in_float32, once

__all__ = ["gather_sum"]


def gather_sum(
    rows: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor | None = None, *, first: int = 0, sparse: bool = False
) -> Tensor:
    """Σ w(i)·rows[i] over the ids i ≥ `first` of each bag.

    Args:
        rows: [v, d].
        ids: int64 [total].
        offsets: int64 [n + 1], where each bag begins; the last is `total`.
        weights: [v], of each row; None for ones.
        first: the rows before it are zero, and stay so.
        sparse: on a CPU, give the gradient of the rows as a sparse tensor of those that the bags have.

    Returns:
        [n, d], with gradients for rows and weights.
    """
    if rows.device.type != "cpu" or not torch.is_grad_enabled():
        if first and torch.is_grad_enabled():
            there = ids >= first
            ids, offsets = ids[there], pad(there.cumsum(0), (1, 0))[offsets]
        of_ids = None if weights is None else weights[ids]
        return embedding_bag(ids, rows, offsets[:-1], mode="sum", per_sample_weights=of_ids)
    found: Tensor = _GatherSum.apply(rows, weights, ids, offsets, first, sparse)  # type: ignore[no-untyped-call]
    return found


class _GatherSum(Function):
    @staticmethod
    @in_float32
    def forward(
        ctx: Any, rows: Tensor, weights: Tensor | None, ids: Tensor, offsets: Tensor, first: int, sparse: bool
    ) -> Tensor:
        """The sums."""
        bags = len(offsets) - 1
        words, holders, counts = _distinct(ids.numpy(), offsets.numpy(), first, len(rows))
        factors = counts.to(rows.dtype)
        ctx.save_for_backward(rows, weights, words, holders, factors)
        ctx.sparse = sparse
        if weights is not None:
            factors = factors * weights[words]
        order, starts = _by(holders, bags)
        return embedding_bag(words[order], rows, starts, mode="sum", per_sample_weights=factors[order])

    @staticmethod
    @once
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:
        """Gradients."""
        rows, weights, words, holders, factors = ctx.saved_tensors
        to_rows = to_weights = None
        met, counts = torch.unique_consecutive(words, return_counts=True)
        starts = counts.cumsum(0) - counts
        sums = embedding_bag(holders, given.contiguous(), starts, mode="sum", per_sample_weights=factors)
        if weights is not None and ctx.needs_input_grad[1]:
            to_weights = torch.zeros_like(weights).index_copy_(0, met, torch.linalg.vecdot(rows[met], sums))
        if ctx.needs_input_grad[0]:
            if weights is not None:
                sums *= weights[met, None]
            if ctx.sparse:
                to_rows = torch.sparse_coo_tensor(
                    met[None], sums, rows.shape, is_coalesced=True, check_invariants=False
                )
            else:
                to_rows = torch.zeros_like(rows).index_copy_(0, met, sums)
        return to_rows, to_weights, None, None, None, None


def _distinct(
    ids: NDArray[np.int64], offsets: NDArray[np.int64], first: int, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of id, from `first`, and bag, by id, then bag: ids int64 [p], bags int64 [p], and how often each
    occurs, int64 [p]."""
    shift = max(1, (len(offsets) - 1).bit_length())
    kind: Any = np.uint32 if rows << shift < 1 << 32 else np.int64
    keys = ids.astype(kind) << kind(shift)
    keys |= np.repeat(np.arange(len(offsets) - 1, dtype=kind), np.diff(offsets))
    keys.sort()
    keys = keys[np.searchsorted(keys, kind(first << shift)) :]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(keys)]
    pairs = keys[starts].astype(np.int64)
    counts = np.diff(starts, append=len(keys))
    return torch.from_numpy(pairs >> shift), torch.from_numpy(pairs & ((1 << shift) - 1)), torch.from_numpy(counts)


def _by(holders: Tensor, bags: int) -> tuple[Tensor, Tensor]:
    """An order of the pairs by bag, and where each bag begins in it: int64 [p] and [bags]."""
    plain = holders.numpy()
    narrow = plain.astype(np.uint16) if bags <= 1 << 16 else plain  # sorted by counting
    counts = np.bincount(plain, minlength=bags)
    return torch.from_numpy(np.argsort(narrow, kind="stable")), torch.from_numpy(np.cumsum(counts) - counts)
