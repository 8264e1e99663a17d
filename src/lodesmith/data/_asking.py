"""What makes a question, or a paraphrase, fit for use: each rule has a name, under which rejects are counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lodesmith.data._answers import Pair
from lodesmith.data._writing import clean, contains, is_refusal, normalised, numbers, repetition, runs, whole, words
from lodesmith.data.language import same_language

__all__ = ["QuestionRules"]

_GAP = re.compile(r"_{3,}")
_ENDS = ("?", "？", "؟")
_REFERS = re.compile(
    r"\b(?:the|this)\s+(?:passage|text|document|article|paragraph|excerpt|author|authors|study|paper)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class QuestionRules:
    """Bounds of questions, answers and paraphrases.

    Args:
        question_words: least and most words of a question (`too-short`, `too-long`).
        answer_words: the most words of an answer (`long-answer`).
        support: share of the words of a complex question's answer that must stand in the document.
        length_ratio: least and most words of a paraphrase for a word of the document.
        copied: the most share of a paraphrase's runs of eight words that may stand in the document (`copied`).
        kept: the least share of a paraphrase's words of five letters and more that stand in the document, so that it
            speaks of the same (`unrelated`).
        repetition: the most share of a paraphrase that may repeat itself (`repetitive`).
    """

    question_words: tuple[int, int] = (3, 60)
    answer_words: int = 40
    support: float = 0.8
    length_ratio: tuple[float, float] = (0.4, 2.0)
    copied: float = 0.5
    kept: float = 0.3
    repetition: float = 0.3

    def question(self, pair: Pair, kind: str, document: str) -> str:
        """Why a pair is rejected; empty where it is kept.

        Args:
            pair: the question and its answers.
            kind: `simple` answers stand in the document word for word (case, punctuation and articles aside);
                of `complex` ones most words do; a `cloze` is a sentence with a gap.
            document: what it was made from.
        """
        source, asked = normalised(document), normalised(pair.question)
        count = len(words(pair.question))
        checks: dict[str, Callable[[], bool]] = {
            "no-answer": lambda: not pair.answers or not all(normalised(answer).strip() for answer in pair.answers),
            "too-short": lambda: count < self.question_words[0],
            "too-long": lambda: count > self.question_words[1],
            "long-answer": lambda: any(len(words(answer)) > self.answer_words for answer in pair.answers),
            "not-a-question": lambda: not _asks(pair.question, kind),
            "copied-sentence": lambda: kind != "cloze" and contains(source, asked),
            "refers-to-passage": lambda: kind != "cloze" and bool(_REFERS.search(pair.question)),
            "answer-in-question": lambda: any(contains(asked, normalised(answer)) for answer in pair.answers),
            "answer-not-in-document": lambda: not all(self.supported(a, kind, source) for a in pair.answers),
            "other-language": lambda: not same_language(pair.question, document),
        }
        return next((reason for reason, holds in checks.items() if holds()), "")

    def supported(self, answer: str, kind: str, source: str) -> bool:
        """Whether an answer stands in a normalised text, or, of a complex question, most of its words do."""
        part = normalised(answer)
        if contains(source, part):
            return True
        known = set(source.split())
        return kind == "complex" and _share(part.split(), known) >= self.support

    def paraphrase(self, text: str, document: str) -> tuple[str, str]:
        """A generated text as a paraphrase, and why it is rejected (empty where it is kept)."""
        cut = not getattr(text, "finished", True)
        cleaned = clean(text)
        told = whole(cleaned) if cut else cleaned
        found, source = words(told), words(document)
        ratio = len(found) / max(1, len(source))
        own, known = runs(found, 8), runs(source, 8)
        checks: dict[str, Callable[[], bool]] = {
            "empty": lambda: not words(cleaned),
            "cut-off": lambda: not told,
            "refusal": lambda: is_refusal(told),
            "too-short": lambda: ratio < self.length_ratio[0],
            "too-long": lambda: ratio > self.length_ratio[1],
            "repetitive": lambda: repetition(found) > self.repetition,
            "copied": lambda: found == source or _share(list(own), set(known)) > self.copied,
            "invented-number": lambda: not set(numbers(told)) <= set(numbers(document)),
            "other-language": lambda: not same_language(told, document),
            "unrelated": lambda: _share([w for w in found if len(w) >= 5], set(source), empty=1.0) < self.kept,
        }
        return told, next((reason for reason, holds in checks.items() if holds()), "")


def _asks(question: str, kind: str) -> bool:
    return len(_GAP.findall(question)) == 1 if kind == "cloze" else question.rstrip("\"”’ '").endswith(_ENDS)


def _share(items: Sequence[object], known: set[str] | set[tuple[str, ...]], empty: float = 0.0) -> float:
    """The share of the items that are known."""
    return sum(item in known for item in items) / len(items) if items else empty
