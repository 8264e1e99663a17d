"""Rows out of JSONL, JSON and Parquet files, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lodesmith.core.errors import InputError, MissingExtraError
from lodesmith.core.lines import LIMIT, Line, LineError, bounded_lines, decode_json
from lodesmith.data.formats._source import Head, stream

Rows = Iterator[tuple[int, dict[str, Any]]]
Refuse = Callable[[int | None, str], None]
_BLOCK = 1 << 20
_HEAD = 1 << 16
_PARQUET_ROWS = 64  # at a time; a row may hold an image
_MOST_ELEMENT = 4 * LIMIT  # bytes of one element of a JSON array: a SQuAD article with all its questions
_DEEPEST = 10_000  # brackets
_OUTSIDE = re.compile(rb'["\[\]{}]')
_INSIDE = re.compile(rb'["\\]')


def suffix_of(path: Path) -> str:
    """The suffix in lower case without `.gz` and without its point: `jsonl`, `tsv`, or ''."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2] if "." in path.name.removesuffix(".gz") else ""


def rows(path: Path, refuse: Refuse) -> Rows:
    """Line (of Parquet: row) and fields of each row of a JSONL, JSON or Parquet file; other files have none.

    A JSON file is an array of objects, an object that holds such arrays, or JSONL under another name. Lines and
    elements that cannot be decoded are refused; memory is bounded by the longest that is read.

    Raises:
        InputError: the file cannot be read, or ends before its end.
        MissingExtraError: Parquet needs pyarrow.
    """
    suffix = suffix_of(path)
    if suffix == "parquet":
        yield from _parquet(path)
    elif suffix in ("jsonl", "ndjson") or (suffix == "json" and _has_lines(path)):
        with stream(path) as file:
            yield from _decoded((line for line in bounded_lines(file) if line.raw.strip()), refuse)
    elif suffix == "json":
        with stream(path) as file:
            yield from _decoded(elements(file, path), refuse)


def head_of(path: Path) -> Head:
    """The beginning of a file.

    Raises:
        InputError: it cannot be read.
    """
    suffix = suffix_of(path)
    raw = b""
    if suffix != "parquet":
        with stream(path) as file:
            raw = file.read(_HEAD)
    # A file whose first rows are broken is judged by the first whole one.
    found = rows(path, lambda line, reason: None)
    try:
        return Head(path, raw, next((row for _, row in islice(found, 1)), {}))
    except InputError:
        if suffix == "parquet":
            raise
        return Head(path, raw)  # the reader will find the same and say where


def _decoded(lines: Iterator[Line], refuse: Refuse) -> Rows:
    for line in lines:
        try:
            yield line.number, decode_json(line)
        except LineError as error:
            refuse(line.number, str(error))


def _has_lines(path: Path) -> bool:
    """Whether the first line of a JSON file is a row of its own, as in JSONL."""
    with stream(path) as file:
        line = next((line for line in bounded_lines(file) if line.raw.strip()), None)
    try:
        table = decode_json(line).get("data") if line is not None else None
    except LineError:
        return False
    return line is not None and not (isinstance(table, list) and all(isinstance(row, dict) for row in table))


def elements(file: IO[bytes], path: Path) -> Iterator[Line]:
    """The objects in the array that a JSON file is, or in the arrays that its one object holds.

    The text is scanned for strings and brackets only, so that one element at a time is in memory.

    Raises:
        InputError: the file is no JSON array or object, is nested too deeply, or ends inside its JSON.
    """
    scan = _Scan(path)
    while block := file.read(_BLOCK):
        yield from scan.feed(block)
    scan.end()


class _Scan:
    """Where elements begin and end, over blocks of bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open: list[int] = []  # the brackets around the position
        self.quoted = self.escaped = False
        self.begun = False
        self.offset = 0  # of the block
        self.number = 1  # the line
        self.counted = 0  # up to where lines of the block are counted
        self.element: bytearray | None = None
        self.size = self.start = self.line = 0

    def feed(self, block: bytes) -> Iterator[Line]:
        at, self.escaped = int(self.escaped), False  # what a backslash at the end of the last block escapes
        begin = self.counted = 0  # the part of the block that belongs to the element begins there
        if not self.begun:
            self._root(block)
        while True:
            found = (_INSIDE if self.quoted else _OUTSIDE).search(block, at)
            if found is None:
                break
            mark, at = found.group()[0], found.end()
            if mark == 0x5C:  # a backslash
                if at < len(block):
                    at += 1
                else:
                    self.escaped = True
            elif mark == 0x22:
                self.quoted = not self.quoted
            elif mark in b"[{":
                if self.element is None and mark == 0x7B and self._in_rows():
                    begin = at - 1
                    self._start(block, begin)
                self.open.append(mark)
                if len(self.open) > _DEEPEST:
                    raise InputError(f"the JSON is nested more than {_DEEPEST:,} deep", path=self.path)
            elif self.open:
                self.open.pop()
                if self.element is not None and self._in_rows():
                    yield self._finish(block[begin:at])
        self._keep(block[begin:])
        self.number += block.count(b"\n", self.counted)
        self.offset += len(block)

    def end(self) -> None:
        if not self.begun:
            raise InputError("the file is empty", path=self.path)
        if self.open or self.quoted:
            raise InputError(f"the file ends inside its JSON, at line {self.number}", path=self.path)

    def _root(self, block: bytes) -> None:
        start = block.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] not in (b"", b"[", b"{"):
            raise InputError("this is neither a JSON array nor a JSON object", path=self.path, line=1)
        self.begun = bool(start)

    def _in_rows(self) -> bool:
        """Whether the position is directly in the array of the file, or in one that its object holds."""
        return self.open in ([0x5B], [0x7B, 0x5B])

    def _start(self, block: bytes, at: int) -> None:
        self.number += block.count(b"\n", self.counted, at)
        self.counted = at
        self.element, self.size = bytearray(), 0
        self.start, self.line = self.offset + at, self.number

    def _keep(self, part: bytes) -> None:
        if self.element is not None:
            self.element += part[: max(0, _MOST_ELEMENT - len(self.element))]
            self.size += len(part)

    def _finish(self, part: bytes) -> Line:
        self._keep(part)
        # Never line 1: a byte order mark is no part of an element.
        line = Line(self.line, self.start, bytes(self.element or b""), self.size)
        self.element = None
        return line


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for value in batch.to_pylist():
                    row += 1
                    yield row, value
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # values out of range
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the Parquet file cannot be read after row {row}: {reason}", path=path) from None
