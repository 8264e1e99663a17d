"""Long texts: clip what cannot matter before it is tokenised, or split into overlapping passages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError

__all__ = ["Passages", "clip", "split"]

_BLOCK = 200_000
"""Characters tokenised at once while a text is split."""


@dataclass(frozen=True)
class Passages:
    """Split long documents into overlapping passages; the best passage is the document's score.

    Args:
        tokens: length of a passage, without special tokens and prompt.
        overlap: tokens that neighbours share.

    Raises:
        ConfigError: the overlap is not smaller than the length.
    """

    tokens: int = 256
    overlap: int = 64

    def __post_init__(self) -> None:
        if self.tokens < 2 or not 0 <= self.overlap < self.tokens:
            raise ConfigError(
                f"passages of {self.tokens} tokens cannot overlap by {self.overlap}",
                "tokens must be at least 2, and overlap from 0 to tokens - 1",
            )


def clip(text: str, limit: int, tokenizer: Any) -> str:
    """A beginning of `text` whose first `limit` tokens are those of the whole text.

    Tokenising ten megabytes to keep 256 tokens is a waste. A beginning is enough when `limit` tokens come before its
    last word: only that word can be changed by the cut.

    Args:
        text: prompt included.
        limit: tokens that the model reads.
        tokenizer: the fast tokenizer, without truncation.
    """
    size = 16 * limit
    while size < len(text):
        encoding = tokenizer.encode(text[:size])
        words = [word for word in encoding.word_ids if word is not None]
        if words and encoding.word_ids.index(words[-1]) >= limit:
            return text[:size]
        size *= 4
    return text


def split(text: str, passages: Passages, tokenizer: Any) -> list[str]:
    """Cut a text into passages of at most `passages.tokens` tokens, at word boundaries where words are shorter.

    Args:
        text: without prompt.
        passages: length and overlap.
        tokenizer: the fast tokenizer, without truncation.

    Returns:
        At least one passage: slices of the text in order, which together hold all of its tokens.
    """
    starts, ends, opens = _tokens(text, tokenizer)
    if len(starts) <= passages.tokens:
        return [text]
    return [text[starts[first] : ends[last - 1]] for first, last in _windows(opens, passages)]


def _tokens(text: str, tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """First and last character of each token, and whether it opens a word; the text is read block by block."""
    if not text:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    starts, ends, opens = [], [], []
    for begin, block in _blocks(text):
        encoding = tokenizer.encode(block, add_special_tokens=False)
        spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2) + begin
        words = np.asarray([-1 if word is None else word for word in encoding.word_ids], np.int64)
        starts.append(spans[:, 0])
        ends.append(spans[:, 1])
        opens.append(np.diff(words, prepend=-2) != 0)
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(opens)


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    begin = 0
    while begin < len(text):
        end = begin + _BLOCK
        if end < len(text) and (space := text.rfind(" ", begin + _BLOCK // 2, end)) > 0:
            end = space
        yield begin, text[begin:end]
        begin = end


def _windows(opens: NDArray[np.bool_], passages: Passages) -> Iterator[tuple[int, int]]:
    """(first, one past last) token of each passage."""
    total, first = len(opens), 0
    while True:
        last = min(first + passages.tokens, total)
        if last < total:
            last = _word_start(opens, last, first + passages.tokens // 2)
        yield first, last
        if last == total:
            return
        first = max(_word_start(opens, last - passages.overlap, first + 1), first + 1)


def _word_start(opens: NDArray[np.bool_], at: int, lowest: int) -> int:
    """The nearest token at or before `at` that opens a word, or `at` itself where there is none down to `lowest`."""
    for position in range(at, lowest - 1, -1):
        if opens[position]:
            return position
    return at
