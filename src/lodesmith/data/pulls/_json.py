"""The elements of one large JSON array, one at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import IO, Any

from lodesmith.data.pulls._errors import LayoutError

__all__ = ["elements"]

_CHUNK = 1 << 18  # characters
_LONGEST = 1 << 26  # characters of one element
_DECODER = json.JSONDecoder()


def elements(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """The objects of the first array in a JSON text, in memory bounded by the longest of them.

    Args:
        file: UTF-8 bytes: an array, or an object whose first array is meant (SQuAD's `data`).
        name: for messages.

    Raises:
        LayoutError: there is no such array, it ends early, or an element is no object.
    """
    text = io.TextIOWrapper(file, encoding="utf-8")
    try:
        yield from _elements(_Buffer(text, name))
    except UnicodeDecodeError as error:
        raise LayoutError(f"{name}: not UTF-8: {error.reason}", "take the file from its publisher") from None
    finally:
        text.detach()


class _Buffer:
    """Characters that were read and not used yet."""

    def __init__(self, text: IO[str], name: str) -> None:
        self.text, self.name = text, name
        self.held, self.at = "", 0

    def more(self) -> bool:
        """Read on; as much again as is held, so that a long element is not scanned over and over."""
        fresh = self.text.read(max(_CHUNK, len(self.held) - self.at))
        self.held, self.at = self.held[self.at :] + fresh, 0
        return bool(fresh)

    def skip(self, characters: str) -> str:
        """Pass over these characters; the next other one, or '' at the end."""
        while True:
            while self.at < len(self.held) and self.held[self.at] in characters:
                self.at += 1
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def fail(self, what: str) -> LayoutError:
        return LayoutError(f"{self.name}: {what}", "take the file from its publisher")


def _elements(buffer: _Buffer) -> Iterator[dict[str, Any]]:
    while (start := buffer.held.find("[", buffer.at)) < 0:
        buffer.at = len(buffer.held)
        if not buffer.more():
            raise buffer.fail("holds no JSON array")
    buffer.at = start + 1
    while (first := buffer.skip(" \t\r\n,")) != "]":
        if first != "{":
            raise buffer.fail("ends early" if not first else f"expected a JSON object, found {first!r}")
        yield _element(buffer)


def _element(buffer: _Buffer) -> dict[str, Any]:
    while True:
        try:
            value, buffer.at = _DECODER.raw_decode(buffer.held, buffer.at)
        except json.JSONDecodeError as error:
            if len(buffer.held) - buffer.at > _LONGEST:
                raise buffer.fail(f"not valid JSON: {error.msg}") from None
            if not buffer.more():
                raise buffer.fail(f"ends early, or is not valid JSON: {error.msg}") from None
        except RecursionError:
            raise buffer.fail("is nested too deeply") from None
        else:
            found: dict[str, Any] = value
            return found
