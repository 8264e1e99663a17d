"""The first look at many documents: approximate scores, each with a bound on its error, and who may be among the best.

A thread multiplies a block of document rows with the tokens of many queries and takes each document's maximum over its
own columns: nothing is padded. What begins as −∞ stays so until a token of the document has been seen.

Each maximum is within the largest error of a product, and the score within the sum of those:
in float32  Σ_i γ‖q_i‖·max‖d_j‖; in bfloat16, with q = q̂ + t and d = d̂ + r,
            Σ_i (‖q_i‖·max‖r_j‖ + ‖t_i‖·max‖d_j‖ + 2γ‖q_i‖·max‖d_j‖) and 2⁻⁸ of each maximum, which is rounded too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.vectors import Vectors
from lodesmith.similarity._machine import side_by_side
from lodesmith.similarity._maxsim_rows import (
    _CERTAIN,
    BLOCK,
    MOST_ROWS,
    PIECE,
    Asked,
    Floats,
    Gathered,
    Ints,
    Shorts,
    exact,
    gamma,
    pieces,
    run_sums,
    scratch,
    tiny,
)
from lodesmith.similarity._maxsim_rows import lengths as row_lengths

_TOKENS = 1 << 11
"""Query tokens that are multiplied at once."""
_WIDE = 256
"""Query tokens from which it is faster to take the maximum of rows than of columns."""
_BY_DOCUMENT = 1 << 10
"""Rows that the pairs of a document must have together for it to be worth a task of its own."""
_PENDING = 1 << 17
"""Pairs that wait before those are dropped which the limit has overtaken."""


@dataclass(frozen=True)
class Task:
    """Queries first to last against documents at `positions`, in ascending order."""

    first: int
    last: int
    positions: Ints


def everything(queries: Vectors, documents: Vectors) -> Iterator[Task]:
    """All queries with all documents, which are read once."""
    batches = pieces(queries.offsets, _TOKENS)
    for start, end in pieces(documents.offsets, PIECE):
        for first, last in batches:
            yield Task(first, last, np.arange(start, end))


def listed(documents: Vectors, pairs: Ints) -> Iterator[Task]:
    """Single queries, each with its own documents: pairs [n, 2], in ascending order."""
    for query, positions in _split(documents, _runs(*pairs.T)):
        yield Task(int(query[0]), int(query[0]) + 1, positions)


class Contest:
    """Who may be among the k best of each query, by what their scores are certain to be at least and at most.

    Bounds are rounded to float32 like the scores themselves: rounding keeps order, so a document whose ceiling is below
    the k-th best floor cannot even tie.

    Args:
        queries: how many.
        k: places.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.limit: Shorts = np.full(queries, -np.inf, np.float32)
        self._pending: list[tuple[Ints, Ints, Shorts, Shorts]] = []
        self._waiting = 0

    def hopeful(self, task: Task, scores: Floats, error: Floats) -> tuple[Ints, Ints, Shorts, Shorts]:
        """Queries, documents, floors and ceilings of the pairs [q, n] that the limit leaves."""
        with np.errstate(invalid="ignore", over="ignore"):
            floor, ceiling = (scores - error).astype(np.float32), (scores + error).astype(np.float32)
        floor[np.isnan(floor)], ceiling[np.isnan(ceiling)] = -np.inf, np.inf  # overflow: nothing is known
        query, column = np.nonzero(ceiling >= self.limit[task.first : task.last, None])
        return query + task.first, task.positions[column], floor[query, column], ceiling[query, column]

    def add(self, found: tuple[Ints, Ints, Shorts, Shorts]) -> None:
        """Take in pairs."""
        self._pending.append(found)
        self._waiting += len(found[0])
        if self._waiting > max(_PENDING, 2 * self.k * len(self.limit)):
            self._thin()

    def _thin(self) -> None:
        query, document, floor, ceiling = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        order = np.lexsort((-floor, query))
        starts = np.searchsorted(query[order], np.arange(len(self.limit) + 1))
        full = np.flatnonzero(np.diff(starts) >= self.k)
        self.limit[full] = np.maximum(self.limit[full], floor[order[starts[full] + self.k - 1]])
        keep = ceiling >= self.limit[query]
        self._pending = [(query[keep], document[keep], floor[keep], ceiling[keep])]
        self._waiting = int(keep.sum())

    def left(self) -> Ints:
        """The pairs [n, 2] that may count, in ascending order."""
        if not self._pending:
            return np.zeros((0, 2), np.int64)
        self._thin()
        query, document = self._pending[0][:2]
        return np.stack([query, document], axis=1)[np.lexsort((document, query))]


def narrowed(asked: Asked, documents: Vectors, tasks: Iterable[Task], k: int) -> Ints:
    """The pairs [n, 2] of query and document that may be among the query's k best, of those that the tasks name."""
    contest = Contest(len(asked.offsets) - 1, k)

    def look(task: Task) -> tuple[Ints, Ints, Shorts, Shorts]:
        scores, error = bounded(asked, task, documents)
        return contest.hopeful(task, scores, error)

    for found in side_by_side(look, tasks):
        contest.add(found)
    return contest.left()


