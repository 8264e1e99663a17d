"""Judgement files and JSONL tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.records import parse_document
from lodesmith.core.tables import JsonlTable, read_judgements, write_judgements

HEADER = b"query-id\tcorpus-id\tscore\n"


def qrels(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "test.tsv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (b"q\td", "expected 3 fields"),
        (b"q\t0\td\t1", "found 4"),
        (b"q d 1", "found 1"),
        (b"q\td\t-1", "at least 0"),
        (b"q\td\t0.5", "integer"),
        (b"q\td\t1.0", "integer"),
        (b"q\td\t+-3", "integer"),
        (b"q\td\tNaN", "integer"),
        (b"q\td\t" + b"9" * 6000, "too large"),
        (b"q\td\tmuch", "integer"),
        (b"\td\t1", "empty"),
        (b"q\x00\td\t1", "control"),
        (b"q\xff\td\t1", "UTF-8"),
        (b"a\tb\t2", "two grades"),
    ],
)
def test_a_broken_judgement_is_named(tmp_path: Path, row: bytes, found: str) -> None:
    path = qrels(tmp_path, HEADER + b"a\tb\t1\n" + row + b"\n")
    with pytest.raises(InputError, match=found) as caught:
        read_judgements(path)
    assert (caught.value.path, caught.value.line) == (path, 3)


def test_what_is_read(tmp_path: Path) -> None:
    path = qrels(tmp_path, b"\xef\xbb\xbf" + HEADER + b"q\td\t+2\r\n\r\nq\te\t0\nq\td\t2")
    assert read_judgements(path) == {"q": {"d": 2, "e": 0}}
    assert read_judgements(qrels(tmp_path, b"q\td\t1\n")) == {"q": {"d": 1}}, "the header may be absent"
    assert read_judgements(qrels(tmp_path, b"")) == {}


def test_a_bad_grade_in_the_first_line_is_no_header(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="integer"):
        read_judgements(qrels(tmp_path, b"q\td\t0.5\n"))


def test_write_and_read(tmp_path: Path) -> None:
    judgements = {"q": {"d": 3}, "r": {"e": 0, "f": 1}}
    write_judgements(tmp_path / "qrels" / "dev.tsv", judgements)
    assert read_judgements(tmp_path / "qrels" / "dev.tsv") == judgements
    with pytest.raises(InputError, match="no such file"):
        read_judgements(tmp_path / "none.tsv")


def test_a_table_is_a_mapping_in_file_order(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "b", "text": "1"}\n\n\x0b\n{"_id": "a", "text": "2"}', encoding="utf-8")
    table = JsonlTable(path, parse_document)
    assert list(table) == ["b", "a"]
    assert [document.text for document in table.values()] == ["1", "2"]
    assert "a" in table
    assert "c" not in table
    with pytest.raises(KeyError):
        table["c"]
