"""How rare a query's words are among documents: counts that cost no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Rarity", "words"]

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The runs of letters and digits in a text, in lower case."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Rarity:
    """In how many documents each word stands.

    Args:
        documents: n.
        counts: word → number of documents that have it.
    """

    documents: int
    counts: Mapping[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Rarity:
        """Count the words of documents."""
        counts: Counter[str] = Counter()
        total = 0
        for text in texts:
            counts.update(set(words(text)))
            total += 1
        return cls(total, counts)

    def idf(self, word: str) -> float:
        """ln(1 + (n − df + ½) / (df + ½)), as BM25 weighs words (Robertson and Zaragoza 2009); df is 0 if unknown."""
        count = self.counts.get(word, 0)
        return math.log(1 + (self.documents - count + 0.5) / (count + 0.5))

    def rarest(self, text: str) -> float:
        """The largest idf of the words of a text; 0 where there are none."""
        return max(map(self.idf, words(text)), default=0.0)
