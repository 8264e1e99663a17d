"""`Multivector`: token vectors in FAISS cells name documents, MaxSim over all their tokens ranks them."""

from __future__ import annotations

from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from lodesmith.core.protocols import Metric
from lodesmith.core.vectors import Vectors
from lodesmith.indexes._approximate import DEPTH, Approximate, Ints, alone
from lodesmith.indexes.ivf import FEWEST, cells
from lodesmith.similarity.maxsim import maxsim_rows

__all__ = ["Multivector"]

TRAINED = 1 << 17
"""Rows from which the cells' centres come."""
_EACH = 32
"""Rows that a query token names for each cell that it looks into."""
_NAMED = 1 << 21
"""Rows that are named at once."""
_QUERIES = 48
_TOKENS = 16


class Multivector(Approximate):
    """Late interaction in two steps, as in ColBERT (Khattab and Zaharia 2020, arXiv 2004.12832, section 3.6).

    Each query token's nearest document tokens are found in cells of tokens of 8 bits a component. A document's score is
    guessed from what was found of it: a query token that found none of its tokens counts as the last that it found of
    any. The best by that guess, which is ours, are scored exactly, and have the scores of `flat`.

    Args:
        metric: `maxsim`.
        small: up to so many rows search is exact; None for the usual number.
        refine: so many times k documents are scored exactly.
        target: the recall@11 against exact search that the effort is raised for when it is built. The queries of this
            measurement have tokens midway between those of two random documents: real ones may find more or less.

    Raises:
        ConfigError: the metric is another, or a setting is out of range.
    """

    metrics: ClassVar[tuple[Metric, ...]] = ("maxsim",)
    efforts: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32, 64, 128, 256)
    named: ClassVar[int] = 32
    aimed: ClassVar[float] = 0.998
    """Real queries find less than those of the measurement."""

    def make(self, rows: int, dimension: int, measure: int) -> Any:
        """Cells over rows of 8 bits a component."""
        coarse = faiss.IndexFlat(dimension, measure)
        count = min(cells(rows), TRAINED // FEWEST)
        graph = faiss.IndexIVFScalarQuantizer(coarse, dimension, count, faiss.ScalarQuantizer.QT_8bit, measure)
        coarse.this.disown()  # the cells own it from here on
        graph.own_fields = True
        return graph

    def effort(self, value: int, selector: Any) -> Any:
        """`value` cells are searched for each query token."""
        return faiss.SearchParametersIVF(nprobe=value, sel=selector)

    def _found(self, queries: Vectors, k: int, live: int) -> dict[str, list[tuple[str, float]]]:
        """The ranking of each query; one for which too few documents are named is searched exactly."""
        count = max(k * self.refine, _EACH * self.report["effort"])
        scores, rows = self._nearest(np.asarray(queries.values, np.float32), min(live, count))
        found: dict[str, list[tuple[str, float]]] = {}
        waiting = []
        for at, name in enumerate(queries.ids):
            part = slice(queries.offsets[at], queries.offsets[at + 1])
            items = self._guessed(scores[part], rows[part])[: k * self.refine]
            if len(items) < min(k, len(self)):
                waiting.append(at)
                continue
            own = queries.take([at])
            found[name] = self._exactly(own, items, k)
        if waiting:
            run = self.exact.search(queries.take(waiting), k)
            found |= {name: list(run[name]) for name in run}
        return {name: found[name] for name in queries.ids}

    def _nearest(self, tokens: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], Ints]:
        """Scores and row numbers [tokens, count] that FAISS names; −1 where it names none."""
        scores = np.zeros((len(tokens), count), np.float32)
        rows = np.full((len(tokens), count), -1)
        if not len(tokens):
            return scores, rows
        settings = self.effort(self.report["effort"], self._selector())
        with alone():
            for start in range(0, len(tokens), step := max(1, _NAMED // count)):
                part = np.ascontiguousarray(tokens[start : start + step])
                scores[start : start + step], places = self._graph.search(part, count, params=settings)
                rows[start : start + step] = np.where(places < 0, -1, self._labels[places.clip(min=0)])
        return scores, rows

    def _guessed(self, scores: NDArray[np.float32], rows: Ints) -> Ints:
        """Items by their guessed scores, the best first."""
        token, place = np.nonzero(rows >= 0)
        if not len(token):
            return np.zeros(0, np.int64)
        item, found = self._owner[rows[token, place]], scores[token, place]
        least = np.full(len(rows), np.inf, np.float32)
        np.minimum.at(least, token, found)
        # FAISS names the best first: of an item's rows the first that a token found.
        _, first = np.unique(token * (len(self._items) + 1) + item, return_index=True)
        named, number = np.unique(item[first], return_inverse=True)
        gained = np.bincount(number, weights=(found - least[token])[first])
        order: Ints = named[np.lexsort((-named, -gained))]
        return order

    def _exactly(self, query: Vectors, items: Ints, k: int) -> list[tuple[str, float]]:
        """The k best of some items by MaxSim."""
        numbers = np.asarray([self._items[item] for item in np.sort(items).tolist()], np.int64)
        parts = [self._parts[part].take(numbers[numbers[:, 0] == part, 1]) for part in np.unique(numbers[:, 0])]
        documents = parts[0] if len(parts) == 1 else Vectors.joined(parts)
        pairs = np.stack([np.zeros(len(documents), np.int64), np.arange(len(documents))], axis=1)
        scores = maxsim_rows(query, documents, pairs).tolist()
        return sorted(zip(documents.ids, scores, strict=True), key=lambda pair: (pair[1], pair[0]), reverse=True)[:k]

    def _measure(self, rows: Ints) -> None:
        """Raise the effort until queries between two documents find the documents that exact search finds."""
        queries = self._between(rows)
        depth = min(DEPTH, len(self))
        truth = self.exact.search(queries, depth)
        live = int(self._alive.sum())
        for value in self.efforts:
            self.report = {"rows": len(rows), "items": len(self), "effort": value, "queries": len(queries)}
            found = self._found(queries, depth, live)
            hits = sum(len({key for key, _ in found[name]} & {key for key, _ in truth[name]}) for name in found)
            self.report[f"recall@{depth}"] = round(hits / (depth * len(queries)), 4)
            if hits >= self.target * depth * len(queries):
                return

    def _between(self, rows: Ints) -> Vectors:
        """Queries whose tokens lie midway between tokens of two random documents."""
        random = np.random.default_rng(1)
        owners = np.unique(self._owner[rows])
        sides: tuple[list[Ints], list[Ints]] = ([], [])
        for _ in range(_QUERIES):
            for side, item in zip(sides, random.choice(owners, 2), strict=True):
                side.append(random.choice(rows[self._rows_of(rows, item)], _TOKENS))
        first, second = (self._values(np.concatenate(side)) for side in sides)
        values = first + second
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        size = np.linalg.norm(first, axis=1, keepdims=True)
        values *= np.divide(size, lengths, out=np.ones_like(lengths), where=lengths > 0)
        bounds = np.arange(_QUERIES + 1) * _TOKENS
        return Vectors(values, bounds, tuple(str(at) for at in range(_QUERIES)))

    def _rows_of(self, rows: Ints, item: int) -> slice:
        """Where an item's rows lie among the live ones, which are in the items' order."""
        first, last = np.searchsorted(self._owner[rows], [item, item + 1])
        return slice(int(first), int(last))
