"""Texts by their words: which are the same but for case, punctuation and spacing, and which are nearly so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from lodesmith.core.records import Document

__all__ = ["Wordings", "alike", "spelled"]

_KEPT = 1 << 11
"""Documents whose words are kept at a time."""
_SPACES = bytes(ord(chr(b).lower()) if chr(b).isalnum() or b == ord("_") else 32 for b in range(128))
_SPACES += bytes(range(128, 256))
_ASCII = bytes(range(128))

Shingle = tuple[bytes, ...]


def spelled(text: str) -> bytes:
    r"""A text's words (`\w+`) in lower case, spaces between them, in UTF-8; empty where it has none."""
    return b" ".join(_split(text))


def _split(text: str) -> list[bytes]:
    if not text.isascii():
        text = text.lower()
        raw = text.encode("utf-8", "surrogatepass")
        for character in set(raw.translate(None, _ASCII).decode("utf-8", "surrogatepass")):
            if not character.isalnum():
                text = text.replace(character, " ")
    return text.encode("utf-8", "surrogatepass").translate(_SPACES).split()


def shingled(words: Sequence[bytes]) -> frozenset[Shingle]:
    """The runs of three words; of fewer words one run of all."""
    return frozenset(zip(words, words[1:], words[2:], strict=False) if len(words) > 2 else [tuple(words)][: len(words)])


def alike(a: frozenset[Shingle], b: frozenset[Shingle], least: float) -> bool:
    """Whether the Jaccard similarity of two sets is at least `least`."""
    few, many = sorted((len(a), len(b)))
    if not few or few < least * many:
        return False
    both = len(a & b)
    return both >= least * (len(a) + len(b) - both)


class Words(NamedTuple):
    """A document's words: `spelling` names it, not empty where there is an image, and equal for equal images alone."""

    spelling: bytes
    words: list[bytes]


class Wordings:
    """The words of documents, read when they are asked for.

    Args:
        documents: by id.
    """

    def __init__(self, documents: Mapping[str, Document]) -> None:
        self._documents = documents
        self.words = lru_cache(_KEPT)(self._words)
        """A document's, by its id."""
        self._distinct = lru_cache(_KEPT)(self._distinct_of)
        self._shingles = lru_cache(_KEPT)(self._shingles_of)

    def near(self, key: str, other: str, least: float) -> bool:
        """Whether the texts' sets of three-word shingles have a Jaccard similarity of at least `least`.

        That share of the other's shingles would have to be in the text. Each word that it lacks takes one of them at
        least, that in which it stands in the middle (of a first and a last word there may be none): where too many are
        lacking no shingle need be made.
        """
        count, distinct = self._distinct(other)
        lacking = len(distinct) - len(distinct.intersection(self.words(key).words))
        if count > 2 and lacking - 2 > (1 - least) * (count - 2):
            return False
        return alike(self._shingles(key), self._shingles(other), least)

    def _words(self, key: str) -> Words:
        document = self._documents[key]
        words = _split(document.content)
        spelling = b" ".join(words)
        if document.image:
            spelling += b"\0" + document.image.encode("utf-8", "surrogatepass")
        return Words(spelling, words)

    def _distinct_of(self, key: str) -> tuple[int, frozenset[bytes]]:
        words = self.words(key).words
        return len(words), frozenset(words)

    def _shingles_of(self, key: str) -> frozenset[Shingle]:
        return shingled(self.words(key).words)
