"""Natural Questions: the simplified JSONL (tokens joined by spaces), or the full one (tokens as objects)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlparse

from lodesmith.core.lines import LineError, shorten
from lodesmith.core.records import Document, Query
from lodesmith.data.formats._source import Fields, Head, Judgement, Record, Source, by_text, key, objects, text

__all__ = ["NaturalQuestions"]

_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:_[^<>]*)?>")
_SPACES = re.compile(r"\s+([,.;:!?%)\]])|([(\[])\s+")


class _Span(NamedTuple):
    start: int
    end: int


class NaturalQuestions:
    """The outermost long-answer candidates of a page become documents, the annotated one is relevant.

    Short answers, and yes or no, become the query's answers. Questions without a long answer are left out and counted.
    Equal passages of pages that several questions share are one document. Kwiatkowski et al., TACL 2019.
    """

    split = "all"

    def fits(self, head: Head) -> bool:
        return head.has("question_text", "annotations") and bool(head.any(("document_text", "document_tokens")))

    def records(self, source: Source) -> Iterator[Record]:
        self._source = source
        yield from source.each(self._row)

    def _row(self, row: Fields, line: int) -> Iterator[Record]:
        tokens = _tokens(row)
        outer = _outermost([_span(c, len(tokens)) for c in objects(row, "long_answer_candidates")])
        title = _title(row, tokens)
        documents: dict[_Span, Document] = {}
        for span in outer:
            if body := _text(tokens, span):
                documents[span] = by_text(body, title)
        yield from documents.values()
        relevant: set[str] = set()
        answers: dict[str, None] = {}
        for annotation in objects(row, "annotations"):
            place = _long(annotation, len(tokens))
            home = next((d for s, d in documents.items() if place and s.start <= place.start < s.end), None)
            if home is not None:
                relevant.add(home.id)
                answers |= dict.fromkeys(_short(annotation, tokens))
        if not relevant:
            self._source.leave_out("questions without a long answer")
            return
        name = key(row, "example_id", "id") or f"{self._source.stem}:{line}"
        yield Query(name, text(row, "question_text"), tuple(answers))
        for document in sorted(relevant):
            yield Judgement(name, document)


def _tokens(row: Fields) -> list[str]:
    if "document_text" in row:
        return text(row, "document_text").split(" ")
    return [str(item.get("token", "")) for item in objects(row, "document_tokens")]


def _span(value: Any, size: int) -> _Span:
    """Tokens from start to end.

    Raises:
        LineError: no such tokens are in the page.
    """
    start, end = (value.get("start_token"), value.get("end_token")) if isinstance(value, dict) else (None, None)
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= size:
        raise LineError("bad-field", f"expected a span within {size} tokens, found {shorten(value)}")
    return _Span(start, end)


def _outermost(spans: list[_Span]) -> list[_Span]:
    """The spans that lie in no other: rows and cells of a table stay in their table."""
    found: list[_Span] = []
    for span in sorted(set(spans), key=lambda s: (s.start, -s.end)):
        if not found or span.start >= found[-1].end:
            found.append(span)
    return found


def _long(annotation: Fields, size: int) -> _Span | None:
    value = annotation.get("long_answer")
    if not isinstance(value, dict) or value.get("start_token", -1) in (-1, None):
        return None
    return _span(value, size)


def _short(annotation: Fields, tokens: list[str]) -> Iterator[str]:
    for value in objects(annotation, "short_answers"):
        if answer := _text(tokens, _span(value, len(tokens))):
            yield answer
    word = annotation.get("yes_no_answer")
    if isinstance(word, str) and word in ("YES", "NO"):
        yield word.lower()


def _text(tokens: list[str], span: _Span) -> str:
    """Tokens as text: without tags, and without the space before a full stop."""
    words = " ".join(token for token in tokens[span.start : span.end] if not _TAG.fullmatch(token))
    return " ".join(_SPACES.sub(r"\1\2", words).split())


def _title(row: Fields, tokens: list[str]) -> str:
    if isinstance(row.get("document_title"), str):
        return str(row["document_title"]).strip()
    if "<H1>" in tokens and "</H1>" in tokens:
        return _text(tokens, _Span(tokens.index("<H1>"), tokens.index("</H1>")))
    address = row.get("document_url")
    if not isinstance(address, str):
        return ""
    try:
        found = urlparse(address.replace("&amp;", "&"))
    except ValueError:
        return ""
    name = parse_qs(found.query).get("title", [found.path.rpartition("/")[2]])[0]
    return name.replace("_", " ").strip()
