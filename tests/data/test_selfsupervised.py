"""Queries made from documents, and queries of the user's."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document
from lodesmith.data.selfsupervised import self_supervise, with_queries

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrstx"]


def folder_of(files: int, passages: int = 6, seed: int = 0) -> Dataset:
    rng = random.Random(seed)

    def some(n: int) -> str:
        return " ".join(rng.choices(WORDS, k=n))

    return Dataset.of(
        Document(f"f{f}.md#{p}", f"Guide {f} — {some(4)}", f"{some(8).capitalize()}. {some(40).capitalize()}.")
        for f in range(files)
        for p in range(1, passages + 1)
    )


def source(key: str) -> str:
    return key.removeprefix("q:").partition("#")[0]


def test_queries_are_taken_out_of_their_passages() -> None:
    before = folder_of(12)
    data = self_supervise(before)
    assert set(data.documents) == set(before.documents)
    assert set(data.info["queries_by_kind"]) == {"heading", "sentence"}
    assert "self-supervised" in data.info["queries_from"]
    for query in data.queries.values():
        key = query.id.removeprefix("q:")
        assert query.text in before.documents[key].content
        assert query.text not in data.documents[key].content
        assert len(data.documents[key].text.split()) >= 20


def test_no_file_is_in_two_splits_and_no_query_repeats() -> None:
    data = self_supervise(folder_of(12))
    sources = {split: {source(query) for query in j} for split, j in data.judgements.items()}
    assert all(sources.values())
    assert sum(map(len, sources.values())) == len(set().union(*sources.values()))
    texts = [query.text for query in data.queries.values()]
    assert len(texts) == len(set(texts))
    assert {query for j in data.judgements.values() for query in j} == set(data.queries)
    sizes = {split: len(j) / len(data.queries) for split, j in data.judgements.items()}
    assert sizes["train"] == pytest.approx(0.70, abs=0.1)
    assert sizes["test"] == pytest.approx(0.15, abs=0.1)
    assert data.info["splits_by"] == "file"


def test_the_same_seed_gives_the_same_dataset() -> None:
    assert self_supervise(folder_of(5)).fingerprint == self_supervise(folder_of(5)).fingerprint
    assert self_supervise(folder_of(5)).fingerprint != self_supervise(folder_of(5), seed=1).fingerprint


def test_one_file_is_split_by_passage_and_says_so() -> None:
    data = self_supervise(folder_of(1, passages=40))
    assert data.info["splits_by"].startswith("passage")
    assert all(len(j) >= 3 for j in data.judgements.values())


def test_shared_titles_copies_and_short_passages_give_no_query() -> None:
    base = list(folder_of(6).documents.values())
    twin = Document("twin.md#1", "Other title for it", base[0].text)
    short = Document("short.md#1", "A title of words", "Just a few words stand here.")
    shared = [Document(f"s{i}.md#1", "The same long heading", d.text[::-1]) for i, d in enumerate(base[6:9])]
    data = self_supervise(Dataset.of([*base, twin, short, *shared]))
    assert not {"q:twin.md#1", f"q:{base[0].id}", "q:short.md#1"} & set(data.queries)
    assert "The same long heading" not in {query.text for query in data.queries.values()}
    assert data.documents["short.md#1"] == short


DOCUMENTS = Dataset.of([Document(f"d{i}", "", f"text {i}") for i in range(5)], name="mine")


def test_judged_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(
        '{"query": "first", "relevant": ["d1", "d2"], "answers": "yes"}\n\n'
        '{"_id": 7, "text": "second", "relevant": {"d3": 2, "d4": 0}, "split": "dev"}\n'
        '{"query": "third", "relevant": "d0"}\n{"query": "fourth", "relevant": "d0"}\n{"query": "unjudged"}\n'
    )
    data = with_queries(DOCUMENTS, path)
    assert data.queries["q1"].answers == ("yes",)
    assert data.judgements["dev"]["7"] == {"d3": 2, "d4": 0}
    assert {q: d for j in data.judgements.values() for q, d in j.items()} == {
        "q1": {"d1": 1, "d2": 1},
        "7": {"d3": 2, "d4": 0},
        "q4": {"d0": 1},
        "q5": {"d0": 1},
    }
    assert set(data.judgements) == {"train", "dev", "test"}
    assert list(data.queries) == ["q1", "7", "q4", "q5", "q6"]
    assert data.info["name"] == "mine"


def test_tsv_text_and_gz(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("a\tfirst\td1 d2\nb\tsecond\nonly text\n")
    data = with_queries(DOCUMENTS, tmp_path / "q.tsv")
    assert [q.text for q in data.queries.values()] == ["first", "second", "only text"]
    assert data.judgements == {"train": {"a": {"d1": 1, "d2": 1}}}
    (tmp_path / "q.txt.gz").write_bytes(gzip.compress("\ufeffeins\r\nzwei\n".encode()))
    assert [q.text for q in with_queries(DOCUMENTS, tmp_path / "q.txt.gz").queries.values()] == ["eins", "zwei"]


@pytest.mark.parametrize(
    ("name", "row", "found"),
    [
        ("q.jsonl", "{", "not valid JSON"),
        ("q.jsonl", '{"query": 3}', "'query' must be a string"),
        ("q.jsonl", '{"query": "x", "relevant": ["d9"]}', "'d9' is not in the dataset"),
        ("q.jsonl", '{"query": "x", "relevant": {"d1": -1}}', "'relevant'"),
        ("q.jsonl", '{"query": "x", "relevant": {"d1": 0.5}}', "'relevant'"),
        ("q.jsonl", '{"query": "x", "relevant": [null]}', "'relevant'"),
        ("q.jsonl", '{"query": "x", "split": "../x"}', "'split'"),
        ("q.jsonl", '{"query": "x", "answers": [1]}', "'answers'"),
        ("q.jsonl", '{"_id": "q1", "query": "x"}', "occurs twice"),
        ("q.tsv", "a\tb\tc\td", "4 fields"),
        ("q.tsv", "a\t", "2 fields"),
        ("q.txt", "caf\xe9", "UTF-8"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, name: str, row: str, found: str) -> None:
    path = tmp_path / name
    first = '{"query": "fine"}' if name.endswith("jsonl") else "fine"
    path.write_bytes(f"{first}\n{row}\n".encode("latin-1"))
    with pytest.raises(InputError, match=found) as caught:
        with_queries(DOCUMENTS, path)
    assert (caught.value.path, caught.value.line) == (path, 2)


def test_a_file_without_queries(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("\n\n")
    with pytest.raises(InputError, match="no queries"):
        with_queries(DOCUMENTS, tmp_path / "q.txt")
    with pytest.raises(InputError, match="no such file"):
        with_queries(DOCUMENTS, tmp_path / "none.txt")
