"""examples/pdf_pages.py: PDF files become page images, each asked for by a sentence that stands on it alone."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from lodesmith.core.records import Dataset
from tiny_pages import build
from tiny_pdfs import pdf

pytestmark = pytest.mark.usefixtures("cache")

HARBOUR = "The old harbour is closed to the ships of the north in winter."
BAKERS = "The bakers of the town are up before the light of the sun."
SHARED = "All of the text is copied on the first and on the second page."
PAGES = [
    f"{HARBOUR}\n{SHARED}\nThe ships of the town are in the light.",
    f"{SHARED}\n{BAKERS}",
    "The Numbers Of The Table\n12 14 17 19 21 24 27 29 31.",
]


@pytest.fixture
def script(examples: Path) -> dict[str, Any]:
    """The names of the script."""
    return runpy.run_path(str(examples / "pdf_pages.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two PDF files, of two pages and of one."""
    made = tmp_path / "pdfs"
    made.mkdir()
    (made / "a town.pdf").write_bytes(pdf(PAGES[:2], size="200 100"))
    (made / "table.pdf").write_bytes(pdf(PAGES[2:], size="200 100"))
    return made


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (HARBOUR, True),
        ("Is it “closed” to ships (of any kind), as they say?", True),
        ("It is closed now.", False),
        (" ".join(["It is", *["very"] * 30, "cold."]), False),
        ("closed to the ships of the north.", False),
        ("It is closed to the ships of", False),
        ("In 2019 it was 12 or 14 or 17 of 21.", False),
        ("Mi-Young Kim, Juliano Rabelo, Randy Goebel, and Ken Satoh.", False),
        ("Coil: exact lexical match in retrieval. arXiv preprint of the year.", False),
    ],
)
def test_a_sentence(script: dict[str, Any], text: str, right: bool) -> None:
    assert script["is_sentence"](text) is right


def test_a_page_is_asked_for_by_the_rarest_sentence_that_it_alone_has(script: dict[str, Any]) -> None:
    pages = dict(zip("abc", PAGES, strict=True))
    assert dict(script["questions"](pages)) == {"a": HARBOUR, "b": BAKERS}
    assert not dict(script["questions"]({"a": SHARED, "b": f"{SHARED} "}))


def test_the_rarest_words_that_other_pages_have_keep_their_order(script: dict[str, Any]) -> None:
    pages = dict(zip("abc", PAGES, strict=True)) | {"d": "winter harbour", "e": "is it so"}
    assert dict(script["questions"](pages, 2))["a"].split() == ["harbour", "winter"]


def test_a_set_of_page_images_is_written_and_measured(
    folder: Path, tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(tmp_path / "model")
    out = tmp_path / "made" / "set"
    monkeypatch.setattr(sys, "argv", ["pdf_pages.py", str(out), str(folder), "--model", str(model)])
    for _ in range(2):  # again into the same folder
        runpy.run_path(str(examples / "pdf_pages.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "3 pages, 2 queries\n" in told
    assert re.findall(r"^(.+): nDCG@5 [\d.]+ \[", told, re.MULTILINE) == 2 * ["random", "bm25", "minilm", str(model)]
    assert told.count("bm25: nDCG@5 1.000 [1.000, 1.000]") == 2
    data = Dataset.load(out)
    assert {query.text: [*data.judgements["test"][key]] for key, query in data.queries.items()} == {
        HARBOUR: ["a%20town.pdf#1"],
        BAKERS: ["a%20town.pdf#2"],
    }
    assert all((out / page.image).is_file() for page in data.documents.values())
    assert data.info["counts"]["queries"] == 2
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_pages_without_a_sentence_are_told_of(script: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    (folder / "a town.pdf").unlink()
    with pytest.raises(SystemExit, match="no page has a sentence of 6 to 30 words"):
        script["write_set"](folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
