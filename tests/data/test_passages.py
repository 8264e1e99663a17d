"""Passages: within the budget, nothing lost, sentences whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.data.outline import Outline, Section
from lodesmith.data.passages import passages, sentences


def outline(*paragraphs: str, headings: tuple[str, ...] = (), title: str = "") -> Outline:
    return Outline(title, (Section(headings, paragraphs),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("See e.g. Smith et al. Also J. Doe.", ["See e.g. Smith et al. Also J. Doe."]),
        ('He said "Go." Then left.', ['He said "Go."', "Then left."]),
        ("Version 3.5 is out. it continues", ["Version 3.5 is out. it continues"]),
        ("你好。再见！好", ["你好。", "再见！", "好"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_paragraphs_are_packed_up_to_the_budget() -> None:
    found = list(passages(outline("a b c", "d e", "f g h i"), 5))
    assert found == [("", "a b c\n\nd e"), ("", "f g h i")]


def test_long_paragraphs_are_cut_between_sentences() -> None:
    text = "One two three. Four five six. Seven eight nine."
    assert [t for _, t in passages(outline(text), 6)] == ["One two three. Four five six.", "Seven eight nine."]
    assert [t for _, t in passages(outline("a b c d e f g"), 3)] == ["a b c", "d e f", "g"]


def test_titles() -> None:
    made = Outline("Guide", (Section((), ("x",)), Section(("Install", "Linux"), ("y",))))
    assert [title for title, _ in passages(made, 9)] == ["Guide", "Guide — Install — Linux"]
    assert [title for title, _ in passages(outline("x", headings=("H",)), 9, "file")] == ["file — H"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["Alpha", "beta", "gamma.", "Delta!", "x"]), min_size=1, max_size=30), max_size=6
    ),
    st.integers(1, 12),
)
def test_nothing_is_lost_and_no_passage_is_too_long(paragraphs: list[list[str]], words: int) -> None:
    found = [text for _, text in passages(outline(*(" ".join(p) for p in paragraphs)), words)]
    assert [word for text in found for word in text.split()] == [word for p in paragraphs for word in p]
    assert all(1 <= len(text.split()) <= words for text in found)
