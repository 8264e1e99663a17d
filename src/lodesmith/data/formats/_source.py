"""What layouts read (a source, its rows) and what they make of it (records)."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.lines import LineError, check_id, shorten
from lodesmith.core.records import Document, Query

Fields = Mapping[str, Any]
_TAGS = re.compile(r"\s+")


class Judgement(NamedTuple):
    """A grade of a document for a query."""

    query: str
    document: str
    grade: int = 1


class Negative(NamedTuple):
    """A document that a file calls irrelevant to a query; one query may have many, anywhere in the file."""

    query: str
    document: str


class Cell(NamedTuple):
    """A row of a column: its owner is a query, or a document."""

    column: str
    key: str
    owner: str
    row: Fields


class Picture(NamedTuple):
    """A document that is an image: the bytes of a PNG, JPEG, WebP, GIF or TIFF file."""

    document: Document
    data: bytes


Record = Document | Query | Judgement | Negative | Cell | Picture


@dataclass(frozen=True)
class Source:
    """A file to be read.

    Args:
        name: how ids and messages call it, relative to what was given for import.
        path: where it is.
        refuse: called with line (or row) and reason for whatever gives no record.
        leave_out: called with the reason for what is left out on purpose.
        rows: gives line and fields of each row, from JSONL, JSON or Parquet; refuses the broken ones.
    """

    name: str
    path: Path
    refuse: Callable[[int | None, str], None]
    leave_out: Callable[[str], None]
    rows: Callable[[], Iterator[tuple[int, dict[str, Any]]]] = field(default=lambda: iter(()))

    @property
    def stem(self) -> str:
        """The name without its last suffixes, as the beginning of ids."""
        return re.sub(r"(\.(jsonl?|ndjson|parquet|tsv|txt|gz))+$", "", self.name, flags=re.IGNORECASE)

    def each(self, parse: Callable[[Fields, int], Iterable[Record]]) -> Iterator[Record]:
        """The records of each row; a row that `parse` refuses (`LineError`) gives none of them."""
        for line, row in self.rows():
            try:
                found = list(parse(row, line))
            except LineError as error:
                self.refuse(line, str(error))
                continue
            yield from found


@dataclass(frozen=True)
class Head:
    """The beginning of a file: its first uncompressed bytes, and its first row where it has rows."""

    path: Path
    raw: bytes = b""
    row: Fields = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether the first row has all these fields."""
        return all(name in self.row for name in names)

    def any(self, names: Sequence[str]) -> str:
        """The first of these fields that the first row has, or ''."""
        return next((name for name in names if name in self.row), "")


class Layout(Protocol):
    """One layout of files. `split` names the judgements of a file whose name does not."""

    split: str

    def fits(self, head: Head) -> bool:
        """Whether a file that begins so has this layout."""
        ...

    def records(self, source: Source) -> Iterator[Record]:
        """What the file holds."""
        ...


# reading


@contextmanager
def stream(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a file, as they come: nothing is unpacked on disk.

    Raises:
        InputError: it cannot be opened, or (while it is read) is damaged or cut off.
    """
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the compressed file is damaged or cut off: {error}", path=path) from None


# fields


def first(row: Fields, names: Sequence[str]) -> Any:
    """The value of the first of these fields that is there and not null."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def text(row: Fields, *names: str) -> str:
    """A text that must be there, without white space around it.

    Raises:
        LineError: it is missing, empty or no string.
    """
    value = first(row, names)
    if not isinstance(value, str) or not value.strip():
        raise LineError("bad-field", f"{names[0]!r} must be a string with text, not {shorten(value)}")
    return value.strip()


def texts(row: Fields, *names: str) -> list[str]:
    """A list of strings, or one string; empty where there is none. Empty strings and repeats are left out.

    Raises:
        LineError: it is something else.
    """
    value = first(row, names)
    value = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise LineError("bad-field", f"{names[0]!r} must be a string or a list of strings, not {shorten(value)}")
    return list(dict.fromkeys(item.strip() for item in value if item.strip()))


def objects(row: Fields, *names: str) -> list[dict[str, Any]]:
    """A list of objects; empty where there is none.

    Raises:
        LineError: it is something else.
    """
    value = first(row, names)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise LineError("bad-field", f"{names[0]!r} must be a list of objects, not {shorten(value)}")
    return value


def key(row: Fields, *names: str) -> str:
    """An id, or '' where there is none.

    Raises:
        LineError: it is neither a string nor an integer, or holds control characters.
    """
    value = first(row, names)
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise LineError("missing-id", f"{names[0]!r} must be a string or an integer, not {shorten(value)}")
    return check_id(str(value))


def by_text(body: str, title: str = "") -> Document:
    """A document named by its content, for layouts without document ids: equal texts are one document."""
    content = f"{title}\t{body}" if title else body
    return Document(f"d:{text_key(content)[:20]}", title, body)


def source_name(title: str) -> str:
    """A title as the first part of ids."""
    return _TAGS.sub("_", title.strip())
