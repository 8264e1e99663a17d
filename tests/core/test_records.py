"""Datasets on disk and in memory."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document, Query, parse_document, parse_query

DOCUMENTS = [Document("d1", "Title", "text one"), Document("ü/2", "", "emoji 😀"), Document("d3", image="p.png")]
QUERIES = [Query("q1", "what?", ("a", "b")), Query("q2", "über?")]


def dataset(**info: Any) -> Dataset:
    return Dataset.of(DOCUMENTS, QUERIES, {"test": {"q1": {"d1": 2, "ü/2": 0}}, "train": {"q2": {"d1": 1}}}, **info)


def write(folder: Path, corpus: bytes, queries: bytes = b"", qrels: bytes = b"") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_bytes(corpus)
    if queries:
        (folder / "queries.jsonl").write_bytes(queries)
    if qrels:
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / "test.tsv").write_bytes(qrels)
    return folder


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    made = dataset(name="tiny", drop_same_id=True)
    loaded = Dataset.load(made.save(tmp_path / "tiny"))
    assert list(loaded.documents.values()) == DOCUMENTS
    assert list(loaded.queries.values()) == QUERIES
    assert loaded.judgements == made.judgements
    assert loaded.fingerprint == made.fingerprint == loaded.info["fingerprints"]["dataset"]
    assert loaded.info["counts"] == {"documents": 3, "queries": 2, "judgements": {"test": 2, "train": 1}}
    assert loaded.drop_same_id
    assert "3 documents" in repr(loaded)


def test_gz_reads_the_same(tmp_path: Path) -> None:
    folder = dataset().save(tmp_path / "a")
    plain = Dataset.load(folder).fingerprint
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert Dataset.load(folder).fingerprint == plain


def test_a_dataset_can_be_saved_over_itself(tmp_path: Path) -> None:
    folder = dataset().save(tmp_path / "a")
    before = Dataset.load(folder)
    before.save(folder)
    assert Dataset.load(folder).fingerprint == before.fingerprint


def test_saving_never_replaces_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a dataset"):
        dataset().save(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_texts_stay_on_disk(tmp_path: Path) -> None:
    text = "word " * 2000
    lines = "".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i in range(2000))
    folder = write(tmp_path / "a", lines.encode())
    size = (folder / "corpus.jsonl").stat().st_size
    del lines
    tracemalloc.start()
    loaded = Dataset.load(folder)
    total = sum(len(document.text) for document in loaded.documents.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 2000 * len(text)
    assert size > 19e6
    assert peak < 3e6


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"_id": "b", "text": "x"', "not valid JSON"),
        (b'{"_id": "b", "text": "\xff"}', "UTF-8"),
        (b'{"_id": "b", "text": "\\ud800"}', "surrogate"),
        (b'{"_id": "b", "text": NaN}', "NaN"),
        (b'{"_id": "b", "text": "x", "text": "y"}', "occurs twice"),
        (b'{"_id": "b", "text": ' + b"[" * 50_000, "nested"),
        (b'{"_id": "b"}', "'text' must be a string"),
        (b'{"_id": "b", "text": 3}', "'text' must be a string"),
        (b'{"_id": null, "text": "x"}', "'_id'"),
        (b'{"_id": true, "text": "x"}', "'_id'"),
        (b'{"_id": "", "text": "x"}', "empty"),
        (b'{"_id": "a\\tb", "text": "x"}', "control character"),
        (b'{"_id": "a\\u0000b", "text": "x"}', "control character"),
        (b'{"_id": "a", "text": "again"}', "occurs twice"),
        (b'["_id"]', "object"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, raw: bytes, found: str) -> None:
    folder = write(tmp_path / "a", b'{"_id": "a", "text": "x"}\n\n' + raw + b"\n")
    with pytest.raises(InputError, match=found) as caught:
        Dataset.load(folder)
    assert caught.value.line == 3
    assert str(caught.value).startswith(f"{folder / 'corpus.jsonl'}:3: ")


def test_bom_crlf_blank_lines_and_integer_ids_are_read(tmp_path: Path) -> None:
    corpus = b'\xef\xbb\xbf{"_id": 1, "text": "x"}\r\n\r\n   \n{"_id": "../2", "title": null, "text": ""}\r\n'
    loaded = Dataset.load(write(tmp_path / "a", corpus))
    assert list(loaded.documents) == ["1", "../2"]
    assert loaded.documents["1"] == Document("1", "", "x")
    assert loaded.documents["../2"].content == ""


def test_a_line_over_the_limit_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", b'{"_id": "a", "text": "x"}\n')
    with (folder / "corpus.jsonl").open("r+b") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    with pytest.raises(InputError, match="at most"):
        Dataset.load(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "dataset.json"])
def test_a_folder_where_a_file_should_be(tmp_path: Path, name: str) -> None:
    folder = dataset().save(tmp_path / "a")
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InputError):
        Dataset.load(folder)


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000])
def test_a_broken_dataset_json(tmp_path: Path, content: str) -> None:
    folder = dataset().save(tmp_path / "a")
    (folder / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json"):
        Dataset.load(folder)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"junk" + raw, lambda raw: raw[:30] + b"\0" * 9])
def test_a_damaged_gz(tmp_path: Path, damage: Any) -> None:
    folder = dataset().save(tmp_path / "a")
    packed = gzip.compress((folder / "corpus.jsonl").read_bytes() * 50)
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(damage(packed))
    with pytest.raises(InputError, match="cannot be read"):
        Dataset.load(folder)


def test_missing_folder_corpus_and_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such dataset folder"):
        Dataset.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"corpus\.jsonl: no such file"):
        Dataset.load(tmp_path / "empty")
    with pytest.raises(InputError, match="it has: test, train"):
        dataset().split("dev")


def test_judged_queries_without_text_are_refused() -> None:
    broken = Dataset.of(DOCUMENTS, QUERIES, {"test": {"q9": {"d1": 1}}})
    with pytest.raises(InputError, match="'q9'"):
        broken.queries_of("test")
    assert list(dataset().queries_of("train")) == ["q2"]


def test_parsing() -> None:
    assert parse_query({"_id": 5, "text": "x", "answers": "yes"}) == Query("5", "x", ("yes",))
    assert parse_document({"id": "a", "text": "x", "title": "T"}).content == "T x"
    with pytest.raises(ValueError, match="no text"):
        parse_query({"_id": "a", "text": "  "})
    with pytest.raises(ValueError, match="answers"):
        parse_query({"_id": "a", "text": "x", "answers": [1]})


@pytest.mark.data
def test_medquad_loads_quickly(collections: Path) -> None:
    start = time.process_time()
    loaded = Dataset.load(collections / "medquad")
    taken = time.process_time() - start
    assert (len(loaded.documents), len(loaded.queries)) == (15809, 14345)
    assert {split: len(j) for split, j in loaded.judgements.items()} == {"train": 12880, "dev": 709, "test": 756}
    assert taken < 3, "about 0.9 s on a quiet machine"
