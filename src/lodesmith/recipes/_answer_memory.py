"""The documents of pools as one model's memory: how they rank, what is read of them, and two controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.recipes._answer_pools import Pools, Questions
from lodesmith.recipes._document_vectors import document_vectors

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["PooledMemory", "donors"]

_BLOCK = 1024
"""Documents, or questions, in work at once."""
Memory = NDArray[np.floating]
"""[t, H] of a document."""


class PooledMemory:
    """The memory of all documents of the pools, from the vector cache (float16), what is missing compressed now.

    Args:
        name: how the model was called.
        encoder: the model.
        dataset: of the documents.
        asked: what is asked.
        pools: among which documents.
    """

    def __init__(self, name: str, encoder: MemoryEncoder, dataset: Dataset, asked: Questions, pools: Pools) -> None:
        self.encoder, self._asked, self.pools = encoder, asked, pools
        documents = {key: dataset.documents[key] for key in pools.documents}
        self.vectors = document_vectors(name, encoder, documents, folder=dataset.folder)
        self._rows = self.vectors.values.reshape(len(documents), encoder.count, encoder.dimension)
        self._places = {key: at for at, key in enumerate(self.vectors.ids)}

    def memory(self, document: str) -> Memory:
        """A document's own."""
        found: Memory = self._rows[self._places[document]]
        return found

    @cached_property
    def ranking(self) -> Run:
        """Each pool by the cosine of its documents' flattened memory with the question's, ties by id, descending."""
        keys, found = list(self._asked.texts), {}
        for start in range(0, len(keys), _BLOCK):
            found.update(self.scores(keys[start : start + _BLOCK]))
            tell("rank", min(start + _BLOCK, len(keys)), len(keys), "questions")
        return Run.of(found)

    def scores(self, queries: Sequence[str]) -> dict[str, dict[str, float]]:
        """Query id → document id → score, over the pools of these queries."""
        from lodesmith.similarity.aligned import aligned_rows

        asked = self.encoder.encode([self._asked.texts[key] for key in queries], "query", list(queries))
        pools = [self.pools.orders[key] for key in queries]
        pairs = [(at, self._places[key]) for at, pool in enumerate(pools) for key in pool]
        values = iter(self._scored(aligned_rows, asked, pairs))
        return {query: {key: next(values) for key in pool} for query, pool in zip(queries, pools, strict=True)}

    def _scored(
        self, aligned_rows: Callable[..., NDArray[np.float32]], asked: Vectors, pairs: Sequence[tuple[int, int]]
    ) -> list[float]:
        scores: list[float] = aligned_rows(asked, self.vectors, np.asarray(pairs, np.int64).reshape(-1, 2)).tolist()
        return scores

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation over the documents of every component of their memory: float64 [t, H] each."""
        total, squares = np.zeros(self._rows.shape[1:]), np.zeros(self._rows.shape[1:])
        for start in range(0, len(self._rows), _BLOCK):
            part = np.asarray(self._rows[start : start + _BLOCK], np.float64)
            total += part.sum(axis=0)
            squares += (part**2).sum(axis=0)
        mean = total / max(1, len(self._rows))
        return mean, np.sqrt(np.maximum(squares / max(1, len(self._rows)) - mean**2, 0))

    def noise(self, document: str, seed: int = 0) -> Memory:
        """Random memory for a document: each component drawn with the mean and deviation that it has over documents."""
        mean, deviation = self._moments
        drawn = np.random.default_rng((seed, self._places[document])).standard_normal(mean.shape)
        return (mean + deviation * drawn).astype(np.float32)


def donors(
    order: Sequence[str], read: Mapping[str, Sequence[str]], gold: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """For each question another one: the next in `order` that reads none of its gold documents, else the next.

    Args:
        order: the questions, at least two.
        read: what each reads.
        gold: of each.
    """
    found = {}
    for at, query in enumerate(order):
        others = [*order[at + 1 :], *order[:at]]
        own = set(gold[query])
        found[query] = next((other for other in others if own.isdisjoint(read[other])), others[0])
    return found
