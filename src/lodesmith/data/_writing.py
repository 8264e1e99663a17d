"""What is asked of any generated text: that it is whole, no refusal, not stuck in a loop, not copied."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache

__all__ = ["clean", "contains", "excerpt", "is_refusal", "normalised", "repetition", "runs", "whole", "words"]

_WORD = re.compile(
    r"(?<!\d[.,])(?:\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d{3})+(?:,\d+)?|\d+[.,]\d+)(?![.,]?\d)|"  # 3.5 and 1,912 are one
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_ARTICLES = frozenset({"a", "an", "the"})
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_LABEL = re.compile(
    r"^\W*(?:reasoning|trace|thoughts?|answer|paraphrase|rewritten passage|passage|output)\W*:\W*\s", re.IGNORECASE
)
_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|\Z)|[。！？]")
_REFUSAL = re.compile(
    r"^\W*(?:(?:i am|i'm|i’m)\s+(?:very\s+)?sorry\b|(?:sorry|unfortunately),?\s+(?:but\s+)?i\b|"
    r"as an? (?:ai|artificial|large language)\b|i (?:can ?not|can't|can’t|am unable to|won't)\b)",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """The words of a text in lower case; each Chinese character and kana is one, and so is a number with its point."""
    return _WORD.findall(text.lower())


def excerpt(text: str, most: int) -> str:
    """The first `most` words of a text, at most ten characters a word, with its line ends as they are."""
    if len(text) <= most:
        return text
    for count, match in enumerate(_WORD.finditer(text), start=1):
        if count > most:
            text = text[: match.start()]
            break
    return text[: 10 * most].rstrip()


def clean(text: str) -> str:
    """A text without what chat models put around it: thinking aloud, code fences, a label, quotation marks."""
    text = _LABEL.sub("", _FENCE.sub("", _THINKING.sub("", text)).strip()).strip()
    for left, right in (('"', '"'), ("“", "”"), ("«", "»")):
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in text[1:-1]:
            text = text[1:-1].strip()
    return text


def whole(text: str) -> str:
    """A text that was cut, up to the end of its last whole sentence; empty where there is none."""
    ends = [match.end() for match in _END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def is_refusal(text: str) -> bool:
    """Whether a text begins as a model's excuse; English only."""
    return bool(_REFUSAL.match(text))


def repetition(found: Sequence[str]) -> float:
    """How much of a text repeats itself, from 0 to 1: the share of word trigrams that stood there before, or, in a
    text of fewer than ten trigrams, of words (after the rules of Rae et al., "Scaling language models", 2021, A1)."""
    grams = list(zip(found, found[1:], found[2:], strict=False))
    units: Sequence[object] = grams if len(grams) >= 10 else found
    return 1 - len(set(units)) / len(units) if units else 0.0


def runs(found: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    """The runs of `length` consecutive words, with how often they occur; twice as long where a word is a character."""
    if sum(bool(_WIDE.match(word)) for word in found) > len(found) / 2:
        length *= 2
    return Counter(tuple(found[i : i + length]) for i in range(len(found) - length + 1))


@lru_cache(maxsize=64)  # a document is compared with each of its questions
def normalised(text: str) -> str:
    """Words without case, punctuation and English articles, between spaces, as answers are compared (SQuAD)."""
    return f" {' '.join(word for word in words(text) if word not in _ARTICLES)} "


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text`, one after another; of normalised texts."""
    return bool(part.strip()) and part in text


def numbers(text: str) -> Collection[str]:
    """The numbers of a text, without grouping commas."""
    return {match.replace(",", "") for match in re.findall(r"\d+(?:[.,]\d+)*", text)}
