"""Scores of chosen documents by a model's own vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.protocols import SEVERAL, Metric
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.systems import System

__all__ = ["Scores"]


@dataclass(frozen=True)
class Scores:
    """Scores a query's documents as the model's search does: a document of several rows by its best one.

    Args:
        queries: id → vector, float64 [d].
        documents: their vectors.
        places: id → position in `documents`.
        metric: how vectors are compared.
    """

    queries: Mapping[str, NDArray[np.float64]]
    documents: Vectors
    places: Mapping[str, int]
    metric: Metric

    @classmethod
    def of(cls, system: System, texts: Mapping[str, str]) -> Scores | None:
        """For queries (id → text); None where the system is not one model with a vector of its own a query."""
        from lodesmith.retrieval.dense import Dense

        if not isinstance(system.retriever, Dense) or system.vectors is None:
            return None
        encoder, documents = system.retriever.encoder, system.vectors
        if encoder.metric in SEVERAL:
            return None
        rows = encoder.encode(list(texts.values()), "query", tuple(texts)).values.astype(np.float64)
        places = {key: at for at, key in enumerate(documents.ids)}
        return cls(dict(zip(texts, rows, strict=True)), documents, places, encoder.metric)

    def __call__(self, query: str, documents: Sequence[str]) -> NDArray[np.float64]:
        """The scores of documents, by their ids, in this order."""
        taken = self.documents.take([self.places[key] for key in documents])
        if not len(taken):
            return np.empty(0)
        rows, own = taken.values.astype(np.float64), self.queries[query]
        if self.metric == "euclidean":
            scores = -((rows - own) ** 2).sum(axis=1)
        elif self.metric == "cosine":
            lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(own)
            scores = np.divide(rows @ own, lengths, out=np.zeros(len(rows)), where=lengths > 0)
        else:
            scores = rows @ own
        best: NDArray[np.float64] = np.maximum.reduceat(scores, taken.offsets[:-1])
        return best
