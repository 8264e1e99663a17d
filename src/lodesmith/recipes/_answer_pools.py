"""Questions that have answers, and the documents that each is asked among."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from lodesmith.core.columns import Column, names
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.records import Dataset
from lodesmith.core.registry import did_you_mean
from lodesmith.evaluation.answers import normalised

if TYPE_CHECKING:
    from lodesmith.retrieval.bm25 import BM25

__all__ = ["Kind", "Pools", "Questions", "check_kind"]

log = logging.getLogger(__name__)

Kind = Literal["normal", "oracle"]
"""Whether the gold documents are put into the pools that lack them."""
_COLUMNS = ("candidates", "negatives")


def check_kind(kind: str) -> None:
    """Refuse what is no kind of pools.

    Raises:
        ConfigError: it is none.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"no pool is called {kind!r}", did_you_mean(kind, [*get_args(Kind)]))


@dataclass(frozen=True)
class Questions:
    """What is asked, by query id, in the order of the query file.

    Args:
        texts: the questions.
        answers: gold answers of each.
        relevant: ids of the documents that hold them: the positive judgements.
    """

    texts: Mapping[str, str]
    answers: Mapping[str, Sequence[str]]
    relevant: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, dataset: Dataset, split: str, limit: int | None = None) -> Questions:
        """The judged queries of a split that have answers; the first `limit` of them. Of a dataset that judges nothing,
        such as CLaRa's questions with their pools, all that have answers, whatever the split is called.

        An answer of which nothing is left when it is normalised is left out; a query that has no other, too, and
        their number is told.

        Raises:
            InputError: there are none.
        """
        asked = dataset.queries_of(split) if dataset.judgements else dataset.queries
        golds = {key: tuple(gold for gold in query.answers if normalised(gold)) for key, query in asked.items()}
        if empty := [key for key, query in asked.items() if query.answers and not golds[key]]:
            log.warning(
                "%s: %d queries are not asked, for nothing is left of their answers without punctuation and articles: "
                "%r is the first",
                dataset.name,
                len(empty),
                empty[0],
            )
        answers = dict([(key, own) for key, own in golds.items() if own][:limit])
        if not answers:
            judged = f"judged query of {split}" if dataset.judgements else "query"
            raise InputError(
                f"{dataset.name}: no {judged} has an answer",
                "give a dataset with answers in queries.jsonl, such as squad (`lode data pull squad`)",
            )
        rows = dataset.judgements.get(split, {})
        relevant = {key: tuple(name for name, grade in rows.get(key, {}).items() if grade > 0) for key in answers}
        return cls({key: asked[key].content for key in answers}, answers, relevant)


class Pools:
    """The documents that each question is asked among, `orders`: query id → document ids in the pool's own order.

    They are those of the column `candidates` with those of `negatives` behind them, or, of a query that the former
    lacks, what BM25 finds in the corpus. `oracle`: gold documents stand before the others, and those that a pool
    lacks take the places of its last documents.

    Args:
        dataset: of the questions.
        asked: what is asked.
        size: documents of a pool, at most.
        kind: `normal` or `oracle`.

    Raises:
        InputError: a document is not in the corpus.
        ConfigError: a question has more gold documents than a pool has places.
    """

    def __init__(self, dataset: Dataset, asked: Questions, size: int, kind: Kind) -> None:
        self._dataset, self._asked, self.size = dataset, asked, size
        named = _named(dataset, asked.texts)
        searched = {key: text for key, text in asked.texts.items() if key not in named}
        self.searched = frozenset(searched)
        """The queries whose pools BM25 found."""
        run = self.lexical.search(searched, size) if searched else {}
        orders = {
            key: [document for document, _ in run[key]] if key in searched else named[key][:size] for key in asked.texts
        }
        if kind == "oracle":
            orders = {key: _with_gold(key, order, asked.relevant[key], size) for key, order in orders.items()}
        _check_corpus(dataset, orders)
        self.orders: Mapping[str, Sequence[str]] = orders

    @cached_property
    def lexical(self) -> BM25:
        """BM25 over the whole corpus."""
        from lodesmith.retrieval.bm25 import BM25

        return BM25().build((key, document.content) for key, document in self._dataset.documents.items())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the pools, in their order."""
        return fingerprint({key: list(order) for key, order in self.orders.items()})

    @property
    def documents(self) -> list[str]:
        """The documents of all pools, once each."""
        return list(dict.fromkeys(key for order in self.orders.values() for key in order))

    def seconds(self, query: str) -> float:
        """How long it takes to find one pool; 0 where the dataset gives it."""
        if query not in self.searched:
            return 0.0
        start = time.perf_counter()
        self.lexical.search({query: self._asked.texts[query]}, self.size)
        return time.perf_counter() - start


def _named(dataset: Dataset, asked: Mapping[str, str]) -> dict[str, list[str]]:
    """The pools that the columns name, of queries that have candidates."""
    if dataset.folder is None or _COLUMNS[0] not in (have := names(dataset.folder)):
        return {}
    found: dict[str, list[str]] = {}
    for name in (column for column in _COLUMNS if column in have):
        column = Column.load(dataset.folder, name)
        for key in asked:
            rows = column.rows.get(key, ())
            if rows and (name == _COLUMNS[0] or key in found):
                found.setdefault(key, []).extend(document for row in rows for document in row.get("ids", ()))
    return {key: list(dict.fromkeys(documents)) for key, documents in found.items()}


def _with_gold(query: str, order: Sequence[str], relevant: Sequence[str], size: int) -> list[str]:
    if len(relevant) > size:
        raise ConfigError(
            f"the query {query!r} has {len(relevant)} gold documents, and a pool {size} places", "raise --candidates"
        )
    gold = set(relevant)
    found = [key for key in order if key in gold]
    found += [key for key in relevant if key not in found]
    return [*found, *[key for key in order if key not in gold][: size - len(found)]]


def _check_corpus(dataset: Dataset, orders: Mapping[str, Sequence[str]]) -> None:
    for query, order in orders.items():
        if (missing := next((key for key in order if key not in dataset.documents), None)) is not None:
            raise InputError(
                f"{dataset.name}: the document {missing!r} of the query {query!r} is not in the corpus",
                "see `lode data check DIR`, which can mend it",
            )
