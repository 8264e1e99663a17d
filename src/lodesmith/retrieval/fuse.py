"""Fusion of runs: reciprocal ranks (Cormack, Clarke and Büttcher 2009), or weighted scores on one scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Retriever
from lodesmith.core.run import Run

__all__ = ["Fused", "Standardised", "Weight", "covered", "reciprocal_rank", "standardised", "weighted"]

Weight = float | Mapping[str, float]
"""Of a run: one for all its queries, or query id → its own."""
_BLOCK = 1024
"""Queries that are asked and fused at once: thousands of candidates of each would not fit for all of them."""


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


def standardised(runs: Sequence[Run], weights: Sequence[Weight]) -> Run:
    """Σ weight · (score − least) / σ, the least score and the standard deviation those of the query's list.

    So a list that sets a few documents far apart from the rest decides over one that hardly tells its documents apart.
    Lists are compared at one length: a run with fewer results than the longest found nothing in common with the rest,
    whose score is then 0, as BM25's is.
    """
    lengths = [dict(zip(run.query_ids, np.diff(run.offsets).tolist(), strict=True)) for run in runs]
    most = {query: max(own.get(query, 0) for own in lengths) for own in lengths for query in own}
    return _fused(runs, weights, [_spread(run, most) for run in runs])


def covered(
    weight: float, coverage: Mapping[str, float], reference: float = 0.0
) -> tuple[dict[str, float], dict[str, float]]:
    """Weights of BM25 and of an encoder for each query: a query whose words the documents hardly have is the encoder's.

    BM25's odds, (1 − weight) / weight, are multiplied by min(1, coverage / reference)^½.

    Args:
        weight: of the encoder, within [0, 1].
        coverage: query id → `BM25.coverage`; where it is 0 the encoder answers alone.
        reference: a coverage from which on BM25 has its whole weight; 0 gives it to whatever it finds.
    """
    lexical = {}
    for query, own in coverage.items():
        odds = (1 - weight) * math.sqrt(own / reference if own < reference else float(own > 0))
        lexical[query] = odds / (odds + weight) if odds else 0.0
    return lexical, {query: 1 - own for query, own in lexical.items()}


def _spread(run: Run, most: Mapping[str, int]) -> NDArray[np.float64]:
    values = np.zeros(len(run.scores))
    for query, start, end in zip(run.query_ids, run.offsets[:-1], run.offsets[1:], strict=True):
        scores = np.asarray(run.scores[start:end], np.float64)
        missing = most[query] - len(scores)
        padded = np.concatenate([scores, np.zeros(missing)])
        deviation = padded.std() if len(padded) else 0.0  # nobody may have found anything
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


def _fused(runs: Sequence[Run], weights: Sequence[Weight] | None, values: list[NDArray[np.float64]]) -> Run:
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs) or not runs:
        raise ConfigError(f"{len(runs)} runs and {len(weights)} weights do not fit", "give one weight a run")
    table: dict[str, int] = {}
    queries: dict[str, int] = {}
    owners, found, sums = [], [], []
    for run, weight, value in zip(runs, weights, values, strict=True):
        rows = np.array([table.setdefault(d, len(table)) for d in run.document_ids], np.int64)
        query = np.array([queries.setdefault(q, len(queries)) for q in run.query_ids], np.int64)
        owners.append(np.repeat(query, np.diff(run.offsets)))
        found.append(rows[run.rows])
        sums.append(_each(weight, run) * value)
    keys = np.concatenate(owners) * len(table) + np.concatenate(found)
    pairs, inverse = np.unique(keys, return_inverse=True)
    totals = np.bincount(inverse.reshape(-1), weights=np.concatenate(sums), minlength=len(pairs))
    offsets = np.searchsorted(pairs, np.arange(len(queries) + 1) * len(table))
    return Run.ranked(tuple(queries), tuple(table), pairs % max(1, len(table)), totals, offsets)


def _each(weight: Weight, run: Run) -> NDArray[np.float64]:
    """The weight of each of a run's results."""
    own = [weight[query] if isinstance(weight, Mapping) else weight for query in run.query_ids]
    return np.repeat(np.asarray(own, np.float64), np.diff(run.offsets))


def _joined(runs: Sequence[Run]) -> Run:
    """Runs of different queries as one."""
    table: dict[str, int] = {}
    rows = [np.array([table.setdefault(d, len(table)) for d in run.document_ids], np.int64)[run.rows] for run in runs]
    lengths = np.concatenate([np.diff(run.offsets) for run in runs])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    queries = tuple(query for run in runs for query in run.query_ids)
    return Run(queries, tuple(table), np.concatenate(rows), np.concatenate([run.scores for run in runs]), offsets)


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
        weights: one a retriever, or what gives them for queries (id → text) and each retriever's run for these.
        depth: candidates taken from each, over which its scores are standardised.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        weights: Sequence[Weight] | Callable[[Mapping[str, str], Sequence[Run]], Sequence[Weight]],
        depth: int = 200,
    ) -> None:
        self.retrievers, self.weights, self.depth = tuple(retrievers), weights, depth

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text)."""
        items = list(queries.items())
        blocks = [dict(items[start : start + _BLOCK]) for start in range(0, max(1, len(items)), _BLOCK)]
        return _joined([self._block(block, k) for block in blocks])

    def _block(self, queries: Mapping[str, str], k: int) -> Run:
        runs = [retriever.search(queries, self.depth) for retriever in self.retrievers]
        weights = self.weights(queries, runs) if callable(self.weights) else self.weights
        return standardised(runs, weights).top(k)
