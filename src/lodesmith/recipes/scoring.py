"""Scores of given query–document pairs, by whatever can score them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lodesmith.core.protocols import SEVERAL, Encoder, Metric, Retriever, Side
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.systems import System

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lodesmith.data.mine import PairScores
    from lodesmith.retrieval.rerank import CrossEncoder

__all__ = ["cross_encoder", "scored", "vector_scores"]


def cross_encoder(name: str) -> CrossEncoder:
    """A cross-encoder from a folder or a hub name.

    Raises:
        InputError: there is none, or it is something else.
    """
    from pathlib import Path

    from lodesmith.encoders._loading import find_model
    from lodesmith.retrieval.rerank import CrossEncoder

    return CrossEncoder(find_model(name), name=Path(name).resolve().name if Path(name).exists() else name)


def scored(system: System) -> tuple[Retriever, PairScores | None]:
    """A system's retriever and what scores given pairs exactly as it does; None where it ranks but does not score.

    Those of BM25, of dense models over a dataset, and re-ranked ones can; fused systems, runs and saved indexes cannot.
    """
    from lodesmith.retrieval.bm25 import BM25
    from lodesmith.retrieval.dense import Dense
    from lodesmith.retrieval.rerank import Reranked

    retriever = system.retriever
    if isinstance(retriever, BM25 | Reranked):
        return retriever, retriever.score
    if isinstance(retriever, Dense) and system.vectors is not None:
        encoder = _Remembering(retriever.encoder)  # the queries that are searched are those that are scored
        return Dense(encoder, retriever.index), vector_scores(encoder, system.vectors)
    return retriever, None


def vector_scores(encoder: Encoder, documents: Vectors) -> PairScores:
    """Scores of pairs by an encoder's own similarity, to the bit those of a search; of several rows the best counts.

    Args:
        encoder: of the queries.
        documents: vectors by document id.
    """
    rows = {key: at for at, key in enumerate(documents.ids)}
    together = encoder.metric in SEVERAL
    similarity = _similarity(encoder.metric)

    def score(queries: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, float]]:
        wanted = {query: keys for query, keys in lists.items() if keys}
        if not wanted:
            return {query: {} for query in lists}
        asked = encoder.encode([queries[query] for query in wanted], "query", tuple(wanted))
        found = documents.take([rows[key] for keys in wanted.values() for key in keys])
        pairs = np.repeat(np.arange(len(wanted)), [len(keys) for keys in wanted.values()])
        if together:
            best = iter(similarity(asked, found, np.stack([pairs, np.arange(len(pairs))], axis=1)).tolist())
        else:
            values = similarity(asked.values[np.repeat(pairs, np.diff(found.offsets))], found.values)
            best = iter(np.maximum.reduceat(values, found.offsets[:-1]).tolist())
        return {query: {key: next(best) for key in keys} for query, keys in lists.items()}

    return score


def _similarity(metric: Metric) -> Callable[..., NDArray[np.float32]]:
    """The exact scores of pairs of rows; of pairs of items where the metric is one of several vectors."""
    from lodesmith.similarity.aligned import aligned_rows
    from lodesmith.similarity.cosine import cosine_rows
    from lodesmith.similarity.dot import dot_rows
    from lodesmith.similarity.euclidean import euclidean_rows
    from lodesmith.similarity.maxsim import maxsim_rows

    rows = {"cosine": cosine_rows, "dot": dot_rows, "euclidean": euclidean_rows}
    return {**rows, "maxsim": maxsim_rows, "aligned": aligned_rows}[metric]


class _Remembering:
    """An encoder that encodes a text of its last call for nothing."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._last: dict[tuple[Side, str], int] = {}
        self._values: NDArray[np.floating] = np.empty((0, encoder.dimension), np.float32)

    @property
    def dimension(self) -> int:
        return self._encoder.dimension

    @property
    def metric(self) -> Metric:
        return self._encoder.metric

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        names = tuple(str(at) for at in range(len(texts))) if ids is None else tuple(ids)
        at = [self._last.get((side, text), -1) for text in texts]
        if texts and min(at) >= 0:
            return Vectors.dense(self._values[at], names)
        found = self._encoder.encode(texts, side, names)
        if found.is_dense:
            self._last = {(side, text): row for row, text in enumerate(texts)}
            self._values = found.values
        return found
