"""Unsupervised pairs: what each method takes and refuses, and that nothing of other splits gets in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodesmith.core.columns import Column
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.check import check
from lodesmith.data.pairs import METHODS, Pair, make_pairs, pairs_of, pairs_text

NOUNS = (
    "granite",
    "harbour",
    "lantern",
    "meadow",
    "nickel",
    "orchard",
    "pebble",
    "quarry",
    "ribbon",
    "saddle",
    "tin",
    "urn",
)
VERBS = ("bends", "carries", "drops", "enters", "finds", "guards", "holds", "joins", "keeps", "lifts", "moves", "needs")


def text(i: int, sentences: int = 4) -> str:
    """Sentences of eight words that no other document has."""
    return " ".join(
        f"Every {NOUNS[(i + j) % 12]} {VERBS[(i * 5 + j) % 12]} the w{letters(i)} {NOUNS[(i * 7 + j) % 12]} "
        f"near v{letters(i * 31 + j)} today."
        for j in range(sentences)
    )


def letters(n: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in str(n)) + "x"


def kinds(found: dict[str, list[Pair]]) -> dict[str, list[str]]:
    return {name: [pair.kind for pair in pairs] for name, pairs in found.items()}


def test_title_and_heading() -> None:
    documents = [
        Document("a.md#1", "Red Guide", text(1)),
        Document("a.md#2", "Red Guide — First Steps", text(2)),
        Document("a.md#3", "Red Guide — First Steps", text(3)),
        Document("a.md#4", "Red Guide — Closing Remarks", text(4)),
        Document("b.md#1", "Blue Guide — Closing Remarks", text(5)),
        Document("c.md#1", "X", text(6)),
        Document("d.md#1", "Short Body", "too little text"),
        Document("e.md#1", "", text(7)),
    ]
    found, counts = pairs_of(Dataset.of(documents), methods=["title", "heading"])
    assert {name: pairs for name, pairs in found.items() if pairs} == {
        "a.md#1": [Pair("title", "Red Guide", text(1))],
        "a.md#2": [Pair("heading", "First Steps", f"Red Guide {text(2)}")],
        "b.md#1": [Pair("title", "Blue Guide", text(5))],
    }
    assert counts["heading: shared-heading"] == 2
    assert counts["heading: not-the-first-passage"] == 1
    assert counts["title: too-short"] == counts["title: little-text"] == counts["title: no-title"] == 1
    assert counts["title"] == 2


def test_a_dash_is_a_path_only_under_a_shared_beginning() -> None:
    documents = [
        Document("p#1", "New Proposal - Abstract Matters", text(1)),
        Document("p#2", "New Proposal - Backward Matters", text(2)),
        Document("z", "Spider - A Story", text(3)),
    ]
    found, _ = pairs_of(Dataset.of(documents), methods=["title", "heading"])
    texts = {name: [pair.text for pair in pairs] for name, pairs in found.items()}
    assert texts == {
        "p#1": ["New Proposal", "Abstract Matters"],
        "p#2": ["Backward Matters"],
        "z": ["Spider - A Story"],
    }


def test_a_title_of_several_sources_is_no_query() -> None:
    documents = [Document("a#1", "Read Me", text(1)), Document("b#1", "Read Me", text(2))]
    found, counts = pairs_of(Dataset.of(documents), methods=["title"])
    assert not any(found.values())
    assert counts["title: shared-title"] == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.integers(4, 9), st.integers(0, 5))
def test_inverse_cloze_takes_one_sentence_out(i: int, sentences: int, seed: int) -> None:
    document = Document("d", "The Title", text(i, sentences))
    found, _ = pairs_of(Dataset.of([document]), methods=["inverse_cloze"], seed=seed)
    (pair,) = found["d"]
    assert pair.text in document.text
    assert pair.passage is not None
    assert pair.text not in pair.passage
    assert sorted([*pair.text.split(), *pair.passage.split()]) == sorted(document.content.split())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("It stands on what was said before here. " * 5, "no-sentence-that-stands-alone"),
        ("x = [1, 2, {3: 4}] == y && z || {} ;; ## @@ !! << >> ^^ ~~ `` $$ %% && ** 99 88 77", "no-sentence"),
        (f"{text(1, 1)} {text(1, 1)} {text(2)}", ""),
        (text(3, 2), "little-text"),
        ("", "no-sentence"),
    ],
)
def test_inverse_cloze_refuses(body: str, reason: str) -> None:
    found, counts = pairs_of(Dataset.of([Document("d", "", body)]), methods=["inverse_cloze"])
    if reason:
        assert not found["d"]
        assert any(name.startswith(f"inverse_cloze: {reason}") for name in counts)
    else:
        assert found["d"][0].text != text(1, 1), "a sentence that the passage repeats gives itself away"


def test_inverse_cloze_of_a_text_in_lower_case() -> None:
    body = text(1).lower().replace(".", " .")
    found, _ = pairs_of(Dataset.of([Document("d", "", body)]), methods=["inverse_cloze"])
    assert len(found["d"][0].text.split()) == 10


def test_neighbours_are_of_one_source_and_follow_each_other() -> None:
    documents = [Document(name, "", text(i)) for i, name in enumerate(["a#1", "a#2", "a#4", "b#1", "plain", "a#3#5"])]
    found, counts = pairs_of(Dataset.of(documents), methods=["neighbours"])
    assert {name: pairs for name, pairs in found.items() if pairs} == {"a#2": [Pair("neighbours", text(0))]}
    assert counts["neighbours: no-neighbour"] == 5


def test_nothing_of_other_splits_gets_in() -> None:
    documents = [Document(f"a#{i}", f"Title Number {letters(i)}", text(i)) for i in range(1, 7)]
    judged = {"train": {"q": {"a#1": 1, "a#2": 1}}, "test": {"r": {"a#2": 1, "a#4": 0}}}
    data = Dataset.of(documents, [Query("q", "x"), Query("r", "y")], judged)
    found, counts = pairs_of(data)
    assert list(found) == ["a#1", "a#3", "a#5", "a#6"]
    secret = {documents[1].text, documents[3].text}
    assert not any(pair.text in secret for pairs in found.values() for pair in pairs)
    assert counts["documents judged in other splits"] == 2
    assert kinds(found)["a#3"] == ["title", "inverse_cloze"], "its neighbour is of the test"
    assert len(pairs_of(data, split=None)[0]) == 6
    assert list(pairs_of(data, split="test")[0]) == ["a#3", "a#4", "a#5", "a#6"]
    with pytest.raises(InputError, match="no split 'tset'"):
        pairs_of(data, split="tset")


def test_near_duplicates_are_left_out() -> None:
    twin = text(1, 9).replace("today.", "today!", 1)
    documents = [
        Document("a", "Alpha Beta Gamma", text(1, 9)),
        Document("b", "Other Title Here", twin),
        Document("c", "Delta Epsilon", text(3)),
        Document("d", "delta epsilon!", text(4)),
    ]
    found, counts = pairs_of(Dataset.of(documents), methods=["title"])
    assert kinds(found) == {"a": ["title"], "b": [], "c": [], "d": []}
    assert counts["documents that nearly repeat another"] == 1
    assert counts["title: nearly the text of another"] == 2


def test_a_copy_of_what_another_split_judges_gets_in_nowhere() -> None:
    copy = text(1, 9).replace("today.", "today!", 1)
    documents = [Document("secret", "", text(1, 9)), Document("a#1", "", copy), Document("a#2", "", text(2))]
    data = Dataset.of(documents, [Query("q", "x")], {"test": {"q": {"secret": 1}}})
    found, counts = pairs_of(data)
    assert kinds(found) == {"a#1": [], "a#2": ["inverse_cloze"]}, "not as a neighbour either"
    assert counts["documents that nearly repeat another"] == 1


def test_the_limit_draws_documents_by_hash() -> None:
    data = Dataset.of([Document(f"d{i}", "", text(i)) for i in range(30)])
    first, again, other = (pairs_of(data, limit=10, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert len(first) == len(other) == 10
    assert set(first) != set(other)
    everything = pairs_of(data)[0]
    assert all(everything[name] == pairs for name, pairs in first.items())


def test_the_column_is_joined_by_id_and_made_once(tmp_path: Path) -> None:
    documents = [Document(f"a#{i}", f"Title Number {letters(i)}", text(i)) for i in range(1, 5)]
    Dataset.of(documents).save(tmp_path / "set")
    info = make_pairs(tmp_path / "set", methods=["title", "neighbours"])
    column = Column.load(tmp_path / "set", "pairs")
    assert column.key == "document"
    assert set(column.rows) == {document.id for document in documents}
    assert column.rows["a#2"] == [
        {"text": "Title Number cx", "kind": "title", "passage": text(2)},
        {"text": text(1), "kind": "neighbours"},
    ]
    assert column.info == info == json.loads((tmp_path / "set" / "columns" / "pairs.meta.json").read_text())
    assert info["pairs"] == {"title": 4, "neighbours": 3}
    assert info["rejects"] == {"title": {}, "neighbours": {"no-neighbour": 1}}
    assert info["made_by"]["dataset"] == Dataset.load(tmp_path / "set").fingerprint
    assert "7 pairs from 4 documents" in pairs_text(info)
    path = tmp_path / "set" / "columns" / "pairs.jsonl"
    before = path.stat().st_mtime_ns
    make_pairs(tmp_path / "set", methods=["title", "neighbours"])
    assert path.stat().st_mtime_ns == before
    make_pairs(tmp_path / "set", methods=["title"])
    assert len(path.read_text().splitlines()) == 4
    assert check(tmp_path / "set").ok


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    data = Dataset.of([Document("a", "", text(1))])
    with pytest.raises(ConfigError, match="'titel'") as error:
        pairs_of(data, methods=["titel"])
    assert "'title'" in error.value.do
    with pytest.raises(ConfigError):
        pairs_of(data, methods=[])
    with pytest.raises(ConfigError):
        pairs_of(data, limit=0)
    with pytest.raises(InputError):
        make_pairs(tmp_path / "none")
    assert pairs_of(Dataset.of([]))[0] == {}
    assert list(METHODS) == ["title", "heading", "inverse_cloze", "neighbours"]
