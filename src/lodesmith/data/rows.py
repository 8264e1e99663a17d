"""Files that hold many records: documents, queries and judgements as JSONL, JSON, Parquet, TSV or TREC."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.lines import Line, LineError, bounded_lines, check_id, decode_text, shorten
from lodesmith.core.records import Document, Query, parse_document, parse_query
from lodesmith.core.tables import parse_judgement
from lodesmith.data.formats._containers import suffix_of
from lodesmith.data.formats._source import Fields, Head, Judgement, Picture, Record, Source, by_text, first, key, stream

__all__ = ["has_rows", "kind_of", "rows", "split_of"]

_IDS = ("_id", "id", "docid", "doc_id", "pid", "query_id", "qid")
_QUERY_IDS = ("query-id", "query_id", "qid", "queryid", "topic_id")
_DOCUMENT_IDS = ("corpus-id", "corpus_id", "docid", "doc_id", "pid", "document_id", "passage_id")
_GRADES = ("score", "grade", "relevance", "rel", "label")
_BODIES = ("text", "contents", "content", "body", "passage", "document", "text_description", "markdown")
_ASKED = ("query", "question")
_IMAGES = ("image", "page_image")
_ROWS = ("jsonl", "ndjson", "json", "parquet")
_SPLIT = re.compile(
    r"(?<![a-z])(?:pre)?(train|dev|valid|validation|test|eval)(?:set|ing|elopment|uation)?(?![a-z])", re.IGNORECASE
)
_TOPIC = re.compile(rb"<num>", re.IGNORECASE)
_NUMBER = re.compile(rb"\s*+(?:Number:\s*+)?+([^\s<]++)", re.IGNORECASE)
_TITLE = re.compile(rb"<title>\s*+(?:Topic:)?+([^<]*)<", re.IGNORECASE)
_NAMED_QUERIES = re.compile(r"(queries|questions|topics)\b|.*[._-](queries|topics)$")
_MOST_TOPICS = 64 << 20
_TREC_FIELDS = 4


def has_rows(path: Path) -> bool:
    """Whether a file may hold rows, by its suffix: its beginning then says what they are."""
    return suffix_of(path) in (*_ROWS, "tsv", "txt", "trec", "topics", "qrels", "qrel", "sgml", "sgm", "xml", "dat", "")


def kind_of(path: Path, head: Head | None = None) -> str:
    """What a file holds: `queries`, `judgements`, `documents`, or '' where it is not a file of rows.

    Args:
        path: its name decides, where it says something.
        head: its beginning decides otherwise.

    Raises:
        InputError: it holds rows, but none of their fields is known.
    """
    name = path.name.lower().removesuffix(".gz")
    stem, _, suffix = name.rpartition(".")
    head = head or Head(path)
    if ("qrels" in name or path.parent.name == "qrels") and (
        suffix in ("tsv", "txt", "qrels", "qrel", "trec", "jsonl", "parquet") or stem == ""
    ):
        return "judgements"
    if suffix in _ROWS and not any(name in head.row for name in (*_BODIES, *_IMAGES, *_ASKED, *_QUERY_IDS)):
        if suffix == "json":
            return ""  # a JSON file like any other
        if head.row:
            raise InputError(f"its rows have none of the fields that are known; they have {', '.join(head.row)}"[:300])
    if suffix in _ROWS:
        return _kind_of_row(head.row, _NAMED_QUERIES.match(stem) or path.parent.name in ("queries", "topics"))
    if suffix == "tsv":
        return "queries" if _NAMED_QUERIES.match(stem) else "judgements" if _is_judgements(head.raw) else "documents"
    if b"<top>" in head.raw[:4096] or suffix in ("topics", "trec"):
        return "queries"
    return "judgements" if suffix in ("txt", "") and _is_judgements(head.raw) else ""


def _kind_of_row(row: Fields, named_queries: object) -> str:
    if named_queries:
        return "queries"
    if any(name in row for name in (*_BODIES, *_IMAGES)):
        return "documents"
    if any(name in row for name in _ASKED):
        return "queries"
    return "judgements" if first(row, _QUERY_IDS) is not None and first(row, _DOCUMENT_IDS) is not None else "documents"


def _is_judgements(raw: bytes) -> bool:
    """Whether the first lines are TREC's: query, 0 (or Q0), document, grade; or BEIR's, under their header."""
    lines = raw.decode("utf-8", "replace").splitlines()[:20]
    if lines and re.fullmatch(r"query-?id\tcorpus-?id\tscore", lines[0].strip().lower().replace("_", "-")):
        return True
    table = [line.split() for line in lines[:-1] or lines if line.strip()]
    return bool(table) and all(
        len(row) == _TREC_FIELDS and row[1] in ("0", "Q0") and row[3].lstrip("-").isdecimal() for row in table
    )


def split_of(path: Path, default: str = "test") -> str:
    """The split that a file of judgements is for, by its name; `default` where the name says nothing."""
    found = _SPLIT.search(path.name)
    name = found.group(1).lower() if found else default
    return {"valid": "dev", "validation": "dev", "eval": "test"}.get(name, name)


def rows(source: Source, kind: str) -> Iterator[Record]:
    """The records of a file.

    Args:
        source: a file, plain or .gz.
        kind: what `kind_of` says.

    Raises:
        InputError: the file cannot be read.
    """
    suffix = suffix_of(source.path)
    if suffix in _ROWS:
        yield from source.each(lambda row, line: _row(row, line, kind))
    elif kind == "queries" and suffix != "tsv":
        with stream(source.path) as file:
            raw = file.read(_MOST_TOPICS + 1)
            if len(raw) > _MOST_TOPICS:
                raise InputError(
                    f"the topics have more than {_MOST_TOPICS:,} bytes", "split the file", path=source.path
                )
            yield from _topics(raw, source.refuse)
    else:
        parse = _judgement if kind == "judgements" else _tsv_row
        with stream(source.path) as file:
            for line in bounded_lines(file):
                if not line.raw.strip():
                    continue
                try:
                    row = parse(line, kind)
                except LineError as error:
                    source.refuse(line.number, str(error))
                    continue
                if row is not None:
                    yield row


def _row(row: Fields, line: int, kind: str) -> Iterable[Record]:
    if kind == "judgements":
        return [_graded(row)]
    value = {"_id": first(row, _IDS), "title": row.get("title")}
    if kind == "queries":
        answers = first(row, ("answers", "answer"))
        return [parse_query(value | {"text": first(row, ("text", *_ASKED, *_BODIES)), "answers": answers})]
    image = first(row, _IMAGES)
    if isinstance(image, bytes | dict):
        return _page(row, parse_document(value | {"_id": _image_id(row), "text": first(row, _BODIES) or ""}), image)
    if value["_id"] is None:
        value["_id"] = str(line)
    return [parse_document(value | {"text": first(row, (*_BODIES, *_ASKED)), "image": image})]


def _image_id(row: Fields) -> str:
    name = key(row, "corpus-id", "corpus_id", "image_filename", *_IDS)
    image = first(row, _IMAGES)
    return name or by_text(repr(image.get("bytes") if isinstance(image, dict) else image)).id


def _page(row: Fields, document: Document, image: Any) -> Iterator[Record]:
    """A row that holds an image: a document, and where the row asks something, a query for which it is relevant."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes) or not data:
        raise LineError("bad-field", f"'image' holds no bytes: {shorten(image)}")
    yield Picture(document, data)
    asked = first(row, _ASKED)
    if isinstance(asked, str) and asked.strip():
        query = f"q:{text_key(asked.strip())[:20]}"
        yield parse_query({"_id": query, "text": asked.strip(), "answers": first(row, ("answers", "answer"))})
        yield Judgement(query, document.id)


