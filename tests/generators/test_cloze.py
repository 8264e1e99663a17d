"""Gaps: found by spelling, one a sentence, answers that the question does not show."""

from __future__ import annotations

import json

import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Generator
from lodesmith.generators.cloze import GAP, Cloze


def split(text: str) -> list[str]:
    return [f"{part.strip()}." for part in text.split(". ") if part.strip()]


def made(text: str, **settings: int) -> list[tuple[str, str]]:
    (lines,) = Cloze(split, **settings).generate([text])
    rows = [json.loads(line) for line in lines.splitlines()]
    return [(row["question"], row["answer"]) for row in rows]


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("In this small trial the protein S100A9 was found to bind the receptor", "S100A9"),
        ("Most of the work was done at the University of Vienna during these years", "University of Vienna"),
        ("After a long discussion it was Marie Curie who measured the samples again", "Marie Curie"),
        ("about one of the many samples was kept at 37 °C for a whole night", "37 °C"),
        ("the price of the whole thing rose to $1,250.50 within the last year", "$1,250.50"),
        ("we saw the effect in 12.5% of all the people who came to us", "12.5%"),
        ("a loss of the gene was seen in 24 patients of the first group", "24 patients"),
        ("the largest of these events took place in the spring of 1912 after heavy rain", "1912"),
    ],
)
def test_spans(sentence: str, answer: str) -> None:
    ((question, found),) = made(sentence)
    assert found == answer
    assert question == sentence.replace(answer, GAP) + "."


@pytest.mark.parametrize(
    "sentence",
    [
        "Vienna is what this sentence begins with and there is nothing more in it",
        "too short for Vienna",
        "so it was Vienna that he saw before all others since Vienna was near",
        "This gave Vienna a name that nobody could follow without the sentence before",
        "there is nothing in here that could be blanked at all by its spelling",
        "here METHODS AND RESULTS stand for a heading that was lost in the text",
        "the range of 3-4 or 1.2.3-beta is one that has no clear number in it",
    ],
)
def test_no_gap(sentence: str) -> None:
    assert made(sentence) == []


def test_an_answer_is_asked_for_once_and_questions_are_spread() -> None:
    filler = "and so it was in all of the many cases"
    text = ". ".join(f"the value of the item was {i} {filler}" for i in (1, 2, 2, 3, 4, 5))
    assert [answer for _, answer in made(text, most=9)] == ["1", "2", "3", "4", "5"]
    assert [answer for _, answer in made(text, most=2)] == ["2", "4"]
    assert len(made(text, most=1)) == 1


def test_a_long_sentence_is_left_out() -> None:
    assert made("the value of the thing was 7 " + "and more " * 20) == []
    assert made("the value of the thing was 7 " + "and more " * 20, most_words=60) != []


def test_it_is_a_generator() -> None:
    assert isinstance(Cloze(split), Generator)
    assert Cloze(split).generate([""]) == [""]
    assert Cloze(split, most=2).fingerprint != Cloze(split).fingerprint
    with pytest.raises(ConfigError):
        Cloze(split, least_words=9, most_words=8)
