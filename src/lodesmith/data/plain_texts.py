"""Texts as they lie on a disk: a file, or a folder of them, a document a file or a line.

Texts are streamed: of a plain text file no more than a block, or a line, is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

from lodesmith.core.errors import InputError
from lodesmith.core.files import sha256_file
from lodesmith.core.hashing import fingerprint
from lodesmith.core.lines import bounded_lines
from lodesmith.data.formats._containers import suffix_of
from lodesmith.data.formats._source import stream
from lodesmith.data.importing import files_of
from lodesmith.data.outline import READERS, Outline

__all__ = ["PlainTexts"]

_BLOCK = 1 << 20
_PLAIN = {"txt", "text"}
_MARKED_UP = {suffix.lstrip(".") for suffix in READERS} - _PLAIN
_OTHERS = {"jsonl", "ndjson", "json", "parquet", "tsv", "csv", "pdf", "docx", "zip", "tar"}
_MOST_MARKED_UP = 64 << 20
_IMPORT = "give text files, or `lode data import PATH --out DIR` makes a dataset of other kinds: data=DIR"


@dataclass(frozen=True)
class PlainTexts:
    """The texts of a file or a folder. Each iteration reads them again, in the order of the names.

    Plain text (`.txt`, `.text`, and a file of any other name that is given itself) is streamed, also from `.gz`;
    Markdown, reStructuredText and HTML lose their markup. In a folder, files of other kinds are left out and counted.

    Args:
        path: of the file or folder.
        document: what a document of a plain text file is; a file beyond a mebibyte counts as several.

    Raises:
        InputError: there is no text at the path.
    """

    path: Path
    document: Literal["file", "line"] = "file"
    skipped: Counter[str] = field(default_factory=Counter, init=False)
    """Suffix → files of a folder that are not read."""

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise InputError("no such file or folder", "data=PATH takes datasets and texts", path=self.path)
        if not self.files:
            found = ", ".join(f"{count} {suffix}" for suffix, count in self.skipped.items())
            told = f"no text was found in it, but {found}" if found else "it is empty"
            raise InputError(told, _IMPORT, path=self.path)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Name → path of each file that is read.

        Raises:
            InputError: the path is a file of a kind that is not read.
        """
        files = {}
        for name, file in files_of([self.path]):
            suffix = suffix_of(file)
            if suffix in _PLAIN | _MARKED_UP or (self.path.is_file() and suffix not in _OTHERS):
                files[name] = file
            else:
                self.skipped[f".{suffix}" if suffix else "without a suffix"] += 1
        return files

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of the files."""
        return fingerprint([self.document, {name: sha256_file(file) for name, file in self.files.items()}])

    def __iter__(self) -> Iterator[str]:
        for file in self.files.values():
            try:
                with stream(file) as source:
                    yield from self._texts(file, source)
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror or error}", path=file) from None
            except (AssertionError, RecursionError) as error:  # of the standard HTML parser
                raise InputError(f"the markup cannot be read: {error}", path=file) from None

    def _texts(self, file: Path, source: IO[bytes]) -> Iterator[str]:
        if (suffix := suffix_of(file)) in _MARKED_UP:
            raw = source.read(_MOST_MARKED_UP + 1)
            if len(raw) > _MOST_MARKED_UP:
                raise InputError(f"the file has more than {_MOST_MARKED_UP:,} bytes", "split it", path=file)
            yield _flat(READERS[f".{suffix}"](_decoded(raw, file)))
        elif self.document == "line":
            yield from _lines(file, source)
        else:
            yield from (_decoded(block, file) for block in _blocks(source))


def _lines(file: Path, source: IO[bytes]) -> Iterator[str]:
    for line in bounded_lines(source):
        if line.size > len(line.raw):
            raise InputError(
                f"the line has {line.size:,} bytes", "read it with document=file", path=file, line=line.number
            )
        if text := _decoded(line.raw, file).strip():
            yield text


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    """Blocks that end at white space, where there is any."""
    rest = b""
    while len(block := source.read(_BLOCK)) == _BLOCK:
        block = rest + block
        end = max(block.rfind(b" "), block.rfind(b"\n")) + 1 or _whole_letters(block)
        yield block[:end]
        rest = block[end:]
    if rest + block:
        yield rest + block


def _whole_letters(block: bytes) -> int:
    """Where the last character of UTF-8 begins, so that it is not cut."""
    end = len(block) - 1
    while end > 0 and block[end] & 0xC0 == 0x80:
        end -= 1
    return end or len(block)


def _decoded(raw: bytes, file: Path) -> str:
    """UTF-8, or Latin-1 where it is none."""
    if b"\0" in raw:
        raise InputError("this is no plain text in UTF-8: it holds NUL bytes", _IMPORT, path=file)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _flat(outline: Outline) -> str:
    """All that a reader of the document sees."""
    parts = [outline.title]
    for section in outline.sections:
        parts += [*section.headings, *section.paragraphs]
    return "\n".join(part for part in parts if part)
