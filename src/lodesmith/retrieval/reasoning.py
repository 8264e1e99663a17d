"""Retrieval by queries with reasoning traces: one text, or two whose scores are fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Retriever
from lodesmith.core.registry import did_you_mean
from lodesmith.core.run import Run
from lodesmith.retrieval.fuse import standardised

__all__ = ["How", "ReasoningAugmentedRetriever"]

How = Literal["append", "fuse"]


class ReasoningAugmentedRetriever:
    """A retriever that is given a query and its trace; a query without one is asked as it is.

    Args:
        retriever: searches.
        traces: query id → trace. They join by id, whatever the order of the queries.
        how: `append`, the trace behind the query as one text (Query2doc, Wang, Yang and Wei 2023, arXiv 2303.07678,
            does so for dense retrievers); `fuse`, both are searched, and the scores, each standardised within its
            list (`fuse.standardised`), are added.
        weight: of the trace's scores, within [0, 1]; with `fuse`.
        words: a trace is cut after so many; None for no limit.
        depth: with `fuse`, the candidates that are taken of each; a query has at most as many results as their union.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        retriever: Retriever,
        traces: Mapping[str, str],
        *,
        how: How = "append",
        weight: float = 0.5,
        words: int | None = None,
        depth: int = 200,
    ) -> None:
        if how not in get_args(How):
            raise ConfigError(f"no way to use traces is called {how!r}", did_you_mean(how, list(get_args(How))))
        if not 0 <= weight <= 1:
            raise ConfigError(f"the weight of traces is {weight}", "give one within 0 and 1")
        if (words is not None and words < 1) or depth < 1:
            raise ConfigError(f"words {words} and depth {depth} cannot be used", "give at least 1 of each")
        self.retriever, self.how, self.weight, self.depth = retriever, how, weight, depth
        self._traces, self._words = traces, words

    def trace(self, query: str) -> str:
        """What is known of a query by its id; empty for nothing."""
        return " ".join(self._traces.get(query, "").split()[: self._words])

    def missing(self, queries: Mapping[str, str]) -> int:
        """How many of the queries are asked as they are, for want of a trace."""
        return sum(not self.trace(key) for key in queries)

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text)."""
        traces = {key: trace for key in queries if (trace := self.trace(key))}
        if self.how == "append":
            texts = {key: f"{text} {traces[key]}" if key in traces else text for key, text in queries.items()}
            return self.retriever.search(texts, k)
        plain = self.retriever.search(queries, self.depth)  # whatever k is: scores are standardised over the list
        if not traces:
            return plain.top(k)
        own = dict.fromkeys(queries, 1.0) | dict.fromkeys(traces, 1 - self.weight)
        return standardised([plain, self.retriever.search(traces, self.depth)], [own, self.weight]).top(k)
