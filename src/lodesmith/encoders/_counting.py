"""Count the words of a stream of texts, in memory bounded by the number of different words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.progress import tell
from lodesmith.encoders._splitting import WIDE, Block, keys_of, split

__all__ = ["Counts", "count"]

_LONGEST = 64
"""Longer words, in bytes, are counted as tokens but not kept: nobody writes them twice."""


@dataclass
class Counts:
    """What a stream of texts holds.

    Args:
        words: word → (occurrences, texts that have it).
        texts: how many.
        tokens: words in all.
        types: different words; a word that was forgotten and came again counts twice.
        undercount: by how much an occurrence count may be too low.
    """

    words: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: int = 0
    tokens: int = 0
    types: int = 0
    undercount: int = 0

    def add(self, word: str, number: int, texts: int) -> None:
        """Count a word."""
        before = self.words.get(word)
        if before is None:
            self.types += 1
            self.words[word] = (number, texts)
        else:
            self.words[word] = (before[0] + number, before[1] + texts)

    def shrink(self, ceiling: int) -> None:
        """Forget the rarest words until at most half the ceiling is left, where the ceiling has been passed.

        Whoever is forgotten had at most `undercount` occurrences since it was last forgotten (lossy counting: Manku &
        Motwani 2002).
        """
        if len(self.words) <= ceiling:
            return
        numbers = np.fromiter((number for number, _ in self.words.values()), np.int64, len(self.words))
        level = int(np.partition(numbers, len(numbers) - ceiling // 2 - 1)[len(numbers) - ceiling // 2 - 1])
        self.words = {word: found for word, found in self.words.items() if found[0] > level}
        self.undercount += level


def count(texts: Iterable[str], backend: Any, block: int, ceiling: int) -> Counts:
    """Count the words of texts.

    Args:
        texts: read once.
        backend: a `tokenizers.Tokenizer` whose normaliser and pre-tokeniser say what a word is.
        block: bytes of text at once.
        ceiling: different words that are kept at most, between blocks.

    Raises:
        InputError: an item is not a text.
    """
    found = Counts()
    for batch in _batches(texts, block):
        made = split(batch)
        foreign = [_words(piece, backend) for piece in made.foreign]
        short, long = _sorted_out(made, foreign)
        for word, number, having in _short(made, short):
            found.add(word, number, having)
        for word, number, having in _long(long):
            found.add(word, number, having)
        found.texts += len(batch)
        found.tokens += len(made.starts) + sum(map(len, foreign))
        found.shrink(ceiling)
        tell("count words", found.texts, None, "texts")
    return found


def _batches(texts: Iterable[str], size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    total = 0
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {at} is a {type(text).__name__}, not a string", "give strings")
        batch.append(text.encode("utf-8", "replace"))
        total += len(batch[-1])
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


_Word = tuple[int, bytes]
"""(text, word)."""


def _sorted_out(block: Block, foreign: list[list[str]]) -> tuple[list[_Word], list[_Word]]:
    """The words that `_short` does not find by itself: the short ASCII ones of foreign pieces; and all others."""
    short: list[_Word] = []
    long: list[_Word] = []
    for text, words in zip(block.text_of(block.pieces).tolist(), foreign, strict=True):
        for word in words:
            raw = word.encode()
            (short if len(raw) <= WIDE and word.isascii() else long).append((text, raw))
    places = np.flatnonzero(block.lengths > WIDE)
    texts = block.text_of(block.starts[places]).tolist()
    long += [(text, block.word(place)) for text, place in zip(texts, places.tolist(), strict=True)]
    return short, long


def _short(block: Block, others: list[_Word]) -> Iterator[tuple[str, int, int]]:
    """(word, occurrences, texts) of the ASCII words that fit into a key; `others` are such words of foreign pieces."""
    places = np.flatnonzero(block.lengths <= WIDE)
    raw = np.array([word for _, word in others], f"S{WIDE}").view("<u8").reshape(-1, 2)
    low, high = (np.concatenate([key[places], raw[:, at]]) for at, key in enumerate(keys_of(block)))
    texts = np.concatenate([block.text_of(block.starts[places]), np.array([text for text, _ in others], np.int64)])
    if not len(texts):
        return
    order = np.lexsort((texts, low, high))  # equal words side by side, in the order of the texts
    low, high, texts = low[order], high[order], texts[order]
    new = np.concatenate([[True], (low[1:] != low[:-1]) | (high[1:] != high[:-1])])
    firsts = np.flatnonzero(new)
    numbers = np.diff(np.append(firsts, len(order)))
    having = np.add.reduceat(new | np.concatenate([[True], texts[1:] != texts[:-1]]), firsts, dtype=np.int64)
    words = np.stack([low[firsts], high[firsts]], 1).astype("<u8").view(f"S{WIDE}").ravel().tolist()
    for word, number, texts_ in zip(words, numbers.tolist(), having.tolist(), strict=True):
        yield word.decode(), number, texts_


def _long(words: list[_Word]) -> Iterator[tuple[str, int, int]]:
    """(word, occurrences, texts) of all others, but for the endless ones."""
    kept = [(text, word) for text, word in words if len(word) <= _LONGEST]
    texts = Counter(word for _, word in set(kept))
    for word, number in Counter(word for _, word in kept).items():
        yield word.decode(), number, texts[word]


def _words(piece: str, backend: Any) -> list[str]:
    normal = backend.normalizer.normalize_str(piece)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
