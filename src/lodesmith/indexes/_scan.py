"""The scan of one batch of queries: candidates from products in few bits, their true scores from the exact kernel.

For each query it keeps `limit`, a score that k items are known to reach. A row whose approximate score plus its error
bound stays below the limit cannot be among the k best; all others are scored exactly. The limit rises first with the
lower bounds of the groups' best rows, then with exact scores.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.run import id_order
from lodesmith.indexes._batch import Batch, Ints
from lodesmith.indexes._precision import Floats, Product
from lodesmith.indexes._segment import BLOCK, GROUP, Block
from lodesmith.indexes._truth import Truth

PENDING = 1 << 20
"""Candidates kept before they are thinned out: what bounds the memory when very many rows are alike."""

Found = tuple[Ints, Ints, NDArray[np.float32]]


class Scan:
    """Finds the k best items of each query of a batch.

    Args:
        batch: the queries.
        truth: scores their pairs with rows.
        k: how many items.
        product: multiplies.
    """

    def __init__(self, batch: Batch, truth: Truth, k: int, product: Product) -> None:
        self.batch = batch
        self.truth = truth
        self.k = k
        self.product = product
        self.limit = np.full(len(batch.raw), -np.inf)
        self.group, self._needed = self._grouping()
        self._lower: list[torch.Tensor] = []
        self._seen = self._updated = 0
        self._pending: list[tuple[Ints, Ints, Floats]] = []
        self._waiting = 0
        self._best: Found = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))

    def _grouping(self) -> tuple[int, int]:
        """The rows in a group, and how many groups' best rows are certain to hold k different items: as large as the
        first block can still set a useful limit with.

        An item of r consecutive rows reaches into at most ⌈(r − 1)/g⌉ + 1 groups of g rows.
        """
        rows = min(BLOCK, sum(segment.live_rows for segment in self.truth.segments))
        longest = max(segment.longest for segment in self.truth.segments)
        group = GROUP
        while True:
            spans = -(-(longest - 1) // group) + 1 if longest > 1 else 1
            needed = (self.k - 1) * spans + 1
            if group == 1 or rows >= 4 * needed * group:
                return group, needed
            group //= 2

    def visit(self, number: int, block: Block) -> None:
        """Look at one block of segment `number`."""
        units = self.batch.packed.scale * block.scale
        out = self._multiply(block, float(units[0]))
        groups = out.view(-1, self.group)
        best = groups.amax(dim=1).view(len(out), -1)
        error = self.batch.error(float(block.residual.max()), float(block.norm.max()), self.product, slice(None))
        error = error + self._offset_error(block, units)
        self._observe(best, block, units, error)
        with np.errstate(over="ignore"):
            wanted = (self.limit - self.batch.constant - error) / units
        limits = self.product.limits(wanted, out.dtype)
        hits = np.flatnonzero((best >= limits[:, None]).numpy())
        first = self.truth.first_row[number]
        step = PENDING // self.group
        for start in range(0, len(hits), step):
            query, column, score = self._look(groups, limits, hits[start : start + step], units)
            upper = score + (self.batch.constant + error)[query]
            if block.offset is None:
                upper += self.product.rounding * np.abs(score)
            self._keep(query, first + block.rows[column], upper)

    def _multiply(self, block: Block, unit: float) -> torch.Tensor:
        offset = None
        if block.offset is not None:
            scaled = torch.from_numpy(block.offset / unit)
            offset = scaled.round().to(torch.int32) if self.product.dtype == torch.int32 else scaled.float()
        out = self.product(self.batch.packed.values, block.values, offset)
        return out.index_fill_(1, block.hidden, self.product.lowest) if len(block.hidden) else out

    def _offset_error(self, block: Block, units: Floats) -> Floats:
        """An offset is rounded to a whole number of units in int8; in float32 the kernel's share covers it."""
        rounded = block.offset is not None and self.product.dtype == torch.int32
        return units if rounded else np.zeros_like(units)

    def _observe(self, best: torch.Tensor, block: Block, units: Floats, error: Floats) -> None:
        """Raise the limit by what the best rows of groups are certain to score."""
        lower = best.double() * torch.from_numpy(units)[:, None]
        if block.offset is None:  # else `error` holds it
            lower -= self.product.rounding * lower.abs()
        lower += torch.from_numpy(self.batch.constant - error)[:, None]
        self._lower.append(lower.masked_fill_(best == self.product.lowest, -float("inf")))
        self._seen += lower.shape[1]
        if self._seen >= 2 * self._updated:
            self._raise_limit()

    def _raise_limit(self) -> None:
        if self._seen < self._needed:
            return
        top = torch.cat(self._lower, dim=1).topk(self._needed, dim=1).values
        self._lower = [top]
        self._updated = self._seen
        self.limit = np.maximum(self.limit, top[:, -1].numpy())

    def _look(self, groups: torch.Tensor, limits: torch.Tensor, hits: Ints, units: Floats) -> tuple[Ints, Ints, Floats]:
        """Look into groups whose best row may count: queries, columns and approximate scores of the rows that may."""
        width = groups.shape[1]
        count = len(groups) // len(limits)
        values = groups.index_select(0, torch.from_numpy(hits))
        query = hits // count
        found = np.flatnonzero((values >= limits[torch.from_numpy(query)][:, None]).numpy())
        at = found // width
        query = query[at]
        column = (hits[at] - query * count) * width + (found - at * width)
        score = values.view(-1).index_select(0, torch.from_numpy(found)).double().numpy() * units[query]
        return query, column, score

    def _keep(self, query: Ints, row: Ints, upper: Floats) -> None:
        self._pending.append((query, row, upper))
        self._waiting += len(query)
        if self._waiting > PENDING:
            self._raise_limit()
            self._thin()
            if self._waiting > PENDING // 2:
                self._settle()

    def _thin(self) -> tuple[Ints, Ints, Floats]:
        """Drop the candidates that the limit has overtaken; returns the others, by query and promise."""
        query, row, upper = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        keep = upper >= self.limit[query]
        self._pending = [(query[keep], row[keep], upper[keep])]
        self._waiting = len(self._pending[0][0])
        return self._pending[0]

    def _settle(self) -> None:
        """Score the candidates exactly: first those that promise most, since they raise the limit for the others."""
        if not self._pending:
            return
        self._raise_limit()
        query, row, upper = self._thin()
        self._pending, self._waiting = [], 0
        order = np.argsort(_descending(query, upper.astype(np.float32)))
        query, row, upper = query[order], row[order], upper[order]
        promising = _rank(query) < self.k
        self._merge(query[promising], row[promising])
        rest = ~promising & (upper >= self.limit[query])
        query, row = query[rest], row[rest]
        close = self.truth.ceiling(query, row) >= self.limit[query]
        self._merge(query[close], row[close])

    def _merge(self, query: Ints, row: Ints) -> None:
        """Put exactly scored rows among the best: an item counts by its best row, ties go by id, descending."""
        if not len(query):
            return
        score, item = self.truth.score(query, row), self.truth.items(row)
        best = self._best
        query, item = np.concatenate([best[0], query]), np.concatenate([best[1], item])
        score = np.concatenate([best[2], score])
        if any(not segment.dense for segment in self.truth.segments):
            order = np.lexsort((-score, item, query))
            query, item, score = query[order], item[order], score[order]
            keep = np.append(True, (np.diff(query) != 0) | (np.diff(item) != 0))
            query, item, score = query[keep], item[keep], score[keep]
        order = self._order(query, item, score)
        query, item, score = query[order], item[order], score[order]
        rank = _rank(query)
        self._best = query[rank < self.k], item[rank < self.k], score[rank < self.k]
        last = rank == self.k - 1
        self.limit[query[last]] = np.maximum(self.limit[query[last]], score[last])

    def _order(self, query: Ints, item: Ints, score: NDArray[np.float32]) -> Ints:
        """By query, score descending and id descending; ids are compared only where scores are equal."""
        key = _descending(query, score)
        order = np.argsort(key)
        key = key[order]
        same = np.append(False, key[1:] == key[:-1])
        tied = np.flatnonzero(same | np.append(same[1:], False))
        if len(tied):
            unique, inverse = np.unique(item[order[tied]], return_inverse=True)
            place = id_order(self.truth.names(unique))[inverse]
            order[tied] = order[tied[np.lexsort((-place, key[tied]))]]
        return order

    def finish(self) -> Found:
        """Queries, items and scores of the best, each query's by score and id, descending."""
        self._settle()
        return self._best


def _rank(query: Ints) -> Ints:
    """The place of each element within its run of equal values."""
    starts = np.flatnonzero(np.append(True, np.diff(query) != 0)) if len(query) else np.zeros(0, np.int64)
    return np.arange(len(query)) - np.repeat(starts, np.diff(np.append(starts, len(query))))


def _descending(query: Ints, score: NDArray[np.float32]) -> Ints:
    """Whole numbers that sort by query, then by score, descending: one fast sort instead of two slow ones."""
    bits = (score + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 makes −0 equal to 0
    rising = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys: Ints = (query << 32) - rising
    return keys
