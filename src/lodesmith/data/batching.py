"""Training batches from stored vectors: an exact position, and no false negatives in a batch where that is possible.

Two examples collide when one's document is a known positive of the other's query; as negatives of each other they
would teach the wrong thing. Examples that can collide at all are dealt to batches first, each to one where it fits;
the rest, most of them by far, fill the places that are left. So every example appears exactly once an epoch, and all
batches but the last are full. Where it is impossible to keep two apart (a document with more queries than there are
batches), they share a batch, `collisions` counts them, and the ids in the batch let the objective mask them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.vectors import Vectors
from lodesmith.data._position import Position

__all__ = ["Crowd", "Deal", "Documents", "PairBatches", "Rows", "crowd", "deal"]

RESIDENT = 1 << 30
"""Vectors of at most so many bytes (as float32) are read into memory; larger ones stay on disk."""
CPU = torch.device("cpu")
PROBES = 64
"""So many batches are tried for an example before it is left to collide."""

Array = NDArray[np.floating]


_LEAST = float(np.sqrt(np.finfo(np.float32).tiny))


def _flushed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values, in place, those whose square is no normal float32 set to 0.

    MiniLM has two components of some 1e-32. Products with them are denormal numbers, which a processor multiplies many
    times slower: a step against a whole corpus took four times as long.
    """
    values[np.abs(values) < _LEAST] = 0.0
    return values


class Rows:
    """Rows of stored vectors, gathered into float32 tensors; components below 1e-19 are 0.

    Args:
        vectors: [n, d], in memory or memory-mapped; or `Vectors` with one row an item.
        resident: read everything into memory up to so many bytes.
    """

    def __init__(self, vectors: Vectors | Array, resident: int = RESIDENT) -> None:
        if isinstance(vectors, Vectors):
            if not vectors.is_dense:
                raise InputError(f"{vectors!r} has items of several rows", "give vectors of one row an item")
            vectors = vectors.values
        if vectors.ndim != 2:
            raise InputError(f"vectors must be [n, d], not {list(vectors.shape)}")
        self._array = vectors
        self._tensor: torch.Tensor | None = None
        self._moved: torch.Tensor | None = None
        if vectors.size * 4 <= resident:
            self._tensor = torch.from_numpy(_flushed(np.array(vectors, np.float32, order="C")))

    def __len__(self) -> int:
        return len(self._array)

    @property
    def dimension(self) -> int:
        """d of a row."""
        return int(self._array.shape[1])

    def take(self, rows: NDArray[np.int64], device: torch.device = CPU) -> torch.Tensor:
        """float32 [len(rows), d]."""
        if (resident := self._on(device)) is not None:
            return resident.index_select(0, torch.from_numpy(rows).to(device))
        order = np.argsort(rows)  # a disk is read forwards
        gathered = np.empty((len(rows), self._array.shape[1]), np.float32)
        gathered[order] = self._array[rows[order]]
        return torch.from_numpy(_flushed(gathered)).to(device)

    def between(self, start: int, stop: int, device: torch.device = CPU) -> torch.Tensor:
        """float32 [stop − start, d]; not a copy where they are in memory."""
        if (resident := self._on(device)) is not None:
            return resident[start:stop]
        return torch.from_numpy(_flushed(np.array(self._array[start:stop], np.float32))).to(device)

    def _on(self, device: torch.device) -> torch.Tensor | None:
        """The rows that are in memory, brought to the device once."""
        if self._tensor is None or device.type == "cpu":
            return self._tensor
        if self._moved is None or self._moved.device != device:
            self._moved = self._tensor.to(device)
        return self._moved


