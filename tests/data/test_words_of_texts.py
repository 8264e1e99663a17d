"""What is a word of a text, where questions, answers and traces are checked."""

from __future__ import annotations

import pytest

from lodesmith.data._answers import Pair
from lodesmith.data._asking import QuestionRules
from lodesmith.data._writing import words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rose to 3.5 %, in 1,912,000 cases.", ["rose", "to", "3.5", "in", "1,912,000", "cases"]),
        ("1.912,5 Euro und 3,5", ["1.912,5", "euro", "und", "3,5"]),
        ("12.03.1912, 1,2,3 and 4.", ["12", "03", "1912", "1", "2", "3", "and", "4"]),
        ("In 1912.Then 24kg, v2", ["in", "1912", "then", "24kg", "v2"]),
    ],
)
def test_a_number_is_one_word(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_part_of_a_number_is_no_answer() -> None:
    text = "The wages of the ferry rose by 3.5 % after the strike, to 1,912 dollars in the year."
    for answer, reason in (("5 %", "answer-not-in-document"), ("912", "answer-not-in-document"), ("3.5 %", "")):
        pair = Pair("By how much did the wages rise?", (answer,))
        assert QuestionRules().question(pair, "simple", text) == reason
