"""Questions with their passages in place: DPR's biencoder JSON (positive_ctxs …) and Tevatron's JSONL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lodesmith.core.records import Document, Query
from lodesmith.data.formats._source import (
    Cell,
    Fields,
    Head,
    Judgement,
    Record,
    Source,
    by_text,
    key,
    objects,
    text,
    texts,
)

__all__ = ["Dpr"]

_POSITIVE = ("positive_ctxs", "positive_passages")
_HARD = ("hard_negative_ctxs", "negative_passages")
_OTHER = ("negative_ctxs",)


class Dpr:
    """Passages become documents under their own ids; hard negatives come first in the column `negatives`.

    A question without a positive passage is left out and counted. Karpukhin et al., arXiv 2004.04906.
    """

    split = "train"

    def fits(self, head: Head) -> bool:
        return bool(head.any(_POSITIVE)) and bool(head.any(("question", "query")))

    def records(self, source: Source) -> Iterator[Record]:
        self._source = source
        yield from source.each(self._row)

    def _row(self, row: Fields, line: int) -> Iterator[Record]:
        name = key(row, "query_id", "qid", "id", "_id") or f"{self._source.stem}:{line}"
        query = Query(name, text(row, "question", "query"), tuple(texts(row, "answers")))
        positive = _passages(row, *_POSITIVE)
        if not positive:
            self._source.leave_out("questions without a positive passage")
            return
        negative = {k: d for k, d in (_passages(row, *_HARD) | _passages(row, *_OTHER)).items() if k not in positive}
        yield from positive.values()
        yield from negative.values()
        yield query
        for document in positive:
            yield Judgement(name, document)
        if negative:
            yield Cell("negatives", "query", name, {"ids": list(negative)})


def _passages(row: Fields, *names: str) -> dict[str, Document]:
    found = (_passage(item) for item in objects(row, *names))
    return {document.id: document for document in found}


def _passage(item: dict[str, Any]) -> Document:
    title = item["title"].strip() if isinstance(item.get("title"), str) else ""
    document = by_text(text(item, "text"), title)
    name = key(item, "passage_id", "psg_id", "docid", "doc_id", "id")
    return Document(name, document.title, document.text) if name else document