class Documents:
    """All distinct documents, read block by block; what a batch calls `corpus`.

    Args:
        rows: of every document.
        distinct: int64 [m], ascending: those that count, one of each text; None for all.
    """

    def __init__(self, rows: Rows, distinct: NDArray[np.int64] | None = None) -> None:
        self._rows = rows
        self._all = distinct is None or len(distinct) == len(rows)
        self.ids = torch.arange(len(rows)) if distinct is None else torch.from_numpy(distinct)

    @property
    def dimension(self) -> int:
        """d of a row."""
        return self._rows.dimension

    def block(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """float32 [stop − start, d]. Rows that are in memory are brought to an accelerator once."""
        if self._all:
            return self._rows.between(start, stop, device)
        return self._rows.take(self.ids[start:stop].numpy(), device)


@dataclass(frozen=True)
class Deal:
    """One epoch's batches: example numbers [n], one batch after another, and how many examples collide."""

    order: NDArray[np.int64]
    collisions: int


@dataclass
class _Table:
    """A batch while examples are dealt to it."""

    room: int
    members: list[int] = field(default_factory=list)
    documents: set[int] = field(default_factory=set)
    barred: set[int] = field(default_factory=set)
    """Documents that are positives of a query in the batch."""

    def fits(self, document: int, positives: frozenset[int]) -> bool:
        """Whether the example collides with none here."""
        return document not in self.barred and positives.isdisjoint(self.documents)

    def add(self, example: int, document: int, positives: frozenset[int]) -> None:
        self.members.append(example)
        self.documents.add(document)
        self.barred |= positives
        self.room -= 1


@dataclass(frozen=True)
class Crowd:
    """What can collide among the examples; the same for every epoch.

    Args:
        tight: bool [n], whether an example can collide with another at all.
        sharing: int64 [n], how many examples share its query or its document, the larger of the two.
        positives: query → its positives among the documents of the examples, for the queries of tight examples.
    """

    tight: NDArray[np.bool_]
    sharing: NDArray[np.int64]
    positives: Mapping[int, frozenset[int]]


def crowd(pairs: NDArray[np.int64], known: NDArray[np.int64]) -> Crowd:
    """Find what can collide.

    Args:
        pairs: [n, 2] of (query, document).
        known: [p, 2] of positives; `pairs` count as such anyway.
    """
    here = np.isin(known[:, 0], pairs[:, 0]) & np.isin(known[:, 1], pairs[:, 1])
    every = np.unique(np.concatenate([pairs, known[here]]), axis=0)
    listed = [_times(every[:, side], pairs[:, side]) for side in (0, 1)]
    _, place, times = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    tight = (listed[0] > 1) | (listed[1] > 1) | (times[place.ravel()] > 1)
    sharing = np.maximum(*(_times(pairs[:, side], pairs[:, side]) for side in (0, 1)))
    lists: dict[int, list[int]] = {}
    for query, document in every[np.isin(every[:, 0], pairs[tight, 0])].tolist():
        lists.setdefault(query, []).append(document)
    return Crowd(tight, sharing, {query: frozenset(own) for query, own in lists.items()})


def _times(among: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each wanted number, all of which occur, is among the numbers."""
    distinct, times = np.unique(among, return_counts=True)
    found: NDArray[np.int64] = times[np.searchsorted(distinct, wanted)]
    return found


def deal(pairs: NDArray[np.int64], crowd: Crowd, batch_size: int, generator: np.random.Generator) -> Deal:
    """Deal examples [n, 2] to batches of `batch_size` (the rest last), at random and apart.

    Deterministic in its arguments and the generator's state.
    """
    n = len(pairs)
    tables = [_Table(min(batch_size, n - start)) for start in range(0, n, batch_size)]
    shuffled = generator.permutation(n)
    is_tight = crowd.tight[shuffled]
    tight = shuffled[is_tight]
    # The hardest to place first, while every batch is open; among equals the shuffled order stands.
    tight = tight[np.argsort(-crowd.sharing[tight], kind="stable")]
    starts = generator.integers(0, len(tables), len(tight))
    collisions = 0
    for example, start, (query, document) in zip(tight.tolist(), starts.tolist(), pairs[tight].tolist(), strict=True):
        table, fits = _seat(document, crowd.positives[query], tables, start)
        table.add(example, document, crowd.positives[query])
        collisions += not fits
    return Deal(_fill(tables, shuffled[~is_tight]), collisions)


def _seat(document: int, positives: frozenset[int], tables: list[_Table], start: int) -> tuple[_Table, bool]:
    """The first batch from `start` on where an example fits, or else the first with room; and whether it fits."""
    fallback = None
    tried = 0
    for table in chain(tables[start:], tables[:start]):
        if not table.room:
            continue
        if table.fits(document, positives):
            return table, True
        fallback = fallback or table
        tried += 1
        if tried == PROBES:
            break
    assert fallback is not None  # there are as many places as examples
    return fallback, False


def _fill(tables: list[_Table], free: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places that are left, filled in order: example numbers, batch after batch."""
    parts = []
    start = 0
    for table in tables:
        parts.append(np.asarray(table.members, np.int64))
        parts.append(free[start : start + table.room])
        start += table.room
    return np.concatenate(parts)


class PairBatches(Position):
    """Batches of (query, positive document) pairs over stored vectors; a `training.Batches`.

    A batch is a mapping of tensors: `queries` and `documents` float32 [n, d], `query_ids` and `document_ids` int64 [n];
    with `negatives`, `negatives` [n, h, d] and `negative_ids` [n, h]; with `pool`, `pool` [p, d] and `pool_ids` [p];
    with `corpus`, `corpus`, the `Documents`. The ids are row numbers; rows of equal text should share one, since only
    then they count as the same document.

    Epoch e is shuffled by (seed, e) alone: its order does not depend on how it was reached.

    Args:
        pairs: int64 [p, 2] of (row of `queries`, row of `documents`).
        queries: vectors [·, d], an array or dense `Vectors`.
        documents: likewise.
        batch_size: over all ranks; the last batch of an epoch may be shorter.
        seed: of the order and the pool.
        known: int64 [·, 2]: further known positives, such as judgements of other pairs.
        negatives: int64 [p, h]: rows of documents mined as negatives of each pair, −1 for an empty place.
        pool: so many further documents a batch, drawn at random, as negatives of every query; at least the number of
            distinct documents means all of them, in order.
        distinct: int64 [m], ascending: the rows that pool and corpus take, one of each text; None for all.
        corpus: give each batch all documents too, to be read block by block.
        shard: (rank, ranks): this process takes every ranks-th example of each batch.

    Raises:
        InputError: there are no pairs, or a row number is out of range.
        ConfigError: a setting is out of range.
    """

    def __init__(  # noqa: PLR0913 - three arrays, two counts and three options, all by name
        self,
        pairs: NDArray[np.integer],
        queries: Vectors | Array,
        documents: Vectors | Array,
        *,
        batch_size: int,
        seed: int = 0,
        known: NDArray[np.integer] | None = None,
        negatives: NDArray[np.integer] | None = None,
        pool: int = 0,
        distinct: NDArray[np.integer] | None = None,
        corpus: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self._queries, self._documents = Rows(queries), Rows(documents)
        self._distinct = Documents(self._documents, None if distinct is None else np.asarray(distinct, np.int64))
        self._corpus = {"corpus": self._distinct} if corpus else {}
        self.pairs = _checked(pairs, len(self._queries), len(self._documents), "pairs")
        if not len(self.pairs):
            raise InputError("there are no training pairs", "choose a split that has judgements")
        further = self.pairs[:0] if known is None else np.asarray(known, np.int64).reshape(-1, 2)
        self.known = np.unique(np.concatenate([self.pairs, further]), axis=0)
        """int64 [·, 2]: all known positives by the numbers that are in the batches, for the objective's mask."""
        self._crowd = crowd(self.pairs, self.known)
        self._negatives = None if negatives is None else np.asarray(negatives, np.int64)
        self._check(batch_size, pool, shard)
        self.batch_size, self.seed, self.shard = batch_size, seed, shard
        self.pool = min(pool, len(self._distinct.ids))
        self._every: torch.Tensor | None = None
        self._dealt: tuple[int, Deal] | None = None

    def _check(self, batch_size: int, pool: int, shard: tuple[int, int]) -> None:
        if batch_size < 1 or pool < 0 or not 0 <= shard[0] < shard[1]:
            raise ConfigError(f"batch_size {batch_size}, pool {pool} and shard {shard} are out of range")
        if self._negatives is None:
            return
        if self._negatives.ndim != 2 or len(self._negatives) != len(self.pairs):
            raise InputError(f"negatives must be [{len(self.pairs)}, h], not {list(self._negatives.shape)}")
        if self._negatives.size and not -1 <= self._negatives.min() <= self._negatives.max() < len(self._documents):
            raise InputError(f"negatives must be rows of the {len(self._documents)} documents, or −1")

    @property
    def collisions(self) -> int:
        """Examples of the epoch in progress that share a batch with one they should be kept from; none where every
        document is a negative anyway."""
        return 0 if self._corpus else self._deal().collisions

    def __len__(self) -> int:
        return math.ceil(len(self.pairs) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, number in self.rest():
            batch = self._gather(number)
            self.passed()
            yield batch

    def _meaning(self) -> dict[str, Any]:
        return {"seed": self.seed, "pairs": len(self.pairs), "batch_size": self.batch_size, "pool": self.pool}

    def _deal(self) -> Deal:
        if self._dealt is None or self._dealt[0] != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, self._epoch]))
            self._dealt = (self._epoch, deal(self.pairs, self._crowd, self.batch_size, generator))
        return self._dealt[1]

    def _gather(self, number: int) -> dict[str, Any]:
        rank, ranks = self.shard
        start = number * self.batch_size
        examples = self._deal().order[start : start + self.batch_size][rank::ranks]
        queries, documents = self.pairs[examples].T
        queries, documents = np.ascontiguousarray(queries), np.ascontiguousarray(documents)
        batch = {
            "queries": self._queries.take(queries),
            "documents": self._documents.take(documents),
            "query_ids": torch.from_numpy(queries),
            "document_ids": torch.from_numpy(documents),
        }
        if self._negatives is not None:
            rows = self._negatives[examples]
            taken = self._documents.take(rows.ravel().clip(min=0))
            batch |= {"negatives": taken.view(*rows.shape, taken.shape[1]), "negative_ids": torch.from_numpy(rows)}
        if self.pool:
            batch |= self._pool(number)
        return {**batch, **self._corpus}

    def _pool(self, number: int) -> dict[str, torch.Tensor]:
        every = self._distinct.ids
        if self.pool == len(every):
            if self._every is None:
                self._every = self._distinct.block(0, self.pool, CPU)
            return {"pool": self._every, "pool_ids": every}
        generator = np.random.Generator(np.random.PCG64([self.seed, self._epoch, number]))
        drawn = every.numpy()[generator.choice(len(every), self.pool, replace=False, shuffle=False)]
        return {"pool": self._documents.take(drawn), "pool_ids": torch.from_numpy(drawn)}


def _checked(given: NDArray[np.integer], queries: int, documents: int, name: str) -> NDArray[np.int64]:
    """Pairs as int64 [p, 2], each number a row that exists."""
    pairs: NDArray[np.int64] = np.asarray(given, np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"{name} must be [p, 2] of (query, document), not {list(pairs.shape)}")
    for column, (count, side) in enumerate(((queries, "query"), (documents, "document"))):
        if len(pairs) and not 0 <= pairs[:, column].min() <= pairs[:, column].max() < count:
            raise InputError(f"{name} name {side} rows outside 0 to {count - 1}")
    return pairs
