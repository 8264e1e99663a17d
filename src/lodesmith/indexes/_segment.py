"""Segments of a flat index: the vectors as they were given, and their copy in few bits, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.protocols import Metric
from lodesmith.core.vectors import Vectors
from lodesmith.indexes._precision import Floats, pack
from lodesmith.similarity._rows import norms, wide

GROUP = 64
"""Rows of which the scan looks at the best only, until it is good enough to look closer."""
BLOCK = 8192
"""Rows multiplied at once."""
_WINDOW_BYTES = 128 << 20
_PORTION_BYTES = 64 << 20


@dataclass
class Block:
    """Rows in few bits, ready to be multiplied.

    Args:
        values: [n, d], n a multiple of 64.
        scale: what to multiply them by.
        residual: [n]. norm: [n]. See `_precision.Packed`.
        rows: [n], the segment's row of each, −1 where there is none.
        offset: [n], what to add to the product (−‖x‖² under the Euclidean metric), or None.
        hidden: the rows that must not be found: padding and deleted items.
    """

    values: torch.Tensor
    scale: float
    residual: Floats
    norm: Floats
    rows: NDArray[np.int64]
    offset: Floats | None
    hidden: torch.Tensor


class Segment:
    """What one `add` brought: items, their rows, which of them are still wanted, and the packed copy once it is made.

    Args:
        vectors: kept by reference; memory-mapped values are read window by window.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.position = {name: i for i, name in enumerate(vectors.ids)}
        self.alive = np.ones(len(vectors), bool)
        self.dense = vectors.is_dense
        self.longest = int(np.diff(vectors.offsets).max(initial=0))
        self.norms = np.zeros(0)
        self.blocks: list[Block] | None = None
        self._packed = 0
        self._kept: Vectors | None = None
        self._stale = False

    @property
    def live(self) -> int:
        """Items still wanted."""
        return int(self.alive.sum())

    @property
    def live_rows(self) -> int:
        """Rows of the items still wanted."""
        return int(np.diff(self.vectors.offsets)[self.alive].sum())

    def hide(self, ids: set[str]) -> int:
        """Take items out; returns how many were there."""
        found = [self.position[name] for name in self.position.keys() & ids]
        found = [i for i in found if self.alive[i]]
        self.alive[found] = False
        self._stale = self._stale or bool(found)
        return len(found)

    @property
    def kept(self) -> Vectors:
        """The items still wanted; copied once where some are not."""
        if self.alive.all():
            return self.vectors
        if self._kept is None or len(self._kept) != self.live:
            self._kept = self.vectors.take(np.flatnonzero(self.alive))
        return self._kept

    def items_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items that rows belong to."""
        return rows if self.dense else np.searchsorted(self.vectors.offsets, rows, side="right") - 1

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Rows, as float32, in memory: in `out` where it is given."""
        values = self.vectors.values
        if out is None:
            return np.asarray(values[rows], np.float32)
        if values.dtype == np.float32:
            return np.take(values, rows, axis=0, out=out, mode="clip")  # "clip" spares a copy: rows are valid
        out[:] = values[rows]
        return out

    def prepare(self, metric: Metric, precision: str, centre: NDArray[np.float32]) -> list[Block]:
        """The packed copy: made once, made again when a quarter of it is deleted, else only masked."""
        if self.blocks is not None and self._stale and 4 * self.live_rows < 3 * self._packed:
            self.blocks = None
        if self.blocks is None:
            self.norms = np.zeros(len(self.vectors.values) if metric == "cosine" else 0)
            self._packed = self.live_rows
            self.blocks = [
                block for items in self._windows() for block in self._window_blocks(items, metric, precision, centre)
            ]
        elif self._stale:
            for block in self.blocks:
                block.hidden = self._hidden(block.rows)
        self._stale = False
        return self.blocks

    def _windows(self) -> Iterator[NDArray[np.int64]]:
        """Runs of live items that fit into a window, so that a memory-mapped file is read in order."""
        items = np.flatnonzero(self.alive)
        room = max(GROUP, min(8 * BLOCK, _WINDOW_BYTES // (4 * self.vectors.dimension)))
        ends = np.cumsum(np.diff(self.vectors.offsets)[items])
        cuts = np.flatnonzero(np.diff(ends // room)) + 1
        yield from (part for part in np.split(items, cuts) if len(part))

    def _window_blocks(
        self, items: NDArray[np.int64], metric: Metric, precision: str, centre: NDArray[np.float32]
    ) -> Iterator[Block]:
        starts, counts = self.vectors.offsets[items], np.diff(self.vectors.offsets)[items]
        rows = _ranges(starts, counts)
        values, squares = self._transform(rows, metric, centre)
        # Rows of like size stand together, so that one scale fits a block; an item's rows stay together.
        largest = values.abs().amax(dim=1).numpy()
        first = np.cumsum(counts) - counts
        order = np.argsort(-np.maximum.reduceat(largest, first), kind="stable")
        taken = _ranges(first[order], counts[order])
        for start in range(0, len(taken), BLOCK):
            yield self._block(rows, values, squares, taken[start : start + BLOCK], precision)

    def _transform(
        self, rows: NDArray[np.int64], metric: Metric, centre: NDArray[np.float32]
    ) -> tuple[torch.Tensor, Floats | None]:
        """The rows as they are multiplied: of unit length under the cosine, and less the centre. And ‖x‖²."""
        values = torch.empty(len(rows), self.vectors.dimension)
        squares = np.zeros(len(rows)) if metric == "euclidean" else None
        middle = wide(centre[None])
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            raw = self.gather(rows[part])
            exact = wide(raw)
            if metric == "cosine":
                lengths = self.norms[rows[part]] = norms(raw)
                exact /= torch.from_numpy(np.where(lengths > 0, lengths, 1.0))[:, None]
            values[part] = (exact - middle).float()
            if squares is not None:
                squares[part] = values[part].double().square().sum(dim=1).numpy()
        return values, squares

    def _block(
        self, rows: NDArray[np.int64], values: torch.Tensor, squares: Floats | None, taken: NDArray[np.int64], p: str
    ) -> Block:
        size = -(-len(taken) // GROUP) * GROUP
        source = np.append(taken, np.full(size - len(taken), -1))
        packed = pack(values[torch.from_numpy(np.maximum(source, 0))], p, shared=True)
        packed.values[torch.from_numpy(source < 0)] = 0
        held = np.where(source < 0, -1, rows[source])
        offset = None if squares is None else np.where(source < 0, 0.0, -squares[source])
        return Block(
            packed.values, float(packed.scale[0]), packed.residual, packed.norm, held, offset, self._hidden(held)
        )

    def _hidden(self, rows: NDArray[np.int64]) -> torch.Tensor:
        wanted = self.alive[self.items_of(np.maximum(rows, 0))] & (rows >= 0)
        return torch.from_numpy(np.flatnonzero(~wanted))


def portions(items: NDArray[np.int64], vectors: Vectors) -> list[NDArray[np.int64]]:
    """Runs of items whose rows take about 64 MB."""
    ends = np.cumsum(np.diff(vectors.offsets)[items]) * vectors.dimension * 4
    return [part for part in np.split(items, np.flatnonzero(np.diff(ends // _PORTION_BYTES)) + 1) if len(part)]


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … of each (start, count), one after another."""
    before = np.cumsum(counts) - counts
    rows: NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return rows
