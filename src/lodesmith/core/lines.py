"""Lines of a file that nobody vouches for: bounded in length, decoded strictly, every fault with a name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

LIMIT = 16 << 20
"""The longest line that is read, in bytes."""

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


class LineError(ValueError):
    """A line cannot be used. `kind` is the fault's name in reports, such as `broken-json`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Line(NamedTuple):
    """One line: its number from 1, where it begins, its bytes (at most the limit) and its true size in bytes."""

    number: int
    offset: int
    raw: bytes
    size: int


def bounded_lines(file: IO[bytes], limit: int = LIMIT) -> Iterator[Line]:
    """The lines of a file in memory bounded by `limit`: of a longer line only the beginning is kept."""
    offset = number = 0
    while raw := file.readline(limit):
        number += 1
        size = len(raw)
        if size == limit and not raw.endswith(b"\n"):
            while rest := file.readline(_BLOCK):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield Line(number, offset, raw, size)
        offset += size


def decode_json(line: Line) -> dict[str, Any]:
    """The JSON object of a line. A byte order mark is allowed on line 1.

    Raises:
        LineError: of kind `long-line`, `invalid-utf8`, `broken-json`, `deep-nesting`, `nan`, `duplicate-key`,
            `not-object` or `lone-surrogate`.
    """
    text = decode_text(line)
    try:
        value = _DECODER.decode(text)
    except LineError:
        raise
    except RecursionError:
        raise LineError("deep-nesting", "the JSON is nested too deeply") from None
    except ValueError as error:  # syntax, and integers of thousands of digits
        raise LineError("broken-json", f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise LineError("not-object", f"a line must be a JSON object, not {type(value).__name__}")
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def decode_text(line: Line) -> str:
    """The text of a line without its line end (`\\n` or `\\r\\n`); a byte order mark is dropped from line 1.

    Raises:
        LineError: of kind `long-line` or `invalid-utf8`.
    """
    if line.size > len(line.raw):
        raise LineError("long-line", f"the line has {line.size:,} bytes; at most {len(line.raw):,} are read")
    raw = line.raw.removeprefix(_BOM) if line.number == 1 else line.raw
    try:
        return raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError("invalid-utf8", f"not UTF-8: {error.reason} at byte {error.start + 1}") from None


def has_bom(line: Line) -> bool:
    """Whether a file begins with a byte order mark."""
    return line.number == 1 and line.raw.startswith(_BOM)


def check_id(key: str) -> str:
    """An id that every format can carry.

    Raises:
        LineError: of kind `bad-id`: it is empty, or holds a tab, a line end, NUL or another control character.
    """
    if not key:
        raise LineError("bad-id", "the id is empty")
    if _CONTROL.search(key):
        raise LineError("bad-id", f"the id {key!r} holds a control character, which a TSV file cannot carry")
    return key


def shorten(value: object) -> str:
    """A value's repr in at most 61 characters, for messages."""
    return text if len(text := repr(value)) <= 60 else f"{text[:60]}…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise LineError("duplicate-key", f"the key {twice!r} occurs twice")
    return value


def _no_constant(name: str) -> None:
    raise LineError("nan", f"{name} is not JSON")


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise LineError("lone-surrogate", "a text holds half of a surrogate pair, which is no character") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
