"""What the tokens of a query spell of it, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["query_words"]

_LOST = "\ufffd"
"""In what is a part of a character's bytes."""


def query_words(tokenizer: Any, labels: Sequence[str], prompt: Sequence[str]) -> list[str]:
    """Of each token what it spells of the query, in small letters and without the tokenizer's marks of where a word
    begins or goes on; "" for tokens of the prompt, special ones, and those that spell nothing.

    Args:
        tokenizer: of transformers.
        labels: the query's tokens, as the tokenizer spells them.
        prompt: those of an empty query: what all queries have before and behind.
    """
    special = set(tokenizer.all_special_tokens)
    first = _shared(labels, prompt)
    last = len(labels) - _shared(labels[first:][::-1], prompt[first:][::-1])
    return [
        _plain(tokenizer, label) if first <= at < last and label not in special else ""
        for at, label in enumerate(labels)
    ]


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """With how many equal tokens both begin."""
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def _plain(tokenizer: Any, label: str) -> str:
    text = str(tokenizer.convert_tokens_to_string([label])).strip("Ġ▁ \t\n")
    whole = text.removeprefix("##") or text
    return "" if _LOST in whole else whole.casefold()
