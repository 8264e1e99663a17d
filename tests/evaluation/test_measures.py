"""Measures: spellings, values by hand, conventions, refusals, blocks."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.run import Run
from lodesmith.evaluation import hits
from lodesmith.evaluation.measures import DEFAULT, Measure, parse, score

RUN = Run.of({"q1": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}, "q2": {"x": 2.0, "y": 1.0}, "unjudged": {"a": 1.0}})
JUDGED = {"q1": {"b": 2, "d": 1, "e": 3, "a": 0}, "q2": {"z": 1}, "q3": {"a": 1}, "q4": {"a": 0}}


@pytest.mark.parametrize(
    ("spelling", "first"),
    [
        ("nDCG@2", 2 / log2(3) / (3 + 2 / log2(3))),
        ("nDCG", (2 / log2(3) + 1 / log2(5)) / (3 + 2 / log2(3) + 1 / log2(4))),
        ("RR@10", 1 / 2),
        ("RR@1", 0),
        ("RR", 1 / 2),
        ("AP@2", (1 / 2) / 3),
        ("AP", (1 / 2 + 2 / 4) / 3),
        ("R@3", 1 / 3),
        ("R", 2 / 3),
        ("P@3", 1 / 3),
        ("P@10", 2 / 10),
        ("Judged@3", 2 / 3),
        ("Judged@10", 3 / 4),
        ("Success@1", 0),
        ("Success@2", 1),
    ],
)
def test_values_by_hand_and_queries_without_any_good_result_count_zero(spelling: str, first: float) -> None:
    scores = score(RUN, JUDGED, [parse(spelling)])
    assert scores[spelling].tolist() == pytest.approx([first, 0, 0, 0], abs=1e-12)
    assert scores.query_ids == ("q1", "q2", "q3", "q4")
    assert scores.missing == ("q3", "q4")
    assert scores.means == {spelling: pytest.approx(first / 4)}
    assert scores.per_query()["q1"] == {spelling: pytest.approx(first)}


def test_a_measure_is_its_spelling() -> None:
    assert [str(m) for m in DEFAULT][:3] == ["nDCG@5", "nDCG@10", "RR@10"]
    assert repr(DEFAULT[9]) == "Judged@10"
    assert parse(" AP ") == Measure("AP")
    assert all(parse(str(m)) == m and hash(parse(str(m))) == hash(m) for m in (*DEFAULT, parse("R@12345"), parse("RR")))


@pytest.mark.parametrize(
    ("spelling", "says"),
    [
        ("MRR@10", "did you mean 'RR@10'"),
        ("MAP@100", "did you mean 'AP@100'"),
        ("ndcg@10", "did you mean 'nDCG@10'"),
        ("Recall@5", "did you mean 'R@5'"),
        ("Judge@10", "did you mean 'Judged'"),
        ("", "nDCG"),
        ("nDCG@ten", "'ten'"),
        ("nDCG@", "''"),
        ("nDCG@-1", "'-1'"),
        ("R@1e3", "'1e3'"),
        ("R@٣", "whole number"),
        ("R@0", "at least 1"),
        ("P", "write P@10"),
        ("Success", "write Success@10"),
        ("nDCG@10@5", "'10@5'"),
    ],
)
def test_other_spellings_are_refused_with_the_nearest(spelling: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(spelling)
    assert says in str(caught.value)


@pytest.mark.parametrize("grade", [0.5, 1.0, float("nan"), -1, "1", None, 2**40])
def test_grades_that_are_no_whole_number_are_refused_with_query_and_document(grade: object) -> None:
    with pytest.raises(InputError, match="query 'q1', document 'b'") as caught:
        score(RUN, {"q0": {"a": 1}, "q1": {"a": 1, "b": grade}}, DEFAULT)  # type: ignore[dict-item]
    assert repr(grade) in str(caught.value)


def test_grades_may_be_whole_numbers_of_numpy() -> None:
    for kind in (np.int8, np.uint64, bool):
        judged = {"q1": {"b": kind(1), "c": 0}, "q2": {"y": 1}}
        assert score(RUN, judged, [parse("RR")])["RR"].tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="'b'"):
        score(RUN, {"q1": {"b": np.float32(1)}}, DEFAULT)


def test_empty_inputs() -> None:
    with pytest.raises(InputError, match="no judged queries"):
        score(RUN, {}, DEFAULT)
    with pytest.raises(ConfigError, match="no measure"):
        score(RUN, JUDGED, [])
    nothing = score(Run.of({}), JUDGED, DEFAULT)
    assert len(nothing.missing) == 4
    assert set(nothing.means.values()) == {0.0}
    assert score(RUN, {"q1": {}}, DEFAULT).means["nDCG@10"] == 0.0


def test_a_judged_document_twice_in_a_ranking_is_refused() -> None:
    twice = Run.ranked(["q1"], ["b"], np.array([0, 0]), np.array([2.0, 1.0]), np.array([0, 2]))
    with pytest.raises(InputError, match="twice"):
        score(twice, JUDGED, DEFAULT)


def test_the_querys_own_id_is_dropped_only_when_asked() -> None:
    run, judged = Run.of({"a": {"a": 2.0, "b": 1.0}, "b": {"c": 2.0, "a": 1.0}}), {"b": {"a": 1}, "a": {"b": 1}}
    assert score(run, judged, [parse("RR@1")])["RR@1"].tolist() == [0, 0]
    assert score(run, judged, [parse("RR@1")], drop_same_id=True)["RR@1"].tolist() == [0, 1]


@pytest.mark.parametrize("drop", [False, True])
def test_blocks_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, drop: bool) -> None:
    random = np.random.default_rng(1)
    run = Run.of({f"d{q}": {f"d{i}": float(random.integers(5)) for i in range(q % 13)} for q in range(60)})
    judged = {f"d{q}": {f"d{i}": int(random.integers(3)) for i in range(0, 12, 1 + q % 3)} for q in range(5, 70)}
    measures = [*DEFAULT, parse("AP"), parse("Judged")]
    whole = score(run, judged, measures, drop_same_id=drop)
    monkeypatch.setattr(hits, "_BLOCK", 7)
    parts = score(run, judged, measures, drop_same_id=drop)
    for measure in measures:
        assert whole[measure].tolist() == parts[measure].tolist()
    assert whole.means["nDCG@5"] > 0


def test_a_hash_table_full_of_collisions_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = score(RUN, JUDGED, DEFAULT).means
    monkeypatch.setattr(hits, "_hash", lambda keys, bits: np.zeros(len(keys), np.uint64))
    assert score(RUN, JUDGED, DEFAULT).means == before
