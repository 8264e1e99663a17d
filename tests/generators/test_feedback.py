"""Pseudo-relevance feedback: terms of the documents found, weighted as published."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Generator
from lodesmith.core.records import Document
from lodesmith.core.run import Run
from lodesmith.generators.feedback import Feedback

TEXTS = {
    "a": "wing flutter slipstream wing",
    "b": "wing flutter tunnel",
    "c": "soup recipe onion",
    "d": "flutter onion",
}
DOCUMENTS = {key: Document(key, "", text) for key, text in TEXTS.items()}


class Fixed:
    """Finds the same documents for any query, nothing for an empty one."""

    def __init__(self, found: Mapping[str, float]) -> None:
        self.found = found

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        return Run.of({q: dict(self.found) if text else {} for q, text in queries.items()}).top(k)


def test_weights_are_those_of_the_relevance_model() -> None:
    made = Feedback(Fixed({"a": 3.0, "b": 1.0}), DOCUMENTS)
    weights = {
        "wing": (0.75 * 2 / 4 + 0.25 * 1 / 3) * math.log(1 + 4 / 2),
        "flutter": (0.75 * 1 / 4 + 0.25 * 1 / 3) * math.log(1 + 4 / 3),
    }
    assert weights["wing"] > weights["flutter"]
    assert made.generate(["aircraft"]) == ["wing flutter"]  # slipstream and tunnel stand in one document each
    rare = dict(DOCUMENTS) | {f"x{i}": Document(f"x{i}", "", "wing") for i in range(40)}
    assert Feedback(Fixed({"a": 3.0, "b": 1.0}), rare).generate(["aircraft"]) == ["flutter wing"]


def test_terms_of_the_query_are_left_out_by_stem() -> None:
    made = Feedback(Fixed({"a": 1.0, "b": 1.0}), DOCUMENTS, stem=lambda word: word.rstrip("s"))
    assert made.generate(["the WINGS"]) == ["flutter"]


def test_words_of_every_document_mark_out_nothing() -> None:
    many = {f"d{i}": Document(f"d{i}", "", f"common rare{i % 30}") for i in range(60)}
    assert Feedback(Fixed({"d0": 1.0, "d30": 1.0}), many).generate(["query"]) == ["rare0"]


def test_bounds() -> None:
    one = Feedback(Fixed({"a": 2.0}), DOCUMENTS)
    assert one.generate(["query"]) == ["wing slipstream flutter"]  # of a single document any term may be taken
    assert one.generate(["query"], max_new_tokens=1) == ["wing"]
    assert Feedback(Fixed({"a": 2.0}), DOCUMENTS, terms=2).generate(["query"]) == ["wing slipstream"]
    assert Feedback(Fixed({"a": 2.0, "c": 1.0, "d": 1.0}), DOCUMENTS, depth=1).generate(["q"]) == [
        "wing slipstream flutter"
    ]
    assert one.generate(["", [{"role": "user", "content": "query"}]]) == ["", "wing slipstream flutter"]
    with pytest.raises(ConfigError, match="terms 0"):
        Feedback(Fixed({}), DOCUMENTS, terms=0)


def test_scores_below_zero_count_alike() -> None:
    made = Feedback(Fixed({"a": -1.0, "b": -2.0}), DOCUMENTS).generate(["query"])
    assert made == ["wing flutter"]


def test_it_is_a_generator_with_a_fingerprint() -> None:
    made = Feedback(Fixed({}), DOCUMENTS, name="bm25")
    assert isinstance(made, Generator)
    prints = {
        Feedback(Fixed({}), DOCUMENTS, name=name, depth=depth, terms=terms).fingerprint
        for name, depth, terms in (("bm25", 10, 20), ("minilm", 10, 20), ("bm25", 5, 20), ("bm25", 10, 5))
    }
    assert made.fingerprint in prints
    assert len(prints) == 4
