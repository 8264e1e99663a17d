"""Question and answer pairs are found in whichever form a model writes them."""

from __future__ import annotations

import pytest

from lodesmith.core.protocols import Generated
from lodesmith.data._answers import Pair, pairs

TWO = [Pair("Who built it?", ("Ada",)), Pair("When was it built?", ("in 1912",))]


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "Who built it?", "answer": "Ada"}\n{"question": "When was it built?", "answer": "in 1912"}',
        'Sure!\n```json\n[{"Question": "Who built it?", "Answer": ["Ada"]},\n {"q": "When was it built?", '
        '"answers": "in 1912"}]\n```\nHope it helps {smile}',
        '{"questions": [{"question": "Who built it?", "answers": ["Ada", "Ada", ""]}, '
        '{"question": "When was it built?", "answer": "in 1912"}]}',
        "Q: Who built it?\nA: Ada\n\nQ: When was it built?\nA: in 1912",
        "**Question 1:** Who built it?\n**Answer:** Ada\n**Question 2:** When was it built?\n**Answer:** in 1912",
        "Q1. Who built it? A: Ada\nQ2. When was it built? A: in 1912",
        "Here are two questions:\n1. Who built it?\n   Answer: Ada\n2. When was it built?\n   Answer: in 1912",
        "1) Who built it? - Ada\n2) When was it built? (in 1912)",
        "- Who built it?\n  Ada\n- When was it built?\n  in 1912\n  Thank you.",
        "Frage: Who built it?\nAntwort: Ada\nFrage: When was it built?\nAntwort: in 1912",
        "<think>easy</think>Q: “Who built it?”\nA: 'Ada'\nQ: When was it built?\nA: in 1912",
    ],
)
def test_forms(text: str) -> None:
    assert pairs(text) == TWO


def test_a_cut_text_loses_what_is_not_whole() -> None:
    cut = Generated('{"question": "Who built it?", "answer": "Ada"}\n{"question": "When was it', finished=False)
    assert pairs(cut, cut.finished) == TWO[:1]
    assert pairs("Q: Who built it?\nA: Ada\nQ: When was it built?\nA: in 19", finished=False) == TWO[:1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("There is nothing to ask.", []),
        ('{"question": 3, "answer": "x"} [1, {"a": 2}] {"x": ', []),
        ("[" * 5000, []),
        ("Q: Who built it?", [Pair("Who built it?", ())]),
        ('{"question": "How many?", "answer": 3}', [Pair("How many?", ("3",))]),
        ('{"question": "Is it?", "answer": true}', [Pair("Is it?", ())]),
        ('{"question": "Is\\n it?", "answer": "a\\n b"}', [Pair("Is it?", ("a b",))]),
    ],
)
def test_odd_texts(text: str, expected: list[Pair]) -> None:
    assert pairs(text) == expected
