"""`Run`: what a retriever returned, query by query; TREC in, TREC out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_file


@dataclass(frozen=True, eq=False)
class Run(Mapping[str, "list[tuple[str, float]]"]):
    """Rankings of documents, kept as flat arrays.

    Within a query, documents stand by score (as float32, the precision of trec_eval) descending, and ties by
    document id descending, as trec_eval sorts them.

    Args:
        query_ids: the n queries.
        document_ids: a table of the documents that occur; `rows` points into it.
        rows: int64 [total]: the ranked documents of all queries, one query after another.
        scores: float64 [total].
        offsets: int64 [n + 1]: query i owns rows[offsets[i]:offsets[i + 1]].
    """

    query_ids: tuple[str, ...]
    document_ids: tuple[str, ...]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rankings: Mapping[str, Mapping[str, float]]) -> Run:
        """A run from query id → document id → score, in any order.

        Raises:
            InputError: a score is NaN or infinite.
        """
        counts = [len(documents) for documents in rankings.values()]
        table: defaultdict[str, int] = defaultdict(count().__next__)  # a new document gets the next row
        keys = chain.from_iterable(rankings.values())
        rows = np.fromiter(map(table.__getitem__, keys), np.int64, sum(counts))
        values = chain.from_iterable(documents.values() for documents in rankings.values())
        scores = np.fromiter(values, np.float64, sum(counts))
        return cls.ranked(tuple(rankings), tuple(table), rows, scores, np.concatenate([[0], np.cumsum(counts)]))

    @classmethod
    def ranked(
        cls,
        query_ids: Sequence[str],
        document_ids: Sequence[str],
        rows: NDArray[Any],
        scores: NDArray[Any],
        offsets: NDArray[Any],
    ) -> Run:
        """A run from flat arrays in any order within a query; sorts them as trec_eval does.

        Raises:
            InputError: a score is NaN or infinite.
        """
        rows, scores = np.asarray(rows, np.int64), np.asarray(scores, np.float64)
        offsets = np.asarray(offsets, np.int64)
        if not np.isfinite(scores).all():
            query = int(np.searchsorted(offsets, int(np.flatnonzero(~np.isfinite(scores))[0]), side="right")) - 1
            raise InputError(f"query {query_ids[query]!r} has a score that is NaN or infinite", "repair the run")
        order = _order(document_ids, rows, scores, offsets)
        return cls(tuple(query_ids), tuple(document_ids), rows[order], scores[order], offsets)

    @classmethod
    def load(cls, path: Path | str) -> Run:
        """Read a TREC run file: `query Q0 document rank score tag`. The ranks in it are ignored: scores decide.

        Raises:
            InputError: a line is broken, a document occurs twice for a query, or a score is not finite.
        """
        rankings: dict[str, dict[str, float]] = {}
        try:
            with Path(path).open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    _read_line(line, rankings, path, number)
        except FileNotFoundError:
            raise InputError("no such run file", path=path) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", path=path) from None
        return cls.of(rankings)

    def save(self, path: Path | str, tag: str = "lodesmith") -> None:
        """Write a TREC run file, atomically. White space inside ids cannot be written.

        Raises:
            InputError: an id holds white space, which the format cannot carry.
        """
        for key in (*self.query_ids, *self.document_ids):
            if key.split() != [key]:
                raise InputError(f"the id {key!r} holds white space, which a TREC file cannot carry")
        tag = "_".join(tag.split()) or "lodesmith"
        with atomic_file(path) as handle:
            for query, ranking in self.items():
                for rank, (document, score) in enumerate(ranking, start=1):
                    handle.write(f"{query} Q0 {document} {rank} {score!r} {tag}\n")

    def top(self, k: int) -> Run:
        """The first k documents of each query."""
        rank = np.arange(len(self.rows)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        keep = rank < k
        counts = np.minimum(np.diff(self.offsets), k)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Run(self.query_ids, self.document_ids, self.rows[keep], self.scores[keep], offsets)

    def __getitem__(self, query: str) -> list[tuple[str, float]]:
        start, end = self.offsets[self._position[query] : self._position[query] + 2]
        return [
            (self.document_ids[row], float(s))
            for row, s in zip(self.rows[start:end], self.scores[start:end], strict=True)
        ]

    @property
    def _position(self) -> dict[str, int]:
        if "_positions" not in self.__dict__:
            object.__setattr__(self, "_positions", {query: i for i, query in enumerate(self.query_ids)})
        positions: dict[str, int] = self.__dict__["_positions"]
        return positions

    def __iter__(self) -> Iterator[str]:
        return iter(self.query_ids)

    def __len__(self) -> int:
        return len(self.query_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Run({len(self)} queries, {len(self.rows)} results)"


def _order(
    document_ids: Sequence[str], rows: NDArray[np.int64], scores: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The permutation that sorts each query's results: one integer sort on (query, score), then the ties by id."""
    query_of = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    key = query_of << np.uint64(32) | _descending(scores)
    order = np.argsort(key)
    key = key[order]
    same = key[1:] == key[:-1]
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    if len(tied):
        used, local = np.unique(rows[order[tied]], return_inverse=True)
        place = id_order([document_ids[row] for row in used])[local]
        order[tied] = order[tied][np.lexsort((-place, key[tied]))]
    return order


def _descending(scores: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Integers that rise as the scores, as float32, fall; equal where those are equal (−0 is 0)."""
    with np.errstate(over="ignore"):  # beyond float32 all scores are infinite and tie, as in trec_eval
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    negative = bits >> 31 == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)


def id_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """The place of each id among the sorted ids (by code point): int64 [n]."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    return place


def _read_line(line: str, rankings: dict[str, dict[str, float]], path: Path | str, number: int) -> None:
    fields = line.split()
    if not fields:
        return
    if len(fields) != 6:
        raise InputError(
            f"expected 6 fields, found {len(fields)}", "query Q0 document rank score tag", path=path, line=number
        )
    query, _, document, _, score, _ = fields
    ranking = rankings.setdefault(query, {})
    if document in ranking:
        raise InputError(f"the document {document!r} occurs twice for query {query!r}", path=path, line=number)
    try:
        value = float(score)
    except ValueError:
        raise InputError(f"the score {score!r} is not a number", path=path, line=number) from None
    if not np.isfinite(value):
        raise InputError(f"the score {score!r} is not finite", "repair the run", path=path, line=number)
    ranking[document] = value
