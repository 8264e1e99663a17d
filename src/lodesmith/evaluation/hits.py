"""The judged results of a run: what every measure is computed from, found without a loop over queries or results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.run import Run
from lodesmith.core.tables import Judgements

__all__ = ["Floats", "Hits", "Integers"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCK = 1 << 16
"""Results that are looked at together: few enough that a processor's cache holds the arrays made of them."""

_LIMIT = 1 << 31


@dataclass(frozen=True)
class Hits:
    """The judged results, by query and rank, and what the formulas divide by.

    Args:
        queries: n, the judged queries.
        missing: which of them have no result in the run.
        query, rank, gain: of each judged result [h]; the best rank is 1; gain is the grade.
        retrieved: results of each query after dropping [n] (up to the depth).
        ideal_query, ideal_rank, ideal_gain: the relevant judgements of each query, from the highest grade down.
    """

    queries: int
    missing: Integers
    query: Integers
    rank: Integers
    gain: Integers
    retrieved: Integers
    ideal_query: Integers
    ideal_rank: Integers
    ideal_gain: Integers

    @classmethod
    def of(cls, run: Run, judgements: Judgements, depth: int | None = None, *, drop_same_id: bool = False) -> Hits:
        """Look a run's results up among the judgements.

        Args:
            run: the rankings.
            judgements: query id → document id → grade.
            depth: how many results of each query can matter; None for all.
            drop_same_id: leave out a result whose id is the query's; what stands below moves up.

        Raises:
            InputError: a grade is not an integer of at least 0, or a judged document stands twice in a ranking.
        """
        judged = _Judged.of(judgements, run.document_ids, with_own=drop_same_id)
        place = {query: position for position, query in enumerate(run.query_ids)}
        at = np.fromiter(map(place.get, judgements, repeat(-1)), np.int64, len(judgements))
        counts = np.where(at < 0, 0, np.diff(run.offsets)[at] if place else 0)
        found, retrieved = _find(run, judged, _Wanted(at, counts, depth, drop_same_id))
        return cls(len(judgements), np.flatnonzero(counts == 0), *found, retrieved, *_ideal(judged))

    def total(self, query: Integers, weights: Floats | None = None) -> Floats:
        """Sums by query, float64 [n]."""
        return np.bincount(query, weights, minlength=self.queries).astype(np.float64)

    def within(self, cutoff: int | None, *, relevant: bool = True) -> NDArray[np.bool_]:
        """Which hits are at or above the cut-off (and relevant)."""
        kept = self.gain > 0 if relevant else np.ones(len(self.rank), bool)
        return kept if cutoff is None else kept & (self.rank <= cutoff)

    @cached_property
    def relevant(self) -> Floats:
        """Relevant judgements of each query, retrieved or not [n]."""
        return self.total(self.ideal_query)


@dataclass(frozen=True)
class _Judged:
    """All judgements, flat: query number, the document's row in the run's table (−1: never retrieved), grade [m]."""

    queries: int
    query: Integers
    row: Integers
    grade: Integers
    own: Integers
    """The row of the document that is called as the query [n]; −1 where there is none."""

    @classmethod
    def of(cls, judgements: Judgements, document_ids: Sequence[str], *, with_own: bool) -> _Judged:
        counts = np.fromiter(map(len, judgements.values()), np.int64, len(judgements))
        return cls(
            len(judgements),
            np.repeat(np.arange(len(judgements)), counts),
            _places(list(chain.from_iterable(judgements.values())), document_ids),
            _grades(judgements),
            _places(list(judgements), document_ids) if with_own else np.full(len(judgements), -1),
        )


def _places(ids: Sequence[str], table: Sequence[str]) -> Integers:
    """Where each id stands in the table; −1 where it does not. Only the shorter of the two is put into a dictionary."""
    if len(table) <= len(ids):
        rows = dict(zip(table, range(len(table)), strict=True))
        return np.fromiter(map(rows.get, ids, repeat(-1)), np.int64, len(ids))
    numbers = dict(zip(ids, range(len(ids)), strict=True))
    number = np.fromiter(map(numbers.get, table, repeat(-1)), np.int64, len(table))
    found = np.flatnonzero(number >= 0)
    place = np.full(len(ids), -1)
    place[number[found]] = found
    return place[np.fromiter(map(numbers.__getitem__, ids), np.int64, len(ids))]


def _grades(judgements: Judgements) -> Integers:
    found = list(chain.from_iterable(documents.values() for documents in judgements.values()))
    grades = np.array(found)  # a value of any other type would give the array another type
    if found and grades.dtype.kind in "biu" and grades.min() >= 0 and grades.max() < _LIMIT:
        return grades.astype(np.int64, copy=False)
    for query, document, grade in _wrong(judgements):
        raise InputError(
            f"query {query!r}, document {document!r}: the grade must be an integer from 0 to 2^31 − 1, not {grade!r}",
            "correct the judgements",
        )
    return np.array(found, np.int64)


