"""What given words cover of a corpus."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from lodesmith.encoders._words import UNKNOWN, Vocabulary

__all__ = ["coverage"]

_MOST = 10


def coverage(vocabulary: Vocabulary, known: Container[str]) -> dict[str, Any]:
    """What `known` words cover of the words of a vocabulary.

    Args:
        vocabulary: of the texts in question; build it with `min_count=1` and without a limit to count every word.
        known: the words that have vectors.

    Returns:
        `types` and `tokens` of the vocabulary, the shares of both that are known (1.0 of nothing), and `missing`: the
        ten most frequent words that are not, with their counts.
    """
    words, counts = vocabulary.words[UNKNOWN + 1 :], vocabulary.counts[UNKNOWN + 1 :].tolist()
    missing = {word: count for word, count in zip(words, counts, strict=True) if word not in known}
    types, tokens = len(words), sum(counts)
    return {
        "types": types,
        "types_known": 1 - len(missing) / max(1, types),
        "tokens": tokens,
        "tokens_known": 1 - sum(missing.values()) / max(1, tokens),
        "missing": dict(list(missing.items())[:_MOST]),
    }
