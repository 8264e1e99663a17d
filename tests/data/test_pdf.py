"""PDF files, hostile ones among them: a problem is reported, nothing is raised."""

from __future__ import annotations

import io
import json
import time
import zlib
from pathlib import Path

import pytest

from lodesmith.core.errors import MissingExtraError
from lodesmith.data import pdf as module
from lodesmith.data.pdf import read_pdf
from tiny_pdfs import pdf


def write(tmp_path: Path, raw: bytes) -> Path:
    path = tmp_path / "a.pdf"
    path.write_bytes(raw)
    return path


def test_text_and_title(tmp_path: Path) -> None:
    found = read_pdf(write(tmp_path, pdf(["Hello world", "Second page"], title="A study")))
    assert found == module.Pdf("A study", ("Hello world", "Second page"), numbers=(1, 2))
    assert found.text == "Hello world\n\nSecond page"


def test_broken_words_are_joined_and_running_heads_dropped(tmp_path: Path) -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    pages = [
        f"Annual report {i}\nA long {w} line that is not con-\ncluded here by {w}\nPage {i}"
        for i, w in enumerate(words)
    ]
    found = read_pdf(write(tmp_path, pdf(pages)))
    assert found.pages[2] == "A long gamma line that is not concluded here by gamma"


def test_a_page_is_never_dropped_as_a_running_head(tmp_path: Path) -> None:
    found = read_pdf(write(tmp_path, pdf([f"Invoice number {i}" for i in range(4)])))
    assert found.pages[3] == "Invoice number 3"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"no pdf at all", "format"),
        (pdf(["text"])[:150], "format"),
        (pdf([]), "load"),
        (pdf([""]), "no text"),
    ],
)
def test_what_cannot_be_read_has_a_problem(tmp_path: Path, raw: bytes, problem: str) -> None:
    found = read_pdf(write(tmp_path, raw))
    assert problem in found.problem.lower()
    assert found.text == ""


def test_an_encrypted_file(tmp_path: Path) -> None:
    lock = f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'12' * 32}> /U <{'34' * 32}> >>"
    trailer = f"/Encrypt {lock} /ID [<{'56' * 16}> <{'56' * 16}>]"
    assert "password" in read_pdf(write(tmp_path, pdf(["secret"], trailer=trailer))).problem.lower()


def test_a_page_of_fifty_thousand_points(tmp_path: Path) -> None:
    found = read_pdf(write(tmp_path, pdf(["still text"], size="50000 50000")))
    assert found.text == "still text"


def test_a_bomb_ends_within_its_limits(tmp_path: Path) -> None:
    compress = zlib.compressobj(9)
    block = b"BT /F1 9 Tf (x) Tj ET " * 50_000
    bomb = b"".join(compress.compress(block) for _ in range(300)) + compress.flush()
    path = write(tmp_path, pdf(["x"], packed=bomb))
    assert path.stat().st_size < 3_000_000
    start = time.monotonic()
    found = read_pdf(path, seconds=2, memory=512 << 20)
    assert found.problem
    assert time.monotonic() - start < 10


def test_too_slow_is_a_problem(tmp_path: Path) -> None:
    found = read_pdf(write(tmp_path, pdf(["text"])), seconds=0.001)
    assert "longer than 0.001 s" in found.problem


def test_pages_before_a_death_are_kept() -> None:
    lines = [{"title": "T", "pages": 3}, {"text": "one"}, {"text": "two"}]
    answer = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode() + b'{"text": "thr')
    found = module._answered(answer, "its reader was stopped by signal 11")
    assert found.pages == ("one", "two")
    assert found.problem == "its reader was stopped by signal 11; 2 of 3 pages were read"


def test_a_missing_file_and_a_missing_package(tmp_path: Path) -> None:
    assert read_pdf(tmp_path / "none.pdf").problem == "no such file"
    with pytest.raises(MissingExtraError, match=r"lodesmith\[pdf\]"):
        module._answered(io.BytesIO(b'{"missing": "pypdfium2"}\n'), "")


@pytest.mark.data
def test_real_files(collections: Path) -> None:
    entries = {m["file"]: m for m in map(json.loads, (collections / "pdfs" / "manifest.jsonl").open(encoding="utf-8"))}
    for name in ("dpr_paper.pdf", "amt_handbook_page.pdf", "word_processor_history.pdf"):
        found = read_pdf(collections / "pdfs" / name)
        assert not found.problem
        assert len(found.pages) == entries[name]["pages"]
        assert abs(len(found.text.split()) / entries[name]["words"] - 1) < 0.03
    assert all("\ufffe" not in page for page in found.pages)
