"""The words of texts: fast, and the same as the plain definition."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.core.records import Document
from lodesmith.data._wording import Wordings, spelled


@given(st.text() | st.text(alphabet="aB_9 .,-'\n\tßÉσΣİı٣²ⅷ\u0301中“\u00a0\u2028\x85\x1c\ud800😀"))
def test_words_are_those_of_a_regular_expression(text: str) -> None:
    expected = " ".join(re.findall(r"\w+", text.lower()))
    assert spelled(text) == expected.encode("utf-8", "surrogatepass")


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))} if words else set()


@given(st.data(), st.sampled_from([0.01, 0.3, 0.5, 0.8, 0.95, 1.0]))
def test_nearness_is_the_jaccard_similarity(data: st.DataObject, least: float) -> None:
    """The check that lets most texts pass without their shingles never lets a near-duplicate pass."""
    words = data.draw(st.lists(st.sampled_from("abcdef"), max_size=20))
    other = list(words)
    for at in data.draw(st.lists(st.integers(0, 19), max_size=4)):
        other[at : at + 1] = data.draw(st.sampled_from([["x"], [], ["a", "y"]]))
    documents = {"a": Document("a", "", " ".join(words)), "b": Document("b", " ".join(other), "")}
    one, two = shingles(words), shingles(other)
    expected = bool(one and two) and len(one & two) >= least * len(one | two)
    assert Wordings(documents).near("a", "b", least) == Wordings(documents).near("b", "a", least) == expected


def test_images_are_part_of_the_name_and_not_of_the_words() -> None:
    documents = {key: Document(key, "", "the same", image=f"{key}.png") for key in "ab"}
    found = Wordings(documents | {"c": Document("c")})
    assert found.words("a").spelling != found.words("b").spelling
    assert found.near("a", "b", 1.0)
    assert found.words("c").spelling == b""
    assert not found.near("c", "a", 0.01)


@pytest.mark.parametrize("text", ["", " .,;", "“”"])
def test_a_text_without_words(text: str) -> None:
    assert spelled(text) == b""
