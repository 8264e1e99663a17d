"""All scores of ragged batches, differentiable, in bounded memory.

∂/∂q_i Σ max_j q_i·d_j is the winning d_j, and the other way round: forward keeps one winner a (query token, document),
a number of 4 bytes where the matrix of similarities would need one for each of the document's tokens, several times.
Both gradients are weighted sums of gathered rows, which `embedding_bag` makes without storing what it gathers, in an
order that nothing but the batch decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class Layout:
    """Where the items of a batch begin, and how much may be in work.

    Args:
        queries: int64 [n + 1] on the rows' device.
        documents: m + 1 numbers.
        budget: similarities that are held at once.
    """

    queries: torch.Tensor
    documents: list[int]
    budget: int

    def alike(self, tokens: int) -> Iterator[tuple[int, int]]:
        """Runs of documents of equal length that fit the budget, one document at least: (first, last)."""
        starts, first = self.documents, 0
        while first < len(starts) - 1:
            length = starts[first + 1] - starts[first]
            most, last = max(1, self.budget // max(1, tokens * length)), first + 1
            while last < len(starts) - 1 and last - first < most and starts[last + 1] - starts[last] == length:
                last += 1
            yield first, last
            first = last


class MaxSim(torch.autograd.Function):
    """queries [s, d], documents [t, d], layout → scores [n, m]."""

    @staticmethod
    def forward(ctx: Any, queries: torch.Tensor, documents: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Scores; keeps the winners."""
        shape = len(queries), len(layout.documents) - 1
        training = any(ctx.needs_input_grad)
        maxima = queries.new_empty(shape)
        winners = torch.empty(shape if training else (0, 0), dtype=torch.int32, device=queries.device)
        for first, last in layout.alike(len(queries)):
            rows = documents[layout.documents[first] : layout.documents[last]]
            step = max(1, layout.budget // len(rows))
            for start in range(0, len(queries), step):
                part = slice(start, start + step)
                products = (rows @ queries[part].T).view(last - first, -1, len(queries[part]))
                if training:
                    maxima[part, first:last], found = (x.T for x in products.max(1))  # the first of equals
                    winners[part, first:last] = found
                else:
                    maxima[part, first:last] = products.amax(1).T
        ctx.layout = layout
        ctx.save_for_backward(queries, documents, winners)
        return summed(maxima, layout.queries)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of queries and documents, some documents at a time."""
        queries, documents, winners = ctx.saved_tensors
        layout: Layout = ctx.layout
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        item = torch.repeat_interleave(layout.queries.diff())
        starts = torch.tensor(layout.documents, device=queries.device)
        step = max(1, layout.budget // max(1, 4 * len(queries)))  # what is sorted takes more than a similarity
        for first in range(0, winners.shape[1], step):
            last = min(first + step, winners.shape[1])
            begin, end = layout.documents[first], layout.documents[last]
            weights = gradient[:, first:last].index_select(0, item)
            rows = winners[:, first:last] + (starts[first:last] - begin)
            if ctx.needs_input_grad[0]:
                of_queries += _queries(documents[begin:end], rows, weights)
            if ctx.needs_input_grad[1]:
                of_documents[begin:end] = _documents(queries, rows, weights, end - begin)
        needed = ctx.needs_input_grad
        return of_queries if needed[0] else None, of_documents if needed[1] else None, None


def summed(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sums of runs of rows: [s, m] → [n, m]; 0 for an empty run."""
    if values.numel() == 0:
        return values.new_zeros(len(offsets) - 1, values.shape[1])
    return torch.segment_reduce(values, "sum", offsets=offsets, axis=0, initial=0)


def _queries(documents: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ_j weight_ij · document row_ij: [s, d]."""
    return embedding_bag(rows, documents, per_sample_weights=weights, mode="sum")


def _documents(queries: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, total: int) -> torch.Tensor:
    """For each of `total` document rows, Σ weight_ij · query token i over the tokens that it won: [total, d]."""
    flat = rows.reshape(-1)
    order = flat.argsort(stable=True)
    offsets = torch.zeros(total + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(torch.bincount(flat, minlength=total), 0, out=offsets[1:])
    given = weights.reshape(-1)[order]
    tokens = order.div_(rows.shape[1], rounding_mode="floor")
    return embedding_bag(tokens, queries, offsets, per_sample_weights=given, mode="sum", include_last_offset=True)
