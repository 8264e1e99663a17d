"""Fusion against the formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.core.errors import ConfigError
from lodesmith.core.run import Run
from lodesmith.retrieval.chance import Chance
from lodesmith.retrieval.dense import Dense
from lodesmith.retrieval.fuse import Fused, reciprocal_rank, weighted
from lodesmith.testing import HashEncoder

A = Run.of({"q": {"x": 3.0, "y": 2.0, "z": 1.0}, "only": {"x": 1.0}})
B = Run.of({"q": {"z": 9.0, "x": 8.0, "w": 7.0}})

rankings = st.dictionaries(
    st.sampled_from("qrs"), st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-5, 5), max_size=6), min_size=1
)


def test_reciprocal_rank_by_hand() -> None:
    found = dict(reciprocal_rank([A, B])["q"])
    assert found["x"] == pytest.approx(1 / 61 + 1 / 62)
    assert found["z"] == pytest.approx(1 / 63 + 1 / 61)
    assert found["w"] == pytest.approx(1 / 63)


def test_a_query_that_one_run_lacks_is_fused_from_the_other() -> None:
    assert dict(reciprocal_rank([A, B])["only"]) == {"x": pytest.approx(1 / 61)}


def test_weighted_by_hand() -> None:
    found = dict(weighted([A, B], [1.0, 2.0])["q"])
    assert found == {"x": pytest.approx(1 + 2 * 0.5), "y": pytest.approx(0.5), "z": pytest.approx(2.0), "w": 0.0}


def test_one_result_counts_fully() -> None:
    assert dict(weighted([A], [1.0])["only"]) == {"x": 1.0}


def test_weights_must_fit() -> None:
    with pytest.raises(ConfigError, match="2 runs and 1 weights"):
        weighted([A, B], [1.0])


@given(rankings, rankings)
def test_order_of_runs_does_not_matter(left: dict[str, dict[str, float]], right: dict[str, dict[str, float]]) -> None:
    a, b = Run.of(left), Run.of(right)
    one, two = reciprocal_rank([a, b]), reciprocal_rank([b, a])
    assert {q: dict(one[q]) for q in one} == {q: pytest.approx(dict(two[q])) for q in two}


@given(rankings)
def test_fusing_one_run_keeps_its_order(ranking: dict[str, dict[str, float]]) -> None:
    run = Run.of(ranking)
    fused = reciprocal_rank([run])
    assert {q: [d for d, _ in fused[q]] for q in fused} == {q: [d for d, _ in run[q]] for q in run}


def test_fused_retriever_asks_deeper_than_k() -> None:
    ids = [f"d{i}" for i in range(50)]
    one, two = Chance(ids, 1), Chance(ids, 2)
    queries = {"q": "anything"}
    expected = reciprocal_rank([one.search(queries, 20), two.search(queries, 20)])
    assert Fused([one, two], depth=20).search(queries, 3) == expected.top(3)
    assert Fused([one, two], depth=20).search(queries, 30).top(3) == expected.top(3), "the head depends on k"


def test_chance_depends_on_query_and_seed_alone() -> None:
    ids = [f"d{i}" for i in range(30)]
    both = Chance(ids).search({"a": "", "b": ""}, 5)
    assert Chance(ids).search({"b": ""}, 5)["b"] == both["b"]
    assert both["a"] != both["b"]
    assert Chance(ids, seed=1).search({"a": ""}, 5)["a"] != both["a"]
    assert len(Chance(ids).search({"a": ""}, 100)["a"]) == 30


def test_dense_hands_query_ids_on() -> None:
    class Spy:
        def search(self, queries, k):  # type: ignore[no-untyped-def]
            self.seen = (queries.ids, k)
            return Run.of({})

    spy = Spy()
    Dense(HashEncoder(), spy).search({"q7": "cat"}, 3)  # type: ignore[arg-type]
    assert spy.seen == (("q7",), 3)
