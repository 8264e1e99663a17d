"""Which examples must not share a batch: each other's positives, found by hashing.

Two examples conflict when one's document is a known positive of the other's query. The same query twice, a shared
document and equal texts are cases of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Conflicts", "Seated", "conflicts_of", "no_conflicts"]


@dataclass(frozen=True, eq=False)
class Conflicts:
    """What can conflict among n examples, in arrays: about 17 bytes an example and 4 a known positive.

    Args:
        tight: bool [n], whether an example can conflict with another at all.
        copies: two arrays int32 [n]: how many examples share its query, and its document.
        starts: int64 [queries + 1], where each query's positives begin in `listed`.
        listed: int32, the positives of all queries, among the documents of the examples.
    """

    tight: NDArray[np.bool_]
    copies: tuple[NDArray[np.int32], NDArray[np.int32]]
    starts: NDArray[np.int64]
    listed: NDArray[np.int32]

    def positives(self, pairs: NDArray[np.int32], tight: NDArray[np.bool_]) -> Iterator[Sequence[int] | None]:
        """The known positives of the query of each pair [n, 2], at least its own document; None where not `tight`."""
        starts = self.starts[pairs[:, 0]].tolist()
        counts = np.where(tight, self.starts[pairs[:, 0].astype(np.int64) + 1] - starts, 0).tolist()
        for start, count, document in zip(starts, counts, pairs[:, 1].tolist(), strict=True):
            if count < 2:
                yield (document,) if count else None
            else:
                yield self.listed[start : start + count].tolist()


def conflicts_of(pairs: NDArray[np.int32], known: NDArray[np.integer]) -> Conflicts:
    """Find what can conflict, in time n log n.

    Args:
        pairs: [n, 2] of (query, document), equal texts under one number.
        known: [p, 2] of further positives, likewise.
    """
    queries, documents = (int(side.max(initial=-1)) + 1 for side in pairs.T)
    known = np.asarray(known, np.int64).reshape(-1, 2)
    known = known[(known[:, 0] < queries) & (known[:, 1] < documents)]
    used = [np.bincount(side, minlength=size) for side, size in zip(pairs.T, (queries, documents), strict=True)]
    known = known[(used[0][known[:, 0]] > 0) & (used[1][known[:, 1]] > 0)]
    codes = np.concatenate([_code(pairs, documents), _code(known, documents)])
    every_query, every_document = np.divmod(np.unique(codes), max(1, documents))
    counts = np.bincount(every_query, minlength=queries)
    askers = np.bincount(every_document, minlength=documents)
    copies = used[0][pairs[:, 0]].astype(np.int32), used[1][pairs[:, 1]].astype(np.int32)
    tight = (counts[pairs[:, 0]] > 1) | (askers[pairs[:, 1]] > 1) | (copies[0] > 1) | (copies[1] > 1)
    starts = np.zeros(queries + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return Conflicts(tight, copies, starts, every_document.astype(np.int32))


def no_conflicts(pairs: NDArray[np.int32]) -> Conflicts:
    """Those of examples [n, 2] that may all share a batch."""
    one = np.ones(len(pairs), np.int32)
    starts = np.zeros(int(pairs[:, 0].max(initial=-1)) + 2, np.int64)
    return Conflicts(np.zeros(len(pairs), np.bool_), (one, one), starts, np.zeros(0, np.int32))


def _code(pairs: NDArray[np.integer], documents: int) -> NDArray[np.int64]:
    return pairs[:, 0].astype(np.int64) * documents + pairs[:, 1]


class Seated:
    """The documents that a batch holds, and those that are positives of its queries, as hash sets."""

    __slots__ = ("_claimed", "_present")

    def __init__(self) -> None:
        self._present: set[int] = set()
        self._claimed: set[int] = set()

    def admits(self, document: int, positives: Sequence[int]) -> bool:
        """Whether an example conflicts with none here."""
        return document not in self._claimed and self._present.isdisjoint(positives)

    def add(self, document: int, positives: Sequence[int]) -> None:
        """Let an example in."""
        self._present.add(document)
        self._claimed.update(positives)
