"""Texts to contrast: a query, its positive and its negative texts, perhaps with a teacher's scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lodesmith.core.lines import LineError, shorten
from lodesmith.core.records import Query
from lodesmith.data.formats._source import Cell, Fields, Head, Judgement, Record, Source, by_text, key, text, texts

__all__ = ["Contrast"]

_QUERY = ("query", "anchor", "question")
_POSITIVE = ("pos", "positive", "positives")
_NEGATIVE = ("neg", "negative", "negatives")


class Contrast:
    """`{"query", "pos": […], "neg": […]}` and the names that training libraries give to the same.

    Texts are de-duplicated; `pos_scores` and `neg_scores` become the column `teacher_scores`, and the scores of
    `negatives`. A negative with the text of a positive is left out and counted.
    """

    split = "train"

    def fits(self, head: Head) -> bool:
        return bool(head.any(_QUERY)) and bool(head.any(_POSITIVE))

    def records(self, source: Source) -> Iterator[Record]:
        self._source = source
        yield from source.each(self._row)

    def _row(self, row: Fields, line: int) -> Iterator[Record]:
        name = key(row, "_id", "id", "query_id", "qid") or f"{self._source.stem}:{line}"
        query = Query(name, text(row, *_QUERY))
        # A text that stands twice keeps its first score: the last of a dictionary wins, so it is filled backwards.
        positive = _scored(row, _POSITIVE, "pos_scores")
        negative = _scored(row, _negatives(row), "neg_scores")
        if not positive:
            raise LineError("bad-field", "the row has no positive text")
        documents = {body: by_text(body) for body in [*positive, *negative]}
        both = [body for body in negative if body in positive]
        for _ in both:
            self._source.leave_out("negatives that are positives")
        negative = {body: score for body, score in negative.items() if body not in positive}
        yield from documents.values()
        yield query
        for body in positive:
            yield Judgement(name, documents[body].id)
        for column, part in (("negatives", negative), ("teacher_scores", positive | negative)):
            scores = [score for score in part.values() if score is not None]
            whole = len(scores) == len(part)
            if part and (whole or column == "negatives"):
                ids = [documents[body].id for body in part]
                yield Cell(column, "query", name, {"ids": ids, **({"scores": scores} if whole else {})})


def _negatives(row: Fields) -> Sequence[str]:
    """The field of negatives, or the numbered ones (`negative_1` …)."""
    return [*_NEGATIVE, *sorted(name for name in row if name.startswith(("negative_", "neg_")) and "score" not in name)]


def _scored(row: Fields, names: Sequence[str], scores: str) -> dict[str, float | None]:
    """Text → the teacher's score, or None."""
    bodies: list[str] = []
    for name in names:
        value = row.get(name)
        if value is not None:
            bodies += [value] if isinstance(value, str) else value if _is_texts(value) else _refuse(name, value)
    values = row.get(scores)
    if not values:
        return dict.fromkeys(texts({"texts": bodies}, "texts"))
    if not isinstance(values, list) or len(values) != len(bodies) or not all(map(_is_score, values)):
        raise LineError(
            "bad-field", f"{scores!r} must hold a number for each of {len(bodies)} texts: {shorten(values)}"
        )
    pairs = zip(reversed(bodies), reversed(values), strict=True)
    found = {body.strip(): float(value) for body, value in pairs if body.strip()}
    return dict(reversed(found.items()))


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _refuse(name: str, value: object) -> list[str]:
    raise LineError("bad-field", f"{name!r} must be a text or a list of texts, not {shorten(value)}")


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
