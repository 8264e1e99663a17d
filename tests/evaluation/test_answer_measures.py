"""Measures of answers: by hand, at their edges, and in what order they stand to each other."""

from __future__ import annotations

import re
import string
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.evaluation.answers import (
    answer_measures,
    contiguous,
    cover_em,
    exact_match,
    f1,
    normalised,
    unanswered,
)

MEASURES = {"CoverEM": cover_em, "EM": exact_match, "F1": f1, "Contiguous": contiguous}
WORDS = st.sampled_from(
    ["The", "the", "a", "an", "cat", "Cat.", "dog", "dog,", "in", "True", "yes", "1,000", "’n’", "..."]
)
TEXTS = st.lists(WORDS, max_size=7).map(" ".join)
GOLDS = st.lists(TEXTS.filter(normalised), min_size=1, max_size=3)


def official(text: str) -> str:
    """SQuAD's normalisation, from its definition."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def squad_f1(prediction: str, gold: str) -> float:
    """From its definition, by precision and recall."""
    found, wanted = normalised(prediction).split(), normalised(gold).split()
    common = sum((Counter(found) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat\tsat,\non A mat!", "cat sat on mat"),
        ("U.S.A. (1990-1995)", "usa 19901995"),
        ("“Theatre” – an l’été…", "theatre lété"),
        ("a.", ""),
        ("", ""),
        ("True", "yes"),
        (" False\n", "no"),
        ("true", "true"),
        ("False.", "false"),
        ("True story", "true story"),
        ("the-a", "thea"),
        ("5 % + 3 €", "5 3 €"),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected


@given(st.text(st.characters(max_codepoint=127), max_size=30))
@settings(max_examples=200, deadline=None)
def test_of_ascii_it_is_that_of_squad(text: str) -> None:
    assert normalised(text) == {"True": "yes", "False": "no"}.get(text.strip(), official(text))


@pytest.mark.parametrize(
    ("prediction", "golds", "cover", "em", "overlap", "runs"),
    [
        ("Paris", ["paris"], 1, 1, 1, 1),
        ("It is Paris, France.", ["Paris"], 1, 0, 2 / 5, 1),
        ("Obama was Barack", ["Barack Obama"], 1, 0, 4 / 5, 0),
        ("Barack the Obama", ["Barack Obama"], 1, 1, 1, 1),
        ("new new york", ["New York New York"], 1, 0, 6 / 7, 0),  # a repeat needs no second occurrence
        ("york", ["new york"], 0, 0, 2 / 3, 0),
        ("", ["paris"], 0, 0, 0, 0),
        ("...", ["paris"], 0, 0, 0, 0),
        ("True", ["yes"], 1, 1, 1, 1),
        ("Yes.", ["True", "false"], 1, 1, 1, 1),
        ("No", ["False"], 1, 1, 1, 1),
        ("It is True", ["yes"], 0, 0, 0, 0),  # only a whole answer becomes yes or no
        ("It is true", ["true"], 1, 0, 1 / 2, 1),
        ("parish", ["paris"], 0, 0, 0, 0),
        ("london", ["paris", "in London", "London"], 1, 1, 1, 1),
    ],
)
def test_by_hand(prediction: str, golds: list[str], cover: float, em: float, overlap: float, runs: float) -> None:
    expected = {"CoverEM": cover, "EM": em, "F1": pytest.approx(overlap), "Contiguous": runs}
    for order in (golds, golds[::-1]):
        assert {name: measure(prediction, order) for name, measure in MEASURES.items()} == expected
        assert answer_measures({"q": prediction}, {"q": order}) == {"q": expected}


@given(prediction=TEXTS, golds=GOLDS)
@settings(max_examples=300, deadline=None)
def test_their_order_and_their_definitions(prediction: str, golds: list[str]) -> None:
    values = {name: measure(prediction, golds) for name, measure in MEASURES.items()}
    assert values["EM"] <= values["Contiguous"] <= values["CoverEM"]
    assert values["EM"] <= values["F1"] <= 1
    assert values["F1"] == pytest.approx(max(squad_f1(prediction, gold) for gold in golds))
    assert values["EM"] == (normalised(prediction) in map(normalised, golds))
    assert values["Contiguous"] == any(f" {normalised(gold)} " in f" {normalised(prediction)} " for gold in golds)
    assert all(measure(golds[0], golds) == 1 for measure in MEASURES.values())
    assert answer_measures({"q": prediction}, {"q": golds}) == {"q": values}


@pytest.mark.parametrize("gold", [".", "The", "", "an… —", " \n"])
@pytest.mark.parametrize("name", list(MEASURES))
def test_a_gold_that_everything_would_match_is_refused(name: str, gold: str) -> None:
    with pytest.raises(InputError, match=re.escape(repr(gold))):
        MEASURES[name]("paris", ["paris", gold])
    with pytest.raises(InputError, match="query 'q7': the gold answer"):
        answer_measures({}, {"q1": ["paris"], "q7": [gold]})


def test_queries_without_answers_are_refused_and_named() -> None:
    with pytest.raises(InputError, match="query 'q2': there is no gold answer"):
        answer_measures({"q1": "x", "q2": "y"}, {"q1": ["x"], "q2": [], "q3": []})
    with pytest.raises(InputError, match="query 'q1': the gold answers are one text, 'paris'"):
        answer_measures({"q1": "x"}, {"q1": "paris"})
    with pytest.raises(InputError, match="no queries with answers"):
        answer_measures({"q1": "x"}, {})
    with pytest.raises(InputError, match="no gold answer"):
        f1("x", [])


def test_a_query_without_prediction_counts_zero_and_is_told() -> None:
    answers = {"q1": ["Paris"], "q2": ["Rome"], "q3": ["yes"]}
    predictions = {"q3": "True", "other": "Rome", "q1": ""}
    values = answer_measures(predictions, answers)
    assert list(values) == ["q1", "q2", "q3"]
    assert values["q1"] == values["q2"] == dict.fromkeys(MEASURES, 0.0)
    assert values["q3"] == dict.fromkeys(MEASURES, 1.0)
    assert unanswered(predictions, answers) == ("q2",)


def test_it_needs_no_torch() -> None:
    code = "import sys, lodesmith.evaluation.answers; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split() == [b"False"]
