"""Triples as MS MARCO has them: query, positive, negative, separated by tabs; as texts or as ids."""

from __future__ import annotations

from collections.abc import Iterator

from lodesmith.core.hashing import text_key
from lodesmith.core.lines import Line, LineError, bounded_lines, check_id, decode_text, shorten
from lodesmith.core.records import Query
from lodesmith.data.formats._containers import suffix_of
from lodesmith.data.formats._source import Head, Judgement, Negative, Record, Source, by_text, stream

__all__ = ["Triples"]

_SHOWN = 20  # lines that are looked at
_MOST_GRADE = 4  # what three columns of numbers end in, if they are judgements


class Triples:
    """Ids join the queries and documents of other files; texts are de-duplicated and named by their content.

    A file is of ids where the first lines hold numbers only. The positive is judged, the others are the column
    `negatives`.
    """

    split = "train"

    def fits(self, head: Head) -> bool:
        if suffix_of(head.path) not in ("tsv", "txt"):
            return False
        table = _table(head.raw)
        threes = [fields for fields in table if len(fields) == 3]
        if "triple" in head.path.name.lower():
            return bool(threes)
        whole = bool(table) and len(threes) == len(table) and "qrel" not in head.path.name.lower()
        return whole and _numbers(table) and max(int(fields[2]) for fields in table) > _MOST_GRADE

    def records(self, source: Source) -> Iterator[Record]:
        ids: bool | None = None
        with stream(source.path) as file:
            for line in bounded_lines(file):
                if not line.raw.strip():
                    continue
                try:
                    fields = _fields(line)
                    ids = all(map(_is_number, fields)) if ids is None else ids
                    found = list(_by_id(fields) if ids else _by_text(fields))
                except LineError as error:
                    source.refuse(line.number, str(error))
                    continue
                yield from found


def _table(raw: bytes) -> list[list[str]]:
    """The first whole lines."""
    lines = raw.decode("utf-8", "replace").split("\n")
    lines = lines[:-1] if len(lines) > 1 else lines
    return [line.split("\t") for line in lines[:_SHOWN] if line.strip()]


def _numbers(table: list[list[str]]) -> bool:
    return all(map(_is_number, (field for fields in table for field in fields)))


def _is_number(text: str) -> bool:
    return text.strip().isascii() and text.strip().isdecimal()


def _fields(line: Line) -> list[str]:
    fields = [field.strip() for field in decode_text(line).split("\t")]
    if len(fields) != 3:
        raise LineError("field-count", f"expected query, positive, negative; found {len(fields)} fields")
    if not all(fields):
        raise LineError("empty-text", f"one of the three is empty: {shorten(fields)}")
    return fields


def _by_id(fields: list[str]) -> Iterator[Record]:
    query, positive, negative = (check_id(field) for field in fields)
    yield Judgement(query, positive)
    yield Negative(query, negative)


def _by_text(fields: list[str]) -> Iterator[Record]:
    query, positive, negative = fields
    name = f"q:{text_key(query)[:20]}"
    documents = by_text(positive), by_text(negative)
    yield from documents
    yield Query(name, query)
    yield Judgement(name, documents[0].id)
    if positive != negative:
        yield Negative(name, documents[1].id)
