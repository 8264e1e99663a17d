"""Words of many texts at once, found with array operations on their bytes.

The rule is `PATTERN` after NFKC and lower-casing, which a `tokenizers.Tokenizer` applies in Rust, one text after
another. Here it is applied to whole blocks of text: a table gives the class of each byte, differences give where words
begin and end. Only ASCII is read so. A piece between two white spaces that holds anything else is `foreign`, and left
to the tokenizer: neither NFKC nor the pattern looks across white space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["PATTERN", "WIDE", "Block", "keys_of", "split"]

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS = rf"[\p{{L}}\p{{M}}\p{{N}}&&[^{_ALONE}]]+"
PATTERN = rf"[{_ALONE}]\p{{M}}*|{_LETTERS}(?:(?<=\p{{N}})[.,](?=\p{{N}}){_LETTERS})*"
"""A word: letters, marks and digits in a row; a point or comma between two digits belongs to it (3.14 and 1,000). Where
a script writes no spaces, each character is a word. Everything else separates."""

WIDE = 16
"""The longest word, in bytes, that fits into a key."""

_OTHER, _SPACE, _LETTER, _DIGIT, _JOINER, _FOREIGN = range(6)


def _classes() -> NDArray[np.uint8]:
    table = np.full(256, _OTHER, np.uint8)
    for letters, kind in (
        (b" \t\n\r\x0b\x0c", _SPACE),
        (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", _LETTER),
        (b"0123456789", _DIGIT),
        (b".,", _JOINER),
        (bytes(range(128, 256)), _FOREIGN),
    ):
        table[list(letters)] = kind
    return table


_CLASS = _classes()
_LOWER = np.frombuffer(bytes(range(256)).lower(), np.uint8)
_KEEP = np.array([(1 << (8 * size)) - 1 for size in range(9)], np.uint64)
"""Masks that keep the first bytes of eight."""


@dataclass(frozen=True)
class Block:
    """The words of some texts.

    Args:
        letters: uint8, the texts' bytes in lower case, one text after another, with spare zeros at the end.
        bounds: int64 [n + 1], where each text begins.
        starts: int64 [w], where each ASCII word begins, rising.
        lengths: int64 [w], its bytes.
        pieces: where each foreign piece begins, rising, int64 [f].
        foreign: the foreign pieces, as they were written.
    """

    letters: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    pieces: NDArray[np.int64]
    foreign: list[str]

    def word(self, at: int) -> bytes:
        """The word at a place of `starts`."""
        start = int(self.starts[at])
        return self.letters[start : start + int(self.lengths[at])].tobytes()

    def text_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The text to which each position belongs."""
        return np.searchsorted(self.bounds, positions, side="right") - 1


def split(texts: Sequence[bytes]) -> Block:
    """The words of texts in UTF-8."""
    raw = b"\n".join(texts) + b"\n" + bytes(2 * WIDE)
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    given = np.frombuffer(raw, np.uint8)
    kinds = _CLASS[given]
    digit = kinds == _DIGIT
    inside = (kinds == _LETTER) | digit
    inside[1:-1] |= (kinds[1:-1] == _JOINER) & digit[:-2] & digit[2:]
    begins, ends = _foreign(kinds)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        inside[begin:end] = False
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    if inside[0]:
        edges = np.concatenate([[0], edges])
    starts = edges[0::2]
    foreign = [raw[b:e].decode() for b, e in zip(begins.tolist(), ends.tolist(), strict=True)]
    return Block(_LOWER[given], bounds, starts, edges[1::2] - starts, begins, foreign)


def _foreign(kinds: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begins and ends of the pieces between white spaces that are not ASCII."""
    places = np.flatnonzero(kinds == _FOREIGN)
    if not len(places):
        return places, places
    spaces = np.flatnonzero(kinds == _SPACE)
    gaps = np.unique(np.searchsorted(spaces, places))  # the white space behind each piece; there is one
    begins = np.where(gaps > 0, spaces[gaps - 1] + 1, 0)
    return begins, spaces[gaps]


def keys_of(block: Block) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first `WIDE` bytes of each word as two numbers [w]: words no longer than that are equal where these are."""
    letters = block.letters
    # Eight bytes from any place on: the same memory, read as overlapping numbers.
    eights: NDArray[np.uint64] = np.ndarray((len(letters) - 7,), "<u8", letters, strides=(1,))
    low = eights[block.starts] & _KEEP[np.minimum(block.lengths, 8)]
    high = eights[block.starts + 8] & _KEEP[np.clip(block.lengths - 8, 0, 8)]
    return low, high


def blocks_of(texts: Sequence[bytes], size: int) -> list[tuple[int, int]]:
    """Runs of texts (first, end) of about `size` bytes each, at least one text."""
    sizes = np.cumsum([0, *map(len, texts)])
    cuts = [0]
    while cuts[-1] < len(texts):
        after = int(np.searchsorted(sizes, sizes[cuts[-1]] + size, side="right")) - 1
        cuts.append(min(len(texts), max(after, cuts[-1] + 1)))
    return list(pairwise(cuts))
