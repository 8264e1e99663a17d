"""Exhaustive search over the codes of a codec: every item is scored, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lodesmith.codecs._codec import Codec, Codes
from lodesmith.codecs._rows import Rows, lengths, unit
from lodesmith.core.errors import InputError
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Metric
from lodesmith.core.run import Run, id_order
from lodesmith.core.vectors import Vectors

__all__ = ["Coded"]

_SCORES = 1 << 24
"""Scores that are held at once."""
_BLOCK = 1 << 14
"""Items encoded or scored at once, at most."""

Keys = NDArray[np.uint64]


class Coded:
    """Items as codes, searched exactly by the codec's scores: ties by id descending.

    What a query finds depends on no other query and on no block's size. An item of several rows scores as its best.

    Args:
        codec: fitted here, on these vectors.
        vectors: of the items; ids are unique.
        metric: under `"cosine"` items and queries are brought to unit length first; under `"euclidean"` scores that are
            inner products become minus the squared distance to what the code stands for.
        seed: of what the codec draws.
        block: items scored at once, at most.

    Raises:
        InputError: the codec cannot be fitted on the vectors, or a vector is NaN or infinite.
        ConfigError: a setting of the codec does not fit them.
    """

    def __init__(
        self, codec: Codec, vectors: Vectors, metric: Metric = "dot", *, seed: int = 0, block: int = _BLOCK
    ) -> None:
        self.codec, self.metric, self.block = codec, metric, block
        self.ids, self.offsets = vectors.ids, vectors.offsets
        if not (np.diff(self.offsets) > 0).all():
            raise InputError("an item has no vector", "leave it out")
        codec.fit(self._rows(vectors.values), seed)
        parts = [self._rows(vectors.values[start : start + _BLOCK]) for start in range(0, len(vectors.values), _BLOCK)]
        self.codes: Codes = np.concatenate([codec.encode(part) for part in parts or [self._rows(vectors.values)]])
        self._place = id_order(self.ids).astype(np.uint64)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        """Of all codes and what they share."""
        return int(self.codes.nbytes) + self.codec.shared_bytes

    def _rows(self, values: NDArray[np.floating]) -> Rows:
        rows = np.asarray(values, np.float32)
        return unit(rows) if self.metric == "cosine" else rows

    def search(self, queries: Vectors, k: int) -> Run:
        """The k best items of each query; all of them where there are fewer.

        With a codec of two passes the second one ranks `rescore`·k items, or all where there are fewer.

        Raises:
            InputError: k is below 1, or the queries have another dimension, NaN or infinite values, or not one row
                each.
        """
        if k < 1:
            raise InputError(f"k is {k!r}", "ask for at least 1 item")
        if not queries.is_dense:
            raise InputError("codes are searched with queries of one vector each", "pool them")
        values = self._rows(queries.values)
        keys = self._best(values, k * max(1, self.codec.rescore))
        if self.codec.rescore and keys.size:
            keys = self._again(values, keys)
        return self._run(queries.ids, keys[:, :k])

    def _run(self, queries: tuple[str, ...], keys: Keys) -> Run:
        """The run of sorted keys [q, k]."""
        items = self._items(keys)
        counts = np.full(len(queries), keys.shape[1])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return Run.ranked(queries, self.ids, items.ravel(), _scores(keys).ravel(), offsets)

    def _items(self, keys: Keys) -> NDArray[np.int64]:
        at = np.empty(len(self), np.int64)
        at[self._place.astype(np.int64)] = np.arange(len(self))
        found: NDArray[np.int64] = at[(keys & np.uint64(0xFFFFFFFF)).astype(np.int64)]
        return found

    def _best(self, queries: Rows, count: int) -> Keys:
        """The keys of the `count` best items by the first pass, best first: [q, min(count, n)]."""
        best = np.zeros((len(queries), 0), np.uint64)
        for start, end in self._blocks(len(queries)):
            scores = self._scored(queries, np.arange(start, end), first=bool(self.codec.rescore))
            best = _top(np.hstack([best, _keys(scores, self._place[start:end])]), count)
            tell("search", end, len(self), "codes")
        return best

    def _blocks(self, queries: int) -> Iterator[tuple[int, int]]:
        """From which item to which."""
        size = max(1, min(self.block, _SCORES // max(1, queries)))
        for start in range(0, len(self), size):
            yield start, min(start + size, len(self))

    def _again(self, queries: Rows, keys: Keys) -> Keys:
        """The same items by the second pass, best first."""
        found = []
        for query, items in zip(queries, self._items(keys), strict=True):
            found.append(_keys(self._scored(query[None], items, first=False), self._place[items]))
        return _top(np.concatenate(found), keys.shape[1])

    def _scored(self, queries: Rows, items: NDArray[np.int64], *, first: bool) -> Rows:
        """float32 [q, items]."""
        counts = np.diff(self.offsets)[items]
        ends = np.cumsum(counts)
        codes = self.codes[np.arange(int(counts.sum())) + np.repeat(self.offsets[:-1][items] - (ends - counts), counts)]
        if first:
            scores = self.codec.first(queries, codes)
        else:
            scores = self.codec.scores(queries, codes)
            if self.metric == "euclidean" and self.codec.inner:
                scores = _distances(queries, self.codec.decode(codes), scores)
        return scores if (counts == 1).all() else np.maximum.reduceat(scores, ends - counts, axis=1)


def _distances(queries: Rows, rows: Rows, scores: Rows) -> Rows:
    """Minus the squared distances, from inner products: rounded once, far from the origin not more than they are."""
    squares = lengths(queries)[:, None] ** 2 + lengths(rows)[None] ** 2
    return np.asarray(2 * scores.astype(np.float64) - squares, np.float32)


def _keys(scores: Rows, place: Keys) -> Keys:
    """Whole numbers that rise with the score and, where it ties, with the id's place."""
    bits = (scores + np.float32(0)).view(np.uint32)  # −0 is 0
    rising = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
    return rising.astype(np.uint64) << np.uint64(32) | place


def _scores(keys: Keys) -> Rows:
    """The scores that keys were made of."""
    rising = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(rising >> 31 == 1, rising & np.uint32(0x7FFFFFFF), ~rising)
    scores: Rows = bits.astype(np.uint32).view(np.float32)
    return scores


def _top(keys: Keys, count: int) -> Keys:
    """The `count` highest keys of each row, falling."""
    if keys.shape[1] > count:
        keys = np.partition(keys, keys.shape[1] - count, axis=1)[:, keys.shape[1] - count :]
    return np.sort(keys, axis=1)[:, ::-1]