def bounded(asked: Asked, task: Task, documents: Vectors) -> tuple[Floats, Floats]:
    """Approximate scores [q, n] of a task, and how far each can be from the true one."""
    offsets = asked.offsets[task.first : task.last + 1]
    tokens = slice(int(offsets[0]), int(offsets[-1]))
    maxima, longest, lost = _maxima(asked.rows[tokens], Gathered(documents, task.positions))
    scores = run_sums(maxima, offsets - offsets[0]).T
    norm, cut = (run_sums(part[None, tokens], offsets - offsets[0]).T for part in (asked.norm, asked.lost))
    dimension = documents.dimension
    narrow = asked.rows.dtype == torch.bfloat16
    with np.errstate(invalid="ignore", over="ignore"):
        error = gamma(dimension) * (2 if narrow else 1) * norm * longest
        if narrow:
            error += norm * lost + cut * longest + 2.0**-8 * run_sums(np.abs(maxima), offsets - offsets[0]).T
        error += tiny(dimension) * (np.diff(offsets)[:, None] * (1 + longest) + norm)
    return scores, _CERTAIN * error


def _maxima(queries: torch.Tensor, documents: Gathered) -> tuple[Shorts, Floats, Floats]:
    """Each document's best product with each query token [n, s]; the documents' longest rows [n], and the most that
    rounding took from one [n]."""
    starts, narrow = documents.starts, queries.dtype == torch.bfloat16
    maxima = np.full((len(starts) - 1, len(queries)), -np.inf, np.float32)
    longest, lost = np.zeros(len(starts) - 1), np.zeros(len(starts) - 1)
    step = min(MOST_ROWS, max(16, BLOCK // max(1, len(queries))), int(starts[-1]))
    buffer = scratch("products", len(queries) * step, queries.dtype)
    for start in range(0, int(starts[-1]), step):
        end = min(start + step, int(starts[-1]))
        first, last = np.searchsorted(starts, start, side="right") - 1, np.searchsorted(starts, end)
        cuts = np.maximum(starts[first:last], start) - start
        block = documents.read(start, end)
        rows = block.to(queries.dtype)
        _raise(maxima[first:last], _highest(queries, rows, cuts, buffer))
        _raise(longest[first:last], np.maximum.reduceat(row_lengths(block), cuts))
        if narrow:
            _raise(lost[first:last], np.maximum.reduceat(row_lengths(block - rows.float()), cuts))
    return maxima, longest, lost


def _highest(queries: torch.Tensor, rows: torch.Tensor, cuts: Ints, buffer: torch.Tensor) -> Shorts:
    """The best products [n, s] of query tokens and runs of rows, which begin at the cuts."""
    if len(queries) < _WIDE:
        out = buffer[: len(queries) * len(rows)].view(len(queries), len(rows))
        return np.maximum.reduceat(torch.mm(queries, rows.T, out=out).float().numpy(), cuts, axis=1).T
    out = buffer[: len(queries) * len(rows)].view(len(rows), len(queries))
    products = torch.mm(rows, queries.T, out=out).float().numpy()
    ends = [*cuts[1:].tolist(), len(rows)]
    return np.stack([products[a:b].max(axis=0) for a, b in zip(cuts.tolist(), ends, strict=True)])


def _raise(highest: NDArray[np.floating], seen: NDArray[np.floating]) -> None:
    np.maximum(highest, seen, out=highest)


def scored(asked: Asked, documents: Vectors, pairs: Ints) -> Shorts:
    """The true scores of pairs [n, 2] of query and document, in their order.

    A document that many queries want is read once for all of them; else a query's documents are read together.
    """
    query, document = pairs.T
    rows = int(np.diff(documents.offsets)[document].sum())
    by_document = rows > _BY_DOCUMENT * len(np.unique(document))
    order = np.lexsort((query, document) if by_document else (document, query))
    query, document = query[order], document[order]
    if by_document:
        tasks = [(some, one[:1]) for one, some in _runs(document, query)]
    else:
        tasks = [(one[:1], some) for one, some in _split(documents, _runs(query, document))]
    work = side_by_side(lambda task: exact(asked, task[0], Gathered(documents, task[1])).reshape(-1), tasks)
    scores = np.empty(len(pairs), np.float32)
    scores[order] = np.concatenate([np.zeros(0, np.float32), *work])
    return scores


def _runs(key: Ints, value: Ints) -> list[tuple[Ints, Ints]]:
    """Equal keys that follow each other, with their values."""
    cuts = np.flatnonzero(np.diff(key)) + 1
    return list(zip(np.split(key, cuts), np.split(value, cuts), strict=True)) if len(key) else []


def _split(documents: Vectors, runs: list[tuple[Ints, Ints]]) -> Iterator[tuple[Ints, Ints]]:
    for query, positions in runs:
        for start, end in _pieces_of(documents, positions):
            yield query, positions[start:end]


def _pieces_of(documents: Vectors, positions: Ints) -> list[tuple[int, int]]:
    counts = documents.offsets[positions + 1] - documents.offsets[positions]
    return pieces(np.concatenate([[0], np.cumsum(counts)]), PIECE)
