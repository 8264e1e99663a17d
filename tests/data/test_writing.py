"""What generated texts have in common: wrappings, whole sentences, loops, runs."""

from __future__ import annotations

import pytest

from lodesmith.data._writing import (
    clean,
    contains,
    excerpt,
    is_refusal,
    normalised,
    numbers,
    repetition,
    runs,
    whole,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm\nhm</think>\nIt is so.", "It is so."),
        ("<think>never ends", ""),
        ("```\nIt is so.\n```", "It is so."),
        ("**Reasoning:** It is so.", "It is so."),
        ("Trace: it is so", "it is so"),
        ('"It is so."', "It is so."),
        ('"It" is "so"', '"It" is "so"'),
        ("  It is: so. ", "It is: so."),
        ("Answer", "Answer"),
    ],
)
def test_wrappings_are_taken_off(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two is c", "One."),
        ("One. Two (so.) And", "One. Two (so.)"),
        ("pi is 3.14 and no", ""),
        ("飞机。机翼", "飞机。"),
        ("Whole.", "Whole."),
        ("", ""),
    ],
)
def test_a_cut_text_ends_with_a_sentence(text: str, expected: str) -> None:
    assert whole(text) == expected


def test_words_and_excerpts() -> None:
    assert words("The X-ray, 飞机 été_2") == ["the", "x", "ray", "飞", "机", "été", "2"]
    assert excerpt("one two\nthree four", 3) == "one two\nthree"
    assert excerpt("one two", 3) == "one two"
    assert excerpt("a" * 100, 3) == "a" * 30
    assert excerpt("飞机机翼", 3) == "飞机机"


@pytest.mark.parametrize(
    "text", ["I'm sorry, but no.", "As an AI language model", "I cannot do that", "Sorry, I can't"]
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["Being sorry is human", "I can see that", "The AI said: I cannot"])
def test_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_repetition() -> None:
    assert repetition(words("the heat of the wing changes the stiffness of the wing and of the tail")) < 0.1
    assert repetition(words("the heat of the wing. " * 6)) > 0.7
    assert repetition(["yes"] * 5) == 0.8
    assert repetition([]) == 0


def test_runs_are_twice_as_long_where_a_word_is_a_character() -> None:
    assert runs(["a", "b", "c", "d"], 3) == {("a", "b", "c"): 1, ("b", "c", "d"): 1}
    assert runs(words("飞机的机翼"), 3) == {}
    assert list(runs(words("飞机的机翼会变热"), 3)) == [
        tuple("飞机的机翼会"),
        tuple("机的机翼会变"),
        tuple("的机翼会变热"),
    ]
    assert runs(["a"], 3) == {}


def test_answers_are_compared_by_words() -> None:
    text = normalised("It was the Marie-Curie Institute, in 1,912.")
    assert contains(text, normalised("marie curie institute"))
    assert contains(text, normalised("A Marie Curie Institute"))
    assert not contains(text, normalised("institut"))
    assert not contains(text, normalised("the"))
    assert not contains(text, normalised("?"))
    assert numbers("1,912 and 3.5%") == {"1912", "3.5"}
