"""Queries with their reasoning traces, joined by id, and the controls that every such result goes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from lodesmith.core.columns import Column
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.joined import Joined
from lodesmith.core.records import Dataset, Query
from lodesmith.core.registry import did_you_mean

__all__ = ["COLUMN", "MODES", "Mode", "TracedQueries", "Traces", "traced", "traced_queries", "traces_of"]

Mode = Literal["none", "use", "shuffle"]
MODES: tuple[Mode, ...] = get_args(Mode)
COLUMN = "traces"
"""The column that `lode data trace` writes."""


@dataclass(frozen=True)
class Traces:
    """The traces that queries are given.

    Args:
        texts: query id → a trace; a query that is not here stands alone.
        mode: `none`, no query has one; `use`, each its own; `shuffle`, each another query's: the control that tells
            a trace's content from its mere presence. No query keeps its own.
    """

    texts: Mapping[str, str]
    mode: Mode = "none"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what each query is given."""
        return fingerprint({"mode": self.mode, "texts": dict(self.texts)})

    def added(self, query: str, text: str) -> str:
        """A query's text with its trace behind it."""
        return " ".join(filter(None, [text, self.texts.get(query)]))

    def missing(self, queries: Mapping[str, object]) -> int:
        """How many of the queries stand alone where they should not."""
        return 0 if self.mode == "none" else sum(key not in self.texts for key in queries)


@dataclass(frozen=True)
class TracedQueries:
    """Queries with traces appended.

    Args:
        texts: query id → what an encoder reads.
        missing: queries that have no trace (or, shuffled, no other query's) and stand alone.
    """

    texts: Mapping[str, str]
    missing: int = 0
    mode: Mode = field(default="none")


def traces_of(
    dataset: Dataset,
    mode: Mode = "use",
    seed: int = 0,
    *,
    split: str | None = None,
    name: str = COLUMN,
    words: int | None = None,
) -> Traces:
    """The traces of a dataset's queries, joined by id.

    Args:
        dataset: with a column of traces, unless `mode` is none; of joined ones each part has its own.
        mode: see `Traces`. Another query is one of the same split, and of the same part of joined datasets: no training
            query gets a test query's trace.
        seed: of the shuffling.
        split: of the queries of this split; of all where not given.
        name: of the column.
        words: a trace is cut after so many.

    Raises:
        ConfigError: there is no such mode, or no word is left.
        InputError: there is no such column, or its rows are no traces.
    """
    if mode not in MODES:
        raise ConfigError(f"no mode of traces is called {mode!r}", did_you_mean(mode, list(MODES)))
    if words is not None and words < 1:
        raise ConfigError(f"{words} words of a trace are none", "give at least 1, or the mode none")
    if mode == "none":
        return Traces({})
    if isinstance(dataset, Joined):
        parts = {
            own: traces_of(part, mode, seed, split=split, name=name, words=words).texts
            for own, part in dataset.parts.items()
            if split is None or split in part.judgements
        }
        return Traces({f"{own}/{key}": text for own, texts in parts.items() for key, text in texts.items()}, mode)
    found = _read(dataset, name)
    queries = dataset.queries if split is None else dataset.queries_of(split)
    found = {key: " ".join(found[key].split()[:words]) for key in queries if key in found}
    found = {key: text for key, text in found.items() if text}
    if mode == "use":
        return Traces(found, mode)
    groups = [found] if split is not None else _by_split(dataset, found)
    return Traces({key: text for group in groups for key, text in _deranged(group, seed).items()}, mode)


def traced_queries(
    dataset: Dataset, mode: Mode = "none", seed: int = 0, *, split: str | None = None, name: str = COLUMN
) -> TracedQueries:
    """The queries of a dataset, or of a split, with or without traces; arguments and errors as of `traces_of`."""
    traces = traces_of(dataset, mode, seed, split=split, name=name)
    queries = {key: dataset.queries[key] for key in dataset.queries} if split is None else dataset.queries_of(split)
    texts = {key: traces.added(key, query.text) for key, query in queries.items()}
    return TracedQueries(texts, traces.missing(queries), mode)


def traced(dataset: Dataset, traces: Traces) -> Dataset:
    """The dataset with traces behind its queries' texts; its documents and judgements are the same."""
    return dataset if traces.mode == "none" else replace(dataset, queries=_Traced(dataset.queries, traces))


class _Traced(Mapping[str, Query]):
    """Queries whose texts are completed when they are asked for."""

    def __init__(self, queries: Mapping[str, Query], traces: Traces) -> None:
        self._queries, self._traces = queries, traces

    def __getitem__(self, key: str) -> Query:
        query = self._queries[key]
        return replace(query, text=self._traces.added(key, query.text))

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def _by_split(dataset: Dataset, traces: Mapping[str, str]) -> list[dict[str, str]]:
    """The traces of each split's queries, and of those that none judges; a query of several is of the first."""
    left, parts = dict(traces), []
    for judgements in dataset.judgements.values():
        parts.append({key: left.pop(key) for key in judgements if key in left})
    return [*parts, left]


def _read(dataset: Dataset, name: str) -> dict[str, str]:
    if dataset.folder is None:
        raise InputError(f"{dataset.name} is not in a folder", "save it first: columns stand beside its files")
    column = Column.load(dataset.folder, name)
    found = {}
    for key in column.rows:
        text = (column.one(key) or {}).get("text")
        if column.key != "query" or not isinstance(text, str):
            say = "make it with `lode data trace`"
            raise InputError(f"{dataset.name}: the column {column.name!r} has no traces: {key!r}", say)
        found[key] = text
    return found


def _deranged(traces: Mapping[str, str], seed: int) -> dict[str, str]:
    """Each id with another's trace, along a random cycle through all ids; of a single trace none is left."""
    ids = sorted(traces)
    if len(ids) < 2:
        return {}
    order = np.random.default_rng(seed).permutation(len(ids))
    following = np.roll(order, -1)
    return {ids[own]: traces[ids[other]] for own, other in zip(order.tolist(), following.tolist(), strict=True)}
