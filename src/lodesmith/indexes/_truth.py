"""The exact kernel applied to single pairs of a query and a row, and a cheaper ceiling of its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.indexes._batch import Batch, Ints
from lodesmith.indexes._precision import Floats
from lodesmith.indexes._segment import Segment
from lodesmith.similarity._rows import halving_sum
from lodesmith.similarity.cosine import quotient

_CHUNK = 1 << 17
"""Components of each side that are in work at once; more would leave the cache."""
_TINY = 2.0**-125


class Truth:
    """Scores of pairs, for a batch and the segments of an index; rows and items are numbered through all segments.

    Args:
        segments: the index.
        batch: the queries.
        longest: no row is longer than this.
    """

    def __init__(self, segments: Sequence[Segment], batch: Batch, longest: float) -> None:
        self.segments = segments
        self.batch = batch
        self.longest = longest
        self.first_row = np.cumsum([0] + [len(s.vectors.values) for s in segments])
        self.first_item = np.cumsum([0] + [len(s.vectors) for s in segments])
        dimension = batch.raw.shape[1]
        self._step = max(16, _CHUNK // dimension)
        self._wide = torch.empty(self._step, dimension, dtype=torch.float64)
        self._short = torch.empty(self._step, dimension)
        self._rows = np.empty((self._step, dimension), np.float32)
        # (d + 4)·2⁻²³ covers d roundings of products and sums in any order, twice over.
        self._error = (dimension + 4) * 2.0**-23

    def score(self, query: Ints, row: Ints) -> NDArray[np.float32]:
        """The exact kernel's scores."""
        return self._map(query, row, self._exact).astype(np.float32)

    def ceiling(self, query: Ints, row: Ints) -> Floats:
        """Scores in float32 plus a bound on their error: no exact score is above."""
        return self._map(query, row, self._ceiling)

    def items(self, row: Ints) -> Ints:
        """The items that rows belong to."""
        item = np.empty(len(row), np.int64)
        number = np.searchsorted(self.first_row, row, side="right") - 1
        for i, segment in enumerate(self.segments):
            mine = number == i
            item[mine] = self.first_item[i] + segment.items_of(row[mine] - self.first_row[i])
        return item

    def names(self, items: Ints) -> list[str]:
        """The ids of items."""
        segment = np.searchsorted(self.first_item, items, side="right") - 1
        local = items - self.first_item[segment]
        return [self.segments[s].vectors.ids[i] for s, i in zip(segment.tolist(), local.tolist(), strict=True)]

    def _map(self, query: Ints, row: Ints, kernel: Callable[[Segment, Ints, Ints], torch.Tensor]) -> Floats:
        """Apply a kernel piece by piece, in the order of the rows, so that a memory-mapped file is read in order."""
        value = np.empty(len(row))
        order = np.argsort(row, kind="stable")
        bounds = np.searchsorted(row[order], self.first_row)
        for number, segment in enumerate(self.segments):
            mine = order[bounds[number] : bounds[number + 1]]
            for start in range(0, len(mine), self._step):
                part = mine[start : start + self._step]
                value[part] = kernel(segment, query[part], row[part] - self.first_row[number]).numpy()
        return value

    def _exact(self, segment: Segment, query: Ints, row: Ints) -> torch.Tensor:
        batch = self.batch
        first = torch.index_select(batch.raw, 0, torch.from_numpy(query), out=self._wide[: len(query)])
        second = torch.from_numpy(segment.gather(row, self._rows[: len(row)]))
        if batch.metric == "euclidean":
            return (0 - halving_sum(first.sub_(second).square_())).float()
        scores = halving_sum(first.mul_(second))
        if batch.metric == "cosine":
            scores = quotient(scores, batch.norms[query] * segment.norms[row])
        return scores.float()

    def _ceiling(self, segment: Segment, query: Ints, row: Ints) -> torch.Tensor:
        batch = self.batch
        dimension = batch.raw.shape[1]
        first = torch.index_select(batch.single, 0, torch.from_numpy(query), out=self._short[: len(query)])
        second = torch.from_numpy(segment.gather(row, self._rows[: len(row)]))
        if batch.metric == "euclidean":
            scores = -first.sub_(second).square_().sum(dim=1).double()
            error = self._error * scores.abs() + dimension * _TINY
        elif batch.metric == "cosine":
            lengths = torch.from_numpy(segment.norms[row])
            scores = first.mul_(second).sum(dim=1).double() / lengths
            error = self._error + dimension * _TINY / lengths
        else:
            scores = first.mul_(second).sum(dim=1).double()
            error = self._error * self.longest * torch.from_numpy(batch.packed.norm[query]) + dimension * _TINY
        return torch.nan_to_num(scores + error, nan=float("inf"), posinf=float("inf"), neginf=float("inf"))