def _graded(row: Fields) -> Judgement:
    grade = first(row, _GRADES)
    query, document = key(row, *_QUERY_IDS), key(row, *_DOCUMENT_IDS)
    if not query or not document:
        raise LineError("missing-id", "a judgement must name its query and its document")
    if isinstance(grade, bool) or not isinstance(grade, int | float | str):
        raise LineError("bad-grade", f"the grade must be an integer of at least 0, not {shorten(grade)}")
    text = str(int(grade)) if isinstance(grade, float) and grade.is_integer() else str(grade)
    found = parse_judgement(_line("\t".join((query, document, text)), 2))
    assert found is not None
    return Judgement(*found)


def _tsv_row(line: Line, kind: str) -> Record | None:
    fields = [field.strip() for field in decode_text(line).split("\t")]
    if line.number == 1 and fields[0].lower() in ("id", *_IDS, "query-id", "corpus-id"):
        return None
    if not 2 <= len(fields) <= (2 if kind == "queries" else 3):
        raise LineError("field-count", f"expected id, text or id, title, text; found {len(fields)} fields")
    if not fields[-1]:
        raise LineError("empty-text", "the text is empty")
    if kind == "queries":
        return Query(check_id(fields[0]), fields[1])
    return Document(check_id(fields[0]), fields[1] if len(fields) == 3 else "", fields[-1])


def _judgement(line: Line, kind: str) -> Judgement | None:
    """A line of BEIR's three fields, or of TREC's four: query, iteration, document, grade."""
    fields = decode_text(line).split()
    if len(fields) == _TREC_FIELDS:
        line = _line("\t".join([fields[0], fields[2], fields[3]]), max(line.number, 2))
    elif len(fields) == 3:
        line = _line("\t".join(fields), line.number)
    found = parse_judgement(line)
    return None if found is None else Judgement(*found)


def _line(text: str, number: int) -> Line:
    raw = text.encode("utf-8", "surrogatepass")
    return Line(number, 0, raw, len(raw))


def _topics(data: bytes, refuse: Callable[[int | None, str], None]) -> Iterator[Query]:
    """TREC topics: `<num>` and `<title>`; a file without them is read as `id text` lines."""
    found = [match.end() for match in _TOPIC.finditer(data)]
    line, counted = 1, 0
    for start, end in pairwise([*found, len(data)]):
        line, counted = line + data.count(b"\n", counted, start), start
        number, title = _NUMBER.match(data, start, end), _TITLE.search(data, start, end)
        text = " ".join(title[1].decode("utf-8", "replace").split()) if title else ""
        try:
            if number is None or not text:
                raise LineError("empty-query", "a topic must have a number and a <title>")
            yield Query(check_id(number[1].decode("utf-8", "replace")), text)
        except LineError as error:
            refuse(line, str(error))
    for i, row in enumerate([] if found else data.decode("utf-8", "replace").splitlines(), start=1):
        key_, _, text = row.strip().partition("\t" if "\t" in row else " ")
        if key_ and text.strip():
            try:
                yield Query(check_id(key_), text.strip())
            except LineError as error:
                refuse(i, str(error))
        elif key_:
            refuse(i, "expected an id and a text")
