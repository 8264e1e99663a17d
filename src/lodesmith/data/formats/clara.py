"""CLaRa's JSONL: questions, or paraphrases, over documents that stand in the row (arXiv 2511.18659)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lodesmith.core.lines import LineError, shorten
from lodesmith.core.records import Query
from lodesmith.data.formats._source import (
    Cell,
    Fields,
    Head,
    Judgement,
    Record,
    Source,
    by_text,
    first,
    key,
    texts,
)

__all__ = ["Clara"]

_DOCUMENTS = ("docs", "context", "content")
_ANSWERS = ("answers", "answer", "golden_answers", "gold_answers", "golden_answer", "gold_answer")


class Clara:
    """Documents are de-duplicated by text; each question becomes a query with its answers.

    Of a row with one document that document is relevant; of a row with several, those at `pos_index` are, the others
    become `negatives`, and the whole pool, in its order, `candidates` (`ids`, `kind`). Rows with one document
    also go into the column `questions` of that document (`question`, `answers`, `kind`), where paraphrases, which ask
    nothing, go alone. `kind` is the row's `data_type`.
    """

    split = "train"

    def fits(self, head: Head) -> bool:
        pool = head.any(_DOCUMENTS)
        if not pool or not head.any(_ANSWERS):
            return False
        value = head.row[pool]
        listed = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
        return listed or (isinstance(value, str) and "data_type" in head.row)

    def records(self, source: Source) -> Iterator[Record]:
        self._source = source
        yield from source.each(self._row)

    def _row(self, row: Fields, line: int) -> Iterator[Record]:
        bodies = _bodies(row)
        documents = [by_text(body) for body in bodies]
        relevant = [documents[i].id for i in _positions(row, len(documents))]
        ids = list(dict.fromkeys(document.id for document in documents))
        kind = row.get("data_type")
        kind = kind if isinstance(kind, str) and kind else "qa"
        asked = _asked(row, kind)
        yield from documents
        if len(ids) == 1:
            for question, answers in asked:
                yield Cell(
                    "questions", "document", ids[0], {"question": question, "answers": list(answers), "kind": kind}
                )
            relevant = ids
        for number, (question, answers) in enumerate(asked, start=1):
            if question:
                name = self._name(row, line, number if len(asked) > 1 else 0)
                yield Query(name, question, tuple(answers))
                yield from self._judged(name, ids, relevant, kind)
            elif len(ids) > 1:
                self._source.leave_out("rows of several documents without a question")

    def _name(self, row: Fields, line: int, number: int) -> str:
        name = key(row, "_id", "id", "qid") or f"{self._source.stem}:{line}"
        return f"{name}.{number}" if number else name

    def _judged(self, name: str, ids: Sequence[str], relevant: Sequence[str], kind: str) -> Iterator[Record]:
        for document in dict.fromkeys(relevant):
            yield Judgement(name, document)
        if len(ids) > 1:
            yield Cell("candidates", "query", name, {"ids": list(ids), "kind": kind})
            others = [document for document in ids if document not in relevant]
            if relevant and others:
                yield Cell("negatives", "query", name, {"ids": others})


def _bodies(row: Fields) -> list[str]:
    """The documents in their order, repeats among them: `pos_index` counts them all."""
    value = first(row, _DOCUMENTS)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise LineError("bad-field", f"'docs' must be texts, not {shorten(value)}")
    return [item.strip() for item in value]


def _positions(row: Fields, size: int) -> list[int]:
    value = row.get("pos_index")
    value = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and 0 <= i < size for i in value):
        raise LineError("bad-field", f"'pos_index' must hold positions below {size}, not {shorten(value)}")
    return value


def _asked(row: Fields, kind: str) -> list[tuple[str, list[str]]]:
    """Question and answers of a row; a paraphrase has the question ''."""
    value = row.get("question")
    if kind == "paraphrase" or value is None or value == "":
        answers = texts(row, *_ANSWERS)
        if not answers:
            raise LineError("bad-field", "a row without a question must have an answer: the paraphrase")
        return [("", [answer]) for answer in answers]
    if isinstance(value, str):
        return [(_question(value), texts(row, *_ANSWERS))]
    answers_of = first(row, _ANSWERS)
    if not isinstance(value, list) or not isinstance(answers_of, list) or len(value) != len(answers_of):
        size = len(answers_of) if isinstance(answers_of, list) else 1
        counted = len(value) if isinstance(value, list) else 0
        raise LineError("bad-field", f"{counted} questions have {size} answers: they must be as many")
    return [(_question(q), texts({"answers": a}, "answers")) for q, a in zip(value, answers_of, strict=True)]


def _question(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LineError("empty-query", f"a question must be a string with text, not {shorten(value)}")
    return value.strip()
