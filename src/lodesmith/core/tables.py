"""The files of the BEIR layout: JSONL tables read from disk on demand, and judgements."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_file
from lodesmith.core.lines import Line, LineError, bounded_lines, check_id, decode_json, decode_text, shorten

T = TypeVar("T")
Judgements = Mapping[str, Mapping[str, int]]
"""query id → document id → grade."""

HEADER = "query-id\tcorpus-id\tscore"
"""The first line of a qrels file."""

FIX = "see all problems with `lode data check DIR`; `--fix OUT` writes a clean copy"


class JsonlTable(Mapping[str, T], Generic[T]):
    """A JSONL file (plain or .gz) as an ordered mapping id → record, read from disk on demand.

    Args:
        path: the file.
        parse: turns a decoded line into a record that has an `id`.

    Raises:
        InputError: a line is broken or an id occurs twice; the message names file and line.
    """

    def __init__(self, path: Path, parse: Callable[[Mapping[str, Any]], T]) -> None:
        self.path = path
        self._parse = parse
        self._file = open_plain(path)
        self._rows: dict[str, int] = {}
        self._starts, self._ends = array("q"), array("q")
        digest = hashlib.sha256()
        for line in bounded_lines(self._file):
            digest.update(line.raw)
            if line.raw.strip():
                self._add(self._decode(line), line)
        self.sha256 = digest.hexdigest()
        """SHA-256 of the uncompressed bytes."""

    def _add(self, record: Any, line: Line) -> None:
        if record.id in self._rows:
            raise InputError(f"the id {record.id!r} occurs twice", FIX, path=self.path, line=line.number)
        self._rows[record.id] = len(self._rows)
        self._starts.append(line.offset)
        self._ends.append(line.offset + line.size)

    def _decode(self, line: Line) -> T:
        try:
            return self._parse(decode_json(line))
        except ValueError as error:
            raise InputError(f"broken line: {error}", FIX, path=self.path, line=line.number) from None

    def __getitem__(self, key: str) -> T:
        return self._at(self._rows[key])

    def _at(self, row: int) -> T:
        start, end = self._starts[row], self._ends[row]
        raw = os.pread(self._file.fileno(), end - start, start)
        return self._decode(Line(1 if start == 0 else row + 1, start, raw, end - start))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __repr__(self) -> str:
        return f"JsonlTable({str(self.path)!r}, {len(self)} records)"


def open_plain(path: Path) -> IO[bytes]:
    """A seekable handle on the uncompressed bytes; a .gz file is unpacked once into an anonymous temporary file.

    Raises:
        InputError: the file is missing, cannot be read, or is no whole gzip file.
    """
    try:
        if path.suffix != ".gz":
            return path.open("rb")
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the table
        with gzip.open(path, "rb") as packed:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.seek(0)
        return unpacked
    except FileNotFoundError:
        raise InputError("no such file", path=path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    """Read a qrels file: a header, then `query-id`, `corpus-id`, `score` separated by tabs.

    A judgement that is repeated with the same grade counts once.

    Raises:
        InputError: a line has not three fields, a grade is not an integer of at least 0, or two grades contradict
            each other; the message names file and line.
    """
    judgements: dict[str, dict[str, int]] = {}
    with open_plain(path) as file:
        for line in bounded_lines(file):
            try:
                judgement = parse_judgement(line)
                if judgement is not None:
                    _judge(judgements, *judgement)
            except LineError as error:
                raise InputError(str(error), FIX, path=path, line=line.number) from None
    return judgements


def _judge(judgements: dict[str, dict[str, int]], query: str, document: str, grade: int) -> None:
    known = judgements.setdefault(query, {}).setdefault(document, grade)
    if known != grade:
        raise LineError("conflicting-judgement", f"{document!r} has two grades for {query!r}: {known} and {grade}")


def parse_judgement(line: Line) -> tuple[str, str, int] | None:
    """Query id, document id and grade of a line of a qrels file; None for a header or an empty line.

    Raises:
        LineError: of kind `field-count`, `bad-id`, `negative-grade`, `fractional-grade` or `bad-grade`, or one of
            `decode_text`.
    """
    text = decode_text(line)
    if not text.strip():
        return None
    fields = text.split("\t")
    if line.number == 1 and not _NUMBER.fullmatch(fields[-1].strip()):
        return None
    if len(fields) != 3:
        raise LineError("field-count", f"expected 3 fields separated by tabs, found {len(fields)}")
    return check_id(fields[0]), check_id(fields[1]), _grade(fields[2].strip())


def _grade(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise LineError("bad-grade", f"the grade must be an integer of at least 0, not {shorten(text)}")
    if text.startswith("-") and float(text) != 0:
        raise LineError("negative-grade", f"the grade must be at least 0, not {shorten(text)}")
    if not text.lstrip("+-").isdecimal():
        raise LineError("fractional-grade", f"the grade must be an integer, not {shorten(text)}")
    if len(text) > 9:
        raise LineError("bad-grade", f"the grade {shorten(text)} is too large")
    return int(text)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def write_judgements(path: Path, judgements: Judgements) -> None:
    """Write a qrels file with the BEIR header."""
    with atomic_file(path) as handle:
        handle.write(HEADER + "\n")
        for query, documents in judgements.items():
            handle.writelines(f"{query}\t{document}\t{grade}\n" for document, grade in documents.items())
