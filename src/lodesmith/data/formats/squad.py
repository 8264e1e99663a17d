"""SQuAD 1 and 2: articles of paragraphs with questions, as JSON; or one question a row, as on hubs."""

from __future__ import annotations

from collections.abc import Iterator

from lodesmith.core.lines import LineError, shorten
from lodesmith.core.records import Document, Query
from lodesmith.data.formats._source import (
    Fields,
    Head,
    Judgement,
    Record,
    Source,
    by_text,
    key,
    objects,
    source_name,
    text,
    texts,
)

__all__ = ["Squad"]


class Squad:
    """Paragraphs become documents `Article#n` with the article as title, questions become queries with answers.

    Questions that have no answer (SQuAD 2) are left out and counted. Rajpurkar et al., arXiv 1606.05250, 1806.03822.
    """

    split = "all"

    def fits(self, head: Head) -> bool:
        return head.has("paragraphs") or (head.has("context", "question", "answers") and _is_flat(head.row))

    def records(self, source: Source) -> Iterator[Record]:
        self._source = source
        self._titles: dict[str, int] = {}  # article → its paragraphs so far; an article may come in parts
        yield from source.each(self._row)

    def _row(self, row: Fields, line: int) -> Iterator[Record]:
        if "paragraphs" not in row:
            title = row.get("title")
            document = by_text(text(row, "context"), _title(title) if isinstance(title, str) else "")
            yield document
            yield from self._question(row, document)
            return
        title = text(row, "title") if row.get("title") else f"{self._source.stem}:{line}"
        name = source_name(title)
        for paragraph in objects(row, "paragraphs"):
            self._titles[name] = self._titles.get(name, 0) + 1
            document = Document(f"{name}#{self._titles[name]}", _title(title), text(paragraph, "context"))
            yield document
            for question in objects(paragraph, "qas"):
                yield from self._question(question, document)

    def _question(self, row: Fields, document: Document) -> Iterator[Record]:
        answers = _answers(row)
        if row.get("is_impossible") or not answers:
            self._source.leave_out("questions without an answer")
            return
        name = key(row, "id", "qid", "_id")
        if not name:
            raise LineError("missing-id", f"the question {shorten(row.get('question'))} has no 'id'")
        yield Query(name, text(row, "question"), tuple(answers))
        yield Judgement(name, document.id)


def _is_flat(row: Fields) -> bool:
    return isinstance(row["context"], str) and isinstance(row["answers"], dict | list) and "data_type" not in row


def _answers(row: Fields) -> list[str]:
    """`[{"text": …}, …]`, `{"text": […], …}` as in columnar files, or strings."""
    answers = row.get("answers")
    if isinstance(answers, dict):
        return texts(answers, "text")
    if isinstance(answers, list) and answers and isinstance(answers[0], str):
        return texts(row, "answers")
    return texts({"text": [answer.get("text") for answer in objects(row, "answers")]}, "text")


def _title(title: str) -> str:
    return title.replace("_", " ").strip()
