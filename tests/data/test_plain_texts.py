"""Texts on a disk: kinds, documents by file and by line, blocks, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.lines import bounded_lines
from lodesmith.data import plain_texts
from lodesmith.data.plain_texts import PlainTexts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    (place / "deep").mkdir(parents=True)
    (place / "b.txt").write_text("second line one\n\nsecond line two\n", encoding="utf-8")
    (place / "a.txt.gz").write_bytes(gzip.compress("premier café\n".encode()))
    (place / "c.md").write_text("# Title\n\nA [link](http://x.y) and **bold**.\n")
    (place / "deep" / "d.html").write_text("<html><head><title>Page</title></head><body><p>Seen</p></body></html>")
    (place / "e.pdf").write_bytes(b"%PDF-")
    (place / "f.pdf").write_bytes(b"%PDF-")
    (place / ".hidden.txt").write_text("no")
    return place


def test_a_folder_is_read_by_name_and_the_rest_is_counted(folder: Path) -> None:
    texts = PlainTexts(folder)
    first = list(texts)
    assert first == ["premier café\n", "second line one\n\nsecond line two\n", "Title\nA link and bold.", "Page\nSeen"]
    assert list(texts) == first
    assert texts.skipped == {".pdf": 2}


def test_a_document_a_line(folder: Path) -> None:
    assert list(PlainTexts(folder / "b.txt", "line")) == ["second line one", "second line two"]


def test_the_fingerprint_follows_bytes_names_and_unit(folder: Path) -> None:
    before = PlainTexts(folder).fingerprint
    assert PlainTexts(folder).fingerprint == before
    assert PlainTexts(folder, "line").fingerprint != before
    (folder / "b.txt").write_text("else")
    changed = PlainTexts(folder).fingerprint
    (folder / "b.txt").rename(folder / "g.txt")
    assert len({before, changed, PlainTexts(folder).fingerprint}) == 3


@pytest.mark.parametrize("text", ["word " * 40, "東京は日本の首都である" * 9, "x" * 100, "é " * 50])
@pytest.mark.parametrize("block", [7, 16, 1000])
def test_blocks_lose_nothing_and_cut_no_character(
    text: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_texts, "_BLOCK", block)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = list(PlainTexts(tmp_path / "a.txt"))
    assert "".join(found) == text
    if " " in text:
        assert all(part.endswith(" ") for part in found)
    assert (len(found) == 1) == (len(text.encode()) < block)


def test_other_encodings_and_names(tmp_path: Path) -> None:
    (tmp_path / "corpus.en").write_bytes("café".encode("latin-1"))
    assert list(PlainTexts(tmp_path / "corpus.en")) == ["café"]
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfone")
    assert list(PlainTexts(tmp_path / "bom.txt")) == ["one"]
    (tmp_path / "wide.txt").write_text("one", encoding="utf-16")
    with pytest.raises(InputError, match=r"wide\.txt: this is no plain text in UTF-8"):
        list(PlainTexts(tmp_path / "wide.txt"))


def test_what_holds_no_text_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        PlainTexts(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no text was found in it, but 1 \.pdf\n?.*lode data import"):
        PlainTexts(folder / "e.pdf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it is empty"):
        PlainTexts(tmp_path / "empty")
    (folder / "z.txt.gz").write_bytes(gzip.compress(b"text" * 100)[:-9])
    with pytest.raises(InputError, match=r"z\.txt\.gz: the compressed file is damaged"):
        list(PlainTexts(folder))
    monkeypatch.setattr(plain_texts, "_MOST_MARKED_UP", 5)
    with pytest.raises(InputError, match=r"c\.md: the file has more than 5 bytes"):
        list(PlainTexts(folder / "c.md"))


def test_a_line_beyond_the_limit_is_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_texts, "bounded_lines", lambda file: bounded_lines(file, 8))
    (tmp_path / "a.txt").write_text("short\na much longer line\n")
    with pytest.raises(InputError, match=r"a\.txt:2: the line has 19 bytes"):
        list(PlainTexts(tmp_path / "a.txt", "line"))
