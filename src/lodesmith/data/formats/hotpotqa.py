"""HotpotQA (and 2WikiMultihopQA, which has its layout): questions over several paragraphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lodesmith.core.lines import LineError, shorten
from lodesmith.core.records import Document, Query
from lodesmith.data.formats._source import Cell, Fields, Head, Judgement, Record, Source, by_text, key, text, texts

__all__ = ["HotpotQA"]


class HotpotQA:
    """Paragraphs become documents; those with supporting facts are relevant, the distractors are `negatives`.

    Questions without supporting facts (the hidden test set) become queries without judgements. Yang et al., EMNLP 2018.
    """

    split = "all"

    def fits(self, head: Head) -> bool:
        return head.has("question", "context") and isinstance(head.row["context"], list | dict) and _is_pairs(head.row)

    def records(self, source: Source) -> Iterator[Record]:
        self._source = source
        yield from source.each(self._row)

    def _row(self, row: Fields, line: int) -> Iterator[Record]:
        name = key(row, "_id", "id") or f"{self._source.stem}:{line}"
        query = Query(name, text(row, "question"), tuple(texts(row, "answer", "answers")))
        documents = dict(_paragraphs(row["context"]))
        titles = {title for title, _ in _pairs(row.get("supporting_facts") or [], "sent_id") if _is_title(title)}
        if lost := sorted(titles - documents.keys()):
            raise LineError("unknown-document", f"the supporting fact {shorten(lost[0])} is in no paragraph")
        yield from documents.values()
        yield query
        yield from (Judgement(name, document.id) for title, document in documents.items() if title in titles)
        others = [document.id for title, document in documents.items() if title not in titles]
        if titles and others:
            yield Cell("negatives", "query", name, {"ids": others})


def _is_pairs(row: Fields) -> bool:
    """Whether paragraphs are `[title, [sentence, …]]`, or columns of titles and sentences."""
    try:
        return bool(list(_paragraphs(row["context"])))
    except LineError:
        return False


def _paragraphs(value: Any) -> Iterator[tuple[str, Document]]:
    for title, sentences in _pairs(value, "sentences"):
        if not _is_title(title) or not isinstance(sentences, list):
            raise LineError("bad-field", f"a paragraph must have a list of sentences, not {shorten(sentences)}")
        body = "".join(s if s[:1] == " " else f" {s}" for s in sentences if isinstance(s, str))
        if body.strip():
            yield title, by_text(" ".join(body.split()), title.strip())


def _pairs(value: Any, second: str) -> Iterator[tuple[Any, Any]]:
    """Title and what belongs to it, from a list of pairs or from two columns."""
    if isinstance(value, dict):
        columns = value.get("title") or [], value.get(second) or []
        if not all(isinstance(column, list) for column in columns):
            raise LineError("bad-field", f"expected lists of titles and of {second!r}, found {shorten(value)}")
        value = [list(pair) for pair in zip(*columns, strict=False)]
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise LineError("bad-field", f"expected pairs of a title and {second!r}, found {shorten(value)}")
    yield from value


def _is_title(value: object) -> bool:
    """True.

    Raises:
        LineError: it is no string.
    """
    if not isinstance(value, str):
        raise LineError("bad-field", f"a title must be a string, not {shorten(value)}")
    return True
