"""Fusion of runs: reciprocal ranks (Cormack, Clarke and Büttcher 2009), or weighted scores on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Retriever
from lodesmith.core.run import Run

__all__ = ["Fused", "Standardised", "reciprocal_rank", "standardised", "weighted"]


def reciprocal_rank(runs: Sequence[Run], k: int = 60, weights: Sequence[float] | None = None) -> Run:
    """Score of a document = Σ over runs of weight / (k + rank), ranks counted from 1; absent documents add nothing.

    Args:
        runs: at least one; a query that one of them lacks is fused from the others.
        k: the constant that flattens the head of the list; 60 in the paper.
        weights: one a run; equal where not given.
    """
    return _fused(runs, weights, [1.0 / (k + 1 + _ranks(run)) for run in runs])


def weighted(runs: Sequence[Run], weights: Sequence[float]) -> Run:
    """Σ weight · score, each run's scores first brought to [0, 1] within the query (its least returned score is 0)."""
    return _fused(runs, weights, [_normalised(run) for run in runs])


def standardised(runs: Sequence[Run], weights: Sequence[float]) -> Run:
    """Σ weight · (score − least) / σ, the least score and the standard deviation those of the query's list.

    So a list that sets a few documents far apart from the rest decides over one that hardly tells its documents apart.
    Lists are compared at one length: a run with fewer results than the longest found nothing in common with the rest,
    whose score is then 0, as BM25's is.
    """
    lengths = [dict(zip(run.query_ids, np.diff(run.offsets).tolist(), strict=True)) for run in runs]
    most = {query: max(own.get(query, 0) for own in lengths) for own in lengths for query in own}
    return _fused(runs, weights, [_spread(run, most) for run in runs])


def _spread(run: Run, most: Mapping[str, int]) -> NDArray[np.float64]:
    values = np.zeros(len(run.scores))
    for query, start, end in zip(run.query_ids, run.offsets[:-1], run.offsets[1:], strict=True):
        scores = np.asarray(run.scores[start:end], np.float64)
        missing = most[query] - len(scores)
        padded = np.concatenate([scores, np.zeros(missing)])
        deviation = padded.std()
        if deviation > 0:
            values[start:end] = (scores - padded.min()) / deviation
    return values


def _ranks(run: Run) -> NDArray[np.float64]:
    ranks: NDArray[np.int64] = np.arange(len(run.rows)) - np.repeat(run.offsets[:-1], np.diff(run.offsets))
    return ranks.astype(np.float64)


def _normalised(run: Run) -> NDArray[np.float64]:
    values = np.zeros(len(run.scores))
    for start, end in zip(run.offsets[:-1], run.offsets[1:], strict=True):
        scores = run.scores[start:end]
        if len(scores):
            spread = scores.max() - scores.min()
            values[start:end] = (scores - scores.min()) / spread if spread > 0 else 1.0
    return values


def _fused(runs: Sequence[Run], weights: Sequence[float] | None, values: list[NDArray[np.float64]]) -> Run:
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs) or not runs:
        raise ConfigError(f"{len(runs)} runs and {len(weights)} weights do not fit", "give one weight a run")
    table: dict[str, int] = {}
    queries: dict[str, int] = {}
    keys, sums = [], []
    for run, weight, value in zip(runs, weights, values, strict=True):
        rows = np.array([table.setdefault(d, len(table)) for d in run.document_ids], np.int64)
        query = np.array([queries.setdefault(q, len(queries)) for q in run.query_ids], np.int64)
        keys.append(np.stack([np.repeat(query, np.diff(run.offsets)), rows[run.rows]], axis=1))
        sums.append(weight * value)
    pairs, inverse = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    totals = np.bincount(inverse.reshape(-1), weights=np.concatenate(sums), minlength=len(pairs))
    offsets = np.searchsorted(pairs[:, 0], np.arange(len(queries) + 1))
    return Run.ranked(tuple(queries), tuple(table), pairs[:, 1], totals, offsets)


class Fused:
    """Retrievers fused by reciprocal rank; each is asked for `depth` documents, whatever k is, so that the first
    ten do not depend on how many are asked for.

    Args:
        retrievers: at least two.
        depth: candidates taken from each; a query has at most as many results as their union.
        k: the constant of `reciprocal_rank`.
        weights: one a retriever; equal where not given.
    """

    def __init__(
        self, retrievers: Sequence[Retriever], depth: int = 200, k: int = 60, weights: Sequence[float] | None = None
    ) -> None:
        self.retrievers, self.depth, self.k, self.weights = tuple(retrievers), depth, k, weights

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text)."""
        runs = [retriever.search(queries, self.depth) for retriever in self.retrievers]
        return reciprocal_rank(runs, self.k, self.weights).top(k)


class Standardised:
    """Retrievers fused by `standardised` scores; each is asked for `depth` documents, whatever k is.

    Args:
        retrievers: at least two.
        weights: one a retriever.
        depth: candidates taken from each, over which its scores are standardised.
    """

    def __init__(self, retrievers: Sequence[Retriever], weights: Sequence[float], depth: int = 200) -> None:
        self.retrievers, self.weights, self.depth = tuple(retrievers), tuple(weights), depth

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text)."""
        runs = [retriever.search(queries, self.depth) for retriever in self.retrievers]
        return standardised(runs, self.weights).top(k)
