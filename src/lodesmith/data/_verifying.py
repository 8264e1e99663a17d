"""Whether a language model answers a question as it was answered, when it is asked again with the document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lodesmith.core.protocols import Generator
from lodesmith.core.records import Document
from lodesmith.data._asking import QuestionRules
from lodesmith.data._writing import clean, is_refusal, normalised
from lodesmith.data.prompting import PromptFile, shipped

__all__ = ["Verifier"]

TOKENS = 64
"""Of a reply."""
LONGER = 8
"""Words that a reply may have beside those of the answer."""
DENIALS = frozenset({"unknown", "not", "no", "never", "neither", "nor", "without"})
"""Words that turn an answer round; `unknown` is what the prompt asks for where the document does not say it."""


class Verifier:
    """Asks a language model each question again, with its document, after the round-trip consistency of Alberti et al.
    (2019, arXiv 1906.05416), who want the very same answer. Models that talk are wanted less: a reply agrees where it
    is at most eight words longer than the answer and has its words, one after another, or where the answer has those of
    the reply, which are half as many at least; of a `complex` question most of them, in any order. A reply that
    excuses itself, or denies where the answer does not, or the other way round, agrees with nothing (English only).

    Args:
        generator: who answers; it may be the one that wrote the questions.
        prompt: what it is asked, with the placeholders `text` and `question`, and `title` where it is wanted.
    """

    def __init__(self, generator: Generator, prompt: PromptFile | None = None) -> None:
        self.generator = generator
        self.prompt = prompt or PromptFile.load(shipped("answer"), ("title", "text", "question"), ("text", "question"))

    @property
    def made_by(self) -> dict[str, Any]:
        """Everything that decides what is rejected, as JSON."""
        own = {"tokens": TOKENS, "longer": LONGER, "denials": sorted(DENIALS)}
        return {"generator": self.generator.fingerprint, "prompt": self.prompt.text, **own}

    def agrees(
        self, asked: Sequence[tuple[Document, str, str, str, Sequence[str]]], rules: QuestionRules
    ) -> list[bool]:
        """Whether each question is answered as it was.

        Args:
            asked: a document, as much of its text as is shown, a question, its kind, and its answers.
            rules: how much of a `complex` answer must be there.
        """
        prompts = [
            self.prompt.fill({"title": document.title, "text": shown, "question": question})
            for document, shown, question, _, _ in asked
        ]
        replies = self.generator.generate(prompts, max_new_tokens=TOKENS) if prompts else []
        return [
            any(_alike(answer, clean(str(reply)), kind, rules) for answer in answers)
            for reply, (_, _, _, kind, answers) in zip(replies, asked, strict=True)
        ]


def _alike(answer: str, reply: str, kind: str, rules: QuestionRules) -> bool:
    told, own = normalised(reply), normalised(answer)
    length, wanted = len(told.split()), len(own.split())
    if told == own:
        return bool(wanted)
    if length > wanted + LONGER or is_refusal(reply) or DENIALS & {*told.split()} != DENIALS & {*own.split()}:
        return False
    if told.split()[:1] == ["unknown"]:
        return False
    return rules.supported(answer, kind, told) or (2 * length >= wanted and rules.supported(reply, kind, own))
