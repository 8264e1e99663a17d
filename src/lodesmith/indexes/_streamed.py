"""Exact search over vectors on disk, block by block, where even their copy in few bits would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lodesmith.core.progress import tell
from lodesmith.core.protocols import Metric
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.indexes._merge import merge
from lodesmith.indexes.flat import Flat

__all__ = ["Streamed"]

BLOCK_BYTES = 256 << 20
"""Of the vectors that are looked at together."""


class Streamed:
    """A searcher over memory-mapped vectors that holds one block at a time; results are those of `Flat`, to the bit.

    Each call to `search` reads all vectors once, so queries should come together.

    Args:
        vectors: kept by reference; ids are unique.
        metric: as of `Flat`.
        block_bytes: of the values of a block.
    """

    def __init__(self, vectors: Vectors, metric: Metric, block_bytes: int = BLOCK_BYTES) -> None:
        self.vectors, self.metric, self.block_bytes = vectors, metric, block_bytes

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Vectors, k: int) -> Run:
        """The k best items of each query, ties by id descending.

        Raises:
            InputError: as `Flat.search`.
        """
        best: Run | None = None
        for block in self._blocks():
            index = Flat(self.metric)
            index.add(block)
            found = index.search(queries, k)
            best = found if best is None else merge(best, found, k)
        return Flat(self.metric).search(queries, k) if best is None else best

    def _blocks(self) -> Iterator[Vectors]:
        offsets, ids, width = self.vectors.offsets, self.vectors.ids, 4 * max(1, self.vectors.dimension)
        rows, first = max(1, self.block_bytes // width), 0
        while first < len(ids):
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1)
            values = self.vectors.values[offsets[first] : offsets[last]]
            yield Vectors(values, offsets[first : last + 1] - offsets[first], ids[first:last])
            tell("search blocks", last, len(ids), "documents")
            first = last
