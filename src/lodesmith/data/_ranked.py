"""The results of several queries as flat arrays, for rules that look at all of them at once."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.run import Run

__all__ = ["Ranked"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ranked:
    """m results of n queries, query after query, best first.

    Args:
        names: the documents that occur.
        rows: int64 [m]: the document of each result in `names`.
        scores: float64 [m].
        owner: int64 [m]: the number of the query.
        offsets: int64 [n + 1]: where each query's results begin.
        held: bool [m]: the results that the dataset holds.
    """

    names: list[str]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    owner: NDArray[np.int64]
    offsets: NDArray[np.int64]
    held: Mask

    @classmethod
    def of(cls, run: Run, queries: Sequence[str], documents: Container[str]) -> Ranked:
        """The results of these queries, in this order; a query that the run lacks has none."""
        place = {query: at for at, query in enumerate(run.query_ids)}
        parts = [slice(0, 0)] * len(queries)
        for at, query in enumerate(queries):
            if (own := place.get(query)) is not None:
                parts[at] = slice(int(run.offsets[own]), int(run.offsets[own + 1]))
        sizes = [part.stop - part.start for part in parts]
        results = np.concatenate([np.zeros(0, np.int64), *(np.arange(part.start, part.stop) for part in parts)])
        used, rows = np.unique(run.rows[results], return_inverse=True)
        names = [run.document_ids[row] for row in used.tolist()]
        held = np.fromiter((name in documents for name in names), np.bool_, len(names))
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        owner = np.repeat(np.arange(len(queries)), sizes)
        return cls(names, rows.astype(np.int64).ravel(), run.scores[results], owner, offsets, held[rows.ravel()])

    def ids(self, query: int) -> list[str]:
        """The documents of a query's results."""
        return [self.names[row] for row in self.rows[self.offsets[query] : self.offsets[query + 1]].tolist()]

    def among(self, lists: Sequence[Sequence[str]]) -> Mask:
        """bool [m]: the results that are in their query's list."""
        place, width = {name: at for at, name in enumerate(self.names)}, max(1, len(self.names))
        codes = [at * width + place[key] for at, keys in enumerate(lists) for key in keys if key in place]
        wanted = np.sort(np.asarray(codes, np.int64))
        if not len(wanted):
            return np.zeros(len(self.rows), np.bool_)
        own = self.owner * width + self.rows
        found: Mask = wanted[np.searchsorted(wanted, own).clip(max=len(wanted) - 1)] == own
        return found

    def ranks(self, counted: Mask, first: int, last: int) -> Mask:
        """bool [m]: the results at these ranks, from 1, where only those of `counted` count."""
        so_far = np.concatenate([[0], np.cumsum(counted)])
        rank = so_far[1:] - so_far[self.offsets[self.owner]]
        found: Mask = counted & (rank >= first) & (rank <= last)
        return found

    def count(self, mask: Mask) -> NDArray[np.int64]:
        """int64 [n]: how many of each query's results are in the mask."""
        return np.bincount(self.owner[mask], minlength=len(self.offsets) - 1).astype(np.int64)

    def lowest(self, mask: Mask) -> NDArray[np.float64]:
        """float64 [n]: the lowest score in the mask; infinite where there is none."""
        found = np.full(len(self.offsets) - 1, np.inf)
        np.minimum.at(found, self.owner[mask], self.scores[mask])
        return found

    @property
    def last(self) -> NDArray[np.float64]:
        """float64 [n]: the score of each query's last result; infinite where there is none."""
        found = np.full(len(self.offsets) - 1, np.inf)
        some = np.flatnonzero(np.diff(self.offsets))
        found[some] = self.scores[self.offsets[some + 1] - 1]
        return found

    def parts(self, mask: Mask) -> Iterator[tuple[list[str], NDArray[np.float64]]]:
        """Documents and scores of each query's results in the mask."""
        at = np.flatnonzero(mask)
        rows, scores = self.rows[at].tolist(), self.scores[at]
        bounds = np.searchsorted(self.owner[at], np.arange(len(self.offsets))).tolist()
        for start, end in pairwise(bounds):
            yield [self.names[row] for row in rows[start:end]], scores[start:end]
