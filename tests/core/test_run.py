"""`Run`: order, ties, TREC files, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.core.run import Run, id_order

ids = st.text("abcxyz019é", min_size=1, max_size=3)
scores = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, -1.0, 1e-40, 3e38, 1e300, -1e300]),
    st.floats(allow_nan=False, allow_infinity=False),
)
rankings = st.dictionaries(ids, st.dictionaries(ids, scores, max_size=8), max_size=6)


def sorted_plainly(documents: dict[str, float]) -> list[str]:
    with np.errstate(over="ignore"):
        return sorted(documents, key=lambda d: (np.float32(documents[d]), d), reverse=True)


@settings(deadline=None)
@given(rankings)
def test_documents_stand_by_float32_score_then_id_both_descending(given_rankings: dict[str, dict[str, float]]) -> None:
    run = Run.of(given_rankings)
    assert list(run) == list(given_rankings)
    for query, documents in given_rankings.items():
        assert [d for d, _ in run[query]] == sorted_plainly(documents)
        assert dict(run[query]) == documents


def test_a_difference_below_float32_is_a_tie() -> None:
    assert [d for d, _ in Run.of({"q": {"a": 1.0 + 1e-9, "b": 1.0}})["q"]] == ["b", "a"]
    assert [d for d, _ in Run.of({"q": {"a": 1.0 + 1e-6, "b": 1.0}})["q"]] == ["a", "b"]


def test_flat_arrays_and_mappings_give_the_same_run() -> None:
    flat = Run.ranked(
        ["q1", "q2"], ["a", "b", "c"], np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0]), np.array([0, 2, 3])
    )
    assert flat == Run.of({"q1": {"a": 1.0, "c": 2.0}, "q2": {"b": 3.0}})
    assert flat != Run.of({"q1": {"a": 1.0, "c": 2.0}})
    assert repr(flat) == "Run(2 queries, 3 results)"


def test_top_keeps_the_first_of_each_query() -> None:
    run = Run.of({"q1": {"a": 1.0, "b": 3.0, "c": 2.0}, "q2": {}, "q3": {"a": 5.0}})
    assert dict(run.top(2)) == {"q1": [("b", 3.0), ("c", 2.0)], "q2": [], "q3": [("a", 5.0)]}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_refused_with_the_query(bad: float) -> None:
    with pytest.raises(InputError, match="'second'"):
        Run.of({"first": {"a": 1.0}, "second": {"a": 1.0, "b": bad}})


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1, max_size=8), max_size=6))
def test_a_trec_file_gives_the_same_run_back(given_rankings: dict[str, dict[str, float]]) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        run = Run.of(given_rankings)
        run.save(Path(folder) / "run.trec", tag="my system")
        assert Run.load(Path(folder) / "run.trec") == run


def test_the_lines_of_a_trec_file(tmp_path) -> None:
    Run.of({"q": {"a": 0.5, "b": 2.0}}).save(tmp_path / "run.trec", tag="my system")
    assert (tmp_path / "run.trec").read_text() == "q Q0 b 1 2.0 my_system\nq Q0 a 2 0.5 my_system\n"


def test_scores_decide_and_not_ranks_or_the_order_of_lines(tmp_path) -> None:
    (tmp_path / "run.trec").write_text("\ufeffq Q0 a 1 0.5 x\r\n\nq\tQ0\tb\t2\t2e0\tx\n", encoding="utf-8")
    assert dict(Run.load(tmp_path / "run.trec")) == {"q": [("b", 2.0), ("a", 0.5)]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q Q0 d 1 0.5", "6 fields"),
        ("q Q0 d 1 high x", "'high' is not a number"),
        ("q Q0 d 1 nan x", "not finite"),
        ("q Q0 d 1 -inf x", "not finite"),
        ("q Q0 a 2 0.5 x", "'a' occurs twice"),
    ],
)
def test_broken_lines_name_file_and_line(tmp_path, line: str, says: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q Q0 a 1 0.9 x\n{line}\n")
    with pytest.raises(InputError, match=says) as caught:
        Run.load(path)
    assert (caught.value.path, caught.value.line) == (path, 2)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_files_that_cannot_be_read_are_the_users_error(tmp_path) -> None:
    with pytest.raises(InputError, match="no such run file"):
        Run.load(tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"q Q0 \xff 1 1 x\n")
    with pytest.raises(InputError, match="cannot be read"):
        Run.load(tmp_path / "bytes")


@pytest.mark.parametrize("bad", ["two words", "", "tab\t", "line\n"])
def test_ids_that_the_format_cannot_carry_are_refused_and_nothing_is_written(tmp_path, bad: str) -> None:
    with pytest.raises(InputError, match="white space"):
        Run.of({"q": {bad: 1.0}}).save(tmp_path / "run.trec")
    assert list(tmp_path.iterdir()) == []


def test_id_order_is_the_place_among_sorted_ids() -> None:
    assert id_order(["b", "a", "é", "c"]).tolist() == [1, 0, 3, 2]
