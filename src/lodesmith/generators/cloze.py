"""Gaps as questions: a generator without a model that blanks a name or a number in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Generated, Prompt

__all__ = ["GAP", "Cloze"]

GAP = "_____"
"""What stands for the answer in a question."""

_UNIT = (
    r"percent|per cent|million|billion|thousand|years?|months?|weeks?|days?|hours?|minutes?|patients?|"
    r"kg|km|mg|ml|mm|cm|nm|Hz|°C"
)
_NUMBER = re.compile(rf"(?<![\w.,–-])(?:[$€£]\s?)?\d+(?:[.,]\d+)*(?:\s?%|\s(?:{_UNIT})\b)?(?![\w–-]|[.,]\d)")
_NAME = re.compile(r"\b[A-Z][\w’'-]*\w(?:(?:\s(?:of|de|van|von|and)(?=\s[A-Z]))?\s[A-Z][\w’'-]*\w)*\b")
_CODE = re.compile(r"\b(?=\w*[A-Z]\w*[A-Z0-9]|\w*[0-9]\w*[A-Z])[A-Za-z][\w-]*\w\b")
_SHOUTED = re.compile(r"\b[A-Z]{3,}\s\Z")  # before a span; and after one:
_SHOUTING = re.compile(r"\s[A-Z]{3,}\b")
_REFERS = re.compile(r"^(?:this|these|that|those|it|its|they|their|he|she|his|her|such)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Gap:
    sentence: str
    start: int
    end: int

    @property
    def answer(self) -> str:
        return self.sentence[self.start : self.end]

    @property
    def question(self) -> str:
        return f"{self.sentence[: self.start]}{GAP}{self.sentence[self.end :]}"


class Cloze:
    """Reads a prompt as a document, and answers with sentences of it in which one span is blanked.

    The question is the document's own sentence but for the gap: it tests whether a document can be found or a fact
    be kept, not whether a question in other words is understood. Spans are found by their spelling (capitals inside
    a sentence, mixed or upper-case codes, numbers with their unit), so names at a sentence's beginning and texts in
    lower case or in scripts without capitals give numbers only.

    Args:
        sentences: splits a text into its sentences.
        most: questions a document.
        least_words: words of a sentence, at least.
        most_words: words of a sentence, at most.
    """

    def __init__(
        self,
        sentences: Callable[[str], Sequence[str]],
        *,
        most: int = 3,
        least_words: int = 8,
        most_words: int = 40,
    ) -> None:
        if most < 1 or not 1 <= least_words <= most_words:
            raise ConfigError(f"{most} questions of {least_words} to {most_words} words cannot be made")
        self.sentences, self.most, self.least_words, self.most_words = sentences, most, least_words, most_words

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings."""
        return fingerprint({"cloze": 1, "most": self.most, "words": [self.least_words, self.most_words]})

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()
    ) -> list[Generated]:
        """JSON lines with `question` and `answer` for each document; empty where no sentence has a span.

        Args:
            prompts: the documents; of messages it is the last that counts.
            max_new_tokens: not used: `most` and `most_words` bound an answer.
            stop: not used.
        """
        return [Generated(self._lines(p if isinstance(p, str) else p[-1]["content"])) for p in prompts]

    def _lines(self, text: str) -> str:
        gaps: list[_Gap] = []
        answers: set[str] = set()
        for sentence in self.sentences(" ".join(text.split())):
            if self.least_words <= len(sentence.split()) <= self.most_words and not _REFERS.match(sentence):
                gap = next((gap for gap in _gaps(sentence) if gap.answer.lower() not in answers), None)
                if gap:
                    gaps.append(gap)
                    answers.add(gap.answer.lower())
        rows = [{"question": gap.question, "answer": gap.answer} for gap in _spread(gaps, self.most)]
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def _gaps(sentence: str) -> list[_Gap]:
    """The spans of a sentence that can be asked for, the most telling kind first: codes, names, numbers.

    Left out are spans at the beginning, since any word has a capital there; names of several words all in capitals,
    and spans beside such a word, which are headings for the most part; and what occurs twice: the other would give
    the answer away.
    """
    found = []
    for kind in (_CODE, _NAME, _NUMBER):
        for match in kind.finditer(sentence):
            answer = match.group().strip()
            beside = _SHOUTED.search(sentence[: match.start()]) or _SHOUTING.match(sentence, match.end())
            heading = beside or (kind is _NAME and " " in answer and answer.isupper())
            if match.start() > 0 and not heading and sentence.lower().count(answer.lower()) == 1:
                found.append(_Gap(sentence, match.start(), match.start() + len(answer)))
    return found


def _spread(gaps: Sequence[_Gap], most: int) -> list[_Gap]:
    """At most `most` of them, evenly over the document."""
    if len(gaps) <= most:
        return list(gaps)
    return [gaps[(2 * i + 1) * len(gaps) // (2 * most)] for i in range(most)]
