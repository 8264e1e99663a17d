"""A retriever that is given a query and its trace."""

from __future__ import annotations

from typing import Any

import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.core.run import Run
from lodesmith.retrieval.bm25 import BM25
from lodesmith.retrieval.fuse import standardised
from lodesmith.retrieval.reasoning import ReasoningAugmentedRetriever

DOCUMENTS = {
    "cat": "a cat sleeps in the warm sun all day",
    "dog": "the dog runs after a red ball in the garden",
    "owl": "an owl hunts mice at night with its ears",
    "car": "a fast red car needs petrol",
}
QUERIES = {"q": "which animal sleeps", "r": "something red", "s": "owl"}
TRACES = {"q": "it could hunt at night like an owl", "r": "a ball in a garden"}


@pytest.fixture
def bm25() -> BM25:
    return BM25().build(DOCUMENTS.items())


def same(found: Run, expected: Run) -> None:
    assert {q: list(found[q]) for q in found} == {q: list(expected[q]) for q in expected}


def test_appended_traces_are_the_longer_queries(bm25: BM25) -> None:
    texts = {"q": f"{QUERIES['q']} {TRACES['q']}", "r": f"{QUERIES['r']} {TRACES['r']}", "s": "owl"}
    found = ReasoningAugmentedRetriever(bm25, TRACES)
    same(found.search(QUERIES, 3), bm25.search(texts, 3))
    assert found.missing(QUERIES) == 1
    assert next(iter(found.search(QUERIES)["r"]))[0] == "dog"


def test_a_trace_is_cut_and_joins_by_id(bm25: BM25) -> None:
    found = ReasoningAugmentedRetriever(bm25, TRACES, words=2)
    assert found.trace("r") == "a ball"
    assert found.trace("unknown") == ""
    backwards = dict(reversed(QUERIES.items()))
    once, again = found.search(QUERIES, 4), found.search(backwards, 4)
    assert all(list(once[query]) == list(again[query]) for query in QUERIES)
    alone = found.search({"r": QUERIES["r"]}, 4)
    assert list(alone["r"]) == list(once["r"])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_fused_scores(bm25: BM25, weight: float) -> None:
    found = ReasoningAugmentedRetriever(bm25, TRACES, how="fuse", weight=weight).search(QUERIES, 4)
    runs = [bm25.search(QUERIES, 200), bm25.search(TRACES, 200)]
    own = {"q": 1 - weight, "r": 1 - weight, "s": 1.0}
    same(found, standardised(runs, [own, weight]).top(4))
    assert [d for d, _ in found["s"]] == [d for d, _ in bm25.search({"s": "owl"}, 4)["s"]]


def test_fused_without_any_trace_is_the_retriever(bm25: BM25) -> None:
    same(ReasoningAugmentedRetriever(bm25, {}, how="fuse").search(QUERIES, 2), bm25.search(QUERIES, 2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"how": "apend"}, "append"), ({"weight": 1.5}, "weight"), ({"words": 0}, "words"), ({"depth": 0}, "depth")],
)
def test_wrong_settings(bm25: BM25, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ReasoningAugmentedRetriever(bm25, {}, **settings)