def _wrong(judgements: Judgements) -> Iterator[tuple[str, str, object]]:
    for query, documents in judgements.items():
        for document, grade in documents.items():
            if not isinstance(grade, int | np.integer) or not 0 <= grade < _LIMIT:
                yield query, document, grade


@dataclass(frozen=True)
class _Wanted:
    """Which results to look at: for judged query i, `counts[i]` of the run's query `at[i]`, to a depth."""

    at: Integers
    counts: Integers
    depth: int | None
    drop_same_id: bool

    def lengths(self) -> Integers:
        """Results to read for each query: one more than the depth where one of them may be dropped."""
        return self.counts if self.depth is None else np.minimum(self.counts, self.depth + self.drop_same_id)


def _find(run: Run, judged: _Judged, wanted: _Wanted) -> tuple[tuple[Integers, Integers, Integers], Integers]:
    """Query, rank and grade of the judged results, block by block of queries; and how many results each query has."""
    lengths = wanted.lengths()
    starts = np.where(lengths > 0, run.offsets[wanted.at], 0)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    owned = np.searchsorted(judged.query, np.arange(judged.queries + 1))
    documents = len(run.document_ids)
    retrieved = lengths.copy()
    parts = []
    for first, last in _blocks(bounds):
        row = _rows(run, starts[first:last], lengths[first:last])
        local = bounds[first : last + 1] - bounds[first]
        mine = slice(owned[first], owned[last])
        which, hit = _match(
            row + np.repeat(np.arange(last - first) * documents, lengths[first:last]),
            (judged.query[mine] - first) * documents + judged.row[mine],
            judged.row[mine] >= 0,
        )
        query = np.searchsorted(local, hit, side="right") - 1
        rank = hit - local[query] + 1
        if wanted.drop_same_id:
            same = np.flatnonzero(row == np.repeat(judged.own[first:last], lengths[first:last]))
            retrieved[first:last] -= np.diff(np.searchsorted(same, local))
            rank -= np.searchsorted(same, hit) - np.searchsorted(same, local[query])
            keep = ~np.isin(hit, same)
            which, query, rank = which[keep], query[keep], rank[keep]
        parts.append((query + first, rank, judged.grade[mine][which]))
    query, rank, grade = (np.concatenate(column) for column in zip(*parts, strict=True))
    return (query, rank, grade), retrieved


def _rows(run: Run, starts: Integers, lengths: Integers) -> Integers:
    """The rows of some queries' results, one query after another; without a copy where they stand so in the run."""
    ends = starts + lengths
    where: slice | Integers = slice(int(starts[0]), int(ends[-1]))
    if not (starts[1:] == ends[:-1]).all():
        where = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    rows: Integers = run.rows[where]
    return rows


def _blocks(bounds: Integers) -> Iterator[tuple[int, int]]:
    """Ranges of whole queries of at most `_BLOCK` results together (a query that is longer stands alone)."""
    first, last = 0, len(bounds) - 1
    while first < last:
        end = int(np.searchsorted(bounds, bounds[first] + _BLOCK, side="right")) - 1
        end = min(max(end, first + 1), last)
        yield first, end
        first = end


def _match(keys: Integers, judged: Integers, known: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Pairs (position in `judged`, position in `keys`) of equal numbers, in the order of `keys`.

    A bit table of hashes sends away nearly all results that are not judged, so that only a few are searched for.

    Raises:
        InputError: a judged result occurs twice.
    """
    candidates = np.flatnonzero(known)
    order = candidates[np.argsort(judged[candidates], kind="stable")]
    if not len(order) or not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    bits = max(10, len(order).bit_length() + 4)
    table = np.zeros(1 << bits, bool)
    table[_hash(judged[order], bits)] = True
    maybe = np.flatnonzero(table[_hash(keys, bits)])
    place = np.minimum(np.searchsorted(judged[order], keys[maybe]), len(order) - 1)
    right = judged[order][place] == keys[maybe]
    place, hit = place[right], maybe[right]
    if len(place) and np.bincount(place).max() > 1:
        raise InputError("the run holds a document twice for one query", "keep the better of the two")
    return order[place], hit


def _hash(keys: Integers, bits: int) -> NDArray[np.uint64]:
    """Multiplicative hashing (Knuth, vol. 3, 6.4): the high bits of a product with 2^64 / golden ratio."""
    return keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)


def _ideal(judged: _Judged) -> tuple[Integers, Integers, Integers]:
    """Query, rank and gain of the relevant judgements, from the highest grade of each query down."""
    relevant = judged.grade > 0
    query, gain = judged.query[relevant], judged.grade[relevant]
    gain = gain[np.lexsort((-gain, query))]
    rank = np.arange(len(query)) - np.searchsorted(query, query) + 1
    return query, rank, gain
