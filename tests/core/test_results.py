"""Evaluation and comparison files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.results import Comparison, Estimate, Evaluation, Pair, Recommendation

EVALUATION = Evaluation(
    system="bm25",
    dataset="scifact",
    split="test",
    queries=2,
    measures={"nDCG@10": Estimate(0.5, 0.25, 0.75)},
    per_query={"1": {"nDCG@10": 1.0}, "2": {"nDCG@10": 0.0}},
    cost={"query_ms_p50": 1.5, "index_bytes": None},
    fingerprints={"dataset": "ab"},
    missing=1,
)
PAIR = Pair(
    a="new",
    b="old",
    dataset="scifact",
    family="nDCG@10, 1 pair",
    measure="nDCG@10",
    difference=0.1,
    low=0.05,
    high=0.2,
    p=0.01,
    p_t=0.02,
    p_holm=0.01,
    significant=True,
    wins=7,
    ties=2,
    losses=1,
    queries=10,
    detectable=0.08,
)
COMPARISON = Comparison("old", "nDCG@10", ("old", "new"), (PAIR,))


def test_an_evaluation_file_gives_the_same_evaluation_back(tmp_path) -> None:
    EVALUATION.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == EVALUATION
    keys = {"system", "dataset", "split", "queries", "measures", "per_query", "cost", "fingerprints"}
    written = json.loads((tmp_path / "e.json").read_text())
    assert keys <= written.keys()
    assert written["measures"]["nDCG@10"] == {"mean": 0.5, "low": 0.25, "high": 0.75}


def test_a_comparison_file_gives_the_same_comparison_back(tmp_path) -> None:
    COMPARISON.save(tmp_path / "c.json")
    assert Comparison.load(tmp_path / "c.json") == COMPARISON
    assert json.loads((tmp_path / "c.json").read_text())["pairs"][0]["p_holm"] == 0.01


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"measures": [], "system": "x"}', '{"measures": {"P@1": 3}}', "{"])
def test_other_files_are_refused_by_name(tmp_path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"file\.json"):
        Evaluation.load(path)
    with pytest.raises(InputError, match=r"file\.json"):
        Comparison.load(path)


def test_not_a_number_is_never_written(tmp_path) -> None:
    broken = replace(EVALUATION, measures={"nDCG@10": Estimate(float("nan"), 0.0, 1.0)})
    with pytest.raises(ValueError, match="Out of range"):
        broken.save(tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []


def test_a_pair_is_found_from_both_sides() -> None:
    assert COMPARISON.pair("new", "old") == PAIR
    turned = COMPARISON.pair("old", "new", "scifact")
    assert (turned.a, turned.b, turned.difference, turned.low, turned.high) == ("old", "new", -0.1, -0.2, -0.05)
    assert (turned.wins, turned.ties, turned.losses, turned.p_holm) == (1, 2, 7, 0.01)
    with pytest.raises(KeyError):
        COMPARISON.pair("new", "old", "nfcorpus")


def test_estimates_and_recommendations_print_and_serialise() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert Recommendation("bm25", "nDCG@10", "why", ("other",)).to_json() == {
        "system": "bm25",
        "measure": "nDCG@10",
        "reason": "why",
        "notes": ["other"],
    }


def test_answers_are_of_queries_that_are_there(tmp_path: Path) -> None:
    assert "answers" not in EVALUATION.to_json()
    query = next(iter(EVALUATION.per_query))
    replace(EVALUATION, answers={query: "yes"}).save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json").answers == {query: "yes"}
    replace(EVALUATION, answers={"another": "yes"}).save(tmp_path / "e.json")
    with pytest.raises(InputError, match="answers to queries that are not there"):
        Evaluation.load(tmp_path / "e.json")
