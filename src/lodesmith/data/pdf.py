"""Text of PDF files, read in a child process that a hostile file can only kill, with limits on memory and time."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lodesmith.core.errors import InputError, MissingExtraError

__all__ = ["Pdf", "parse_ranges", "read_pdf"]

MEMORY = 2 << 30
SECONDS = 60.0
DPI = 150  # an A4 page of 1,240 × 1,754 pixels: above what today's page encoders look at
Ranges = tuple[tuple[int, int], ...]
_LAST = 1 << 30
_DIGITS = 9
_EDGE = 2  # lines at the top and bottom of a page that can be a running head
_HYPHEN = re.compile(r"(?<=[^\W\d_])(?:[\ufffe\x02]\n?|-\n)(?=[a-zß-öø-ÿ])")
_OTHER = re.compile(r"[\ufffe\uffff\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True)
class Pdf:
    """What a PDF file gave.

    Args:
        title: from its metadata, or ''.
        pages: the text of each page that could be read, in paragraphs.
        problem: why there is not more: '' where everything was read.
        numbers: of the pages, from 1.
        images: of each page the file that was written for it, or ''; empty where none were asked for.
        notes: what was done otherwise than asked, such as a lower resolution.
    """

    title: str
    pages: tuple[str, ...]
    problem: str = ""
    numbers: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All pages."""
        return "\n\n".join(page for page in self.pages if page)


def parse_ranges(text: str) -> Ranges:
    """Page ranges as people write them: `1-10,15,20-` (pages count from 1; an open end is the last page).

    Raises:
        InputError: it is something else.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not all(piece.isascii() and piece.isdecimal() and len(piece) < _DIGITS for piece in (first, last or "1")):
            raise InputError(f"{part!r} is no range of pages", "write ranges like 1-10,15,20-")
        begin, end = int(first), int(last) if last else (_LAST if dash else int(first))
        if not 1 <= begin <= end:
            raise InputError(f"{part!r} is no range of pages: they count from 1, upwards", "write 1-10,15,20-")
        found.append((begin, end))
    if not found:
        raise InputError(f"{text!r} names no pages", "write ranges like 1-10,15,20-")
    return tuple(found)


def read_pdf(
    path: Path | str,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    ranges: Ranges = (),
    images: Path | None = None,
    dpi: float = DPI,
) -> Pdf:
    """The text of a PDF file: words broken at line ends are joined, repeated heads and feet of pages are dropped.

    A file that is damaged, encrypted, empty or too expensive gives a `problem`, never an error: the rest of a corpus
    goes on.

    Args:
        path: the file.
        seconds: of wall-clock time for the file.
        memory: bytes of address space for the child process.
        ranges: first and last page of each range, from 1; all pages where there are none.
        images: an empty folder into which each page is drawn.
        dpi: resolution of the images; of huge pages lower, with a note.

    Raises:
        MissingExtraError: pypdfium2 (or, for images, pillow) is not installed.
    """
    if not Path(path).is_file():
        return Pdf("", (), "no such file")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONUTF8": "1"}
    order = {"memory": memory, "seconds": int(seconds) + 1, "ranges": ranges}
    if images is not None:
        order |= {"folder": str(images.resolve()), "dpi": dpi}
    command = [sys.executable, "-m", "lodesmith.data._pdf_reader", json.dumps(order)]
    died = ""
    with tempfile.TemporaryFile() as answer, Path(path).open("rb") as file:
        child = subprocess.Popen(command, env=environment, stdin=file, stdout=answer, stderr=subprocess.DEVNULL)
        try:
            code = child.wait(timeout=seconds)
            if code:
                died = (
                    f"its reader ran into a limit or crashed (signal {-code})"
                    if code < 0
                    else f"its reader ended with code {code}"
                )
        except subprocess.TimeoutExpired:
            died = f"it takes longer than {seconds:g} s"
        finally:
            child.kill()
            child.wait()
        answer.seek(0)
        return _answered(answer, died)


def _answered(answer: IO[bytes], died: str) -> Pdf:
    """The messages of the child: one JSON object a line, the last one perhaps cut off."""
    title, problem, pages, expected, total = "", died, [], 0, 0
    notes: list[str] = []
    for line in answer:
        try:
            message = json.loads(line)
        except ValueError:
            break
        if message.get("missing"):
            raise MissingExtraError(message["missing"], "pdf")
        title = message.get("title", title)
        total = message.get("pages", total)
        expected = message.get("wanted", message.get("pages", expected))
        problem = message.get("problem", problem)
        notes += filter(None, [message.get("note")])
        if "text" in message:
            pages.append(message)
    if problem and expected:
        problem = f"{problem}; {len(pages)} of {expected} pages were read"
    texts = [_paragraphs(lines) for lines in _without_heads([_lines(page["text"]) for page in pages])]
    images = tuple(page.get("image", "") for page in pages)
    if not problem and not any(texts) and not any(images):
        problem = "there is no text in it: scanned pages need a page model" if pages else _no_pages(total)
    numbers = tuple(page.get("number", i) for i, page in enumerate(pages, start=1))
    return Pdf(
        _OTHER.sub("", title).strip(), tuple(texts), problem, numbers, images if any(images) else (), tuple(notes)
    )


def _no_pages(total: int) -> str:
    return f"it has {total:,} pages, none of those asked for" if total else "it has no pages"


def _lines(page: str) -> list[str]:
    text = _HYPHEN.sub("", page.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.encode("utf-8", "replace").decode("utf-8")
    return [" ".join(_OTHER.sub(" ", line).split()) for line in text.split("\n")]


def _without_heads(pages: list[list[str]]) -> list[list[str]]:
    """Pages without the first and last lines that, numbers aside, return on at least half of all (and 3) pages."""
    pages = [[line for line in page if line] for page in pages]
    counts = Counter(key for page in pages for key in {_shape(line) for line in _edges(page)})
    heads = {key for key, count in counts.items() if count >= max(3, len(pages) / 2)}
    return [_body(page, heads) or page for page in pages]


def _body(page: list[str], heads: set[str]) -> list[str]:
    inner = range(_EDGE, len(page) - _EDGE)
    return [line for i, line in enumerate(page) if i in inner or _shape(line) not in heads]


def _edges(page: list[str]) -> Iterable[str]:
    return [*page[:_EDGE], *page[-_EDGE:]]


def _shape(line: str) -> str:
    return re.sub(r"\d+", "#", line).casefold()


def _paragraphs(lines: list[str]) -> str:
    """Lines as paragraphs: one ends where a sentence ends in a line that is clearly shorter than most."""
    if not lines:
        return ""
    full = statistics.median(len(line) for line in lines)
    found: list[list[str]] = [[]]
    for line in lines:
        found[-1].append(line)
        if len(line) < 0.8 * full and line.endswith((".", "!", "?", ":", "”", '"')):
            found.append([])
    return "\n\n".join(" ".join(part) for part in found if part)
