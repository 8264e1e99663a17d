"""Files that hold many records: documents, queries and judgements as JSONL, TSV or TREC."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lodesmith.core.lines import Line, LineError, bounded_lines, check_id, decode_json, decode_text
from lodesmith.core.records import Document, Query, parse_document, parse_query
from lodesmith.core.tables import open_plain, parse_judgement

__all__ = ["Judgement", "Row", "kind_of", "rows", "split_of"]

Judgement = tuple[str, str, int]
Row = Document | Query | Judgement
_IDS = ("_id", "id", "docid", "doc_id", "pid", "query_id", "qid")
_TEXTS = ("text", "contents", "content", "body", "passage", "query", "question")
_SPLIT = re.compile(r"(train|dev|valid|validation|test|eval)", re.IGNORECASE)
_TOPIC = re.compile(rb"<num>\s*(?:Number:)?\s*(\S+).*?<title>\s*(?:Topic:)?\s*(.*?)\s*<", re.DOTALL | re.IGNORECASE)
_MOST_TOPICS = 64 << 20


def kind_of(path: Path) -> str:
    """What a file holds by its name: `queries`, `judgements`, `documents`, or '' where it is not a file of rows."""
    name = path.name.lower().removesuffix(".gz")
    stem, _, suffix = name.rpartition(".")
    if "qrels" in name or path.parent.name == "qrels":
        return "judgements" if suffix in ("tsv", "txt", "qrels", "qrel", "trec") or stem == "" else ""
    if suffix in ("jsonl", "ndjson", "tsv"):
        return "queries" if re.match(r"(queries|questions|topics)\b|.*[._-](queries|topics)$", stem) else "documents"
    return "queries" if suffix in ("topics", "trec") or (stem.startswith("topics") and _has_topics(path)) else ""


def _has_topics(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<top>" in file.read(4096)


def split_of(path: Path) -> str:
    """The split that a file of judgements is for, by its name; `test` where the name says nothing."""
    found = _SPLIT.search(path.name)
    name = found.group(1).lower() if found else "test"
    return {"valid": "dev", "validation": "dev", "eval": "test"}.get(name, name)


def rows(path: Path, kind: str, refuse: Callable[[int, str], None]) -> Iterator[Row]:
    """The records of a file.

    Args:
        path: a file, plain or .gz.
        kind: what `kind_of` says.
        refuse: called with the line and the reason for each line that gives no record.

    Raises:
        InputError: the file cannot be read.
    """
    name = path.name.lower().removesuffix(".gz")
    with open_plain(path) as file:
        if kind == "queries" and not name.endswith((".jsonl", ".ndjson", ".tsv")):
            yield from _topics(file.read(_MOST_TOPICS), refuse)
            return
        parse = _judgement if kind == "judgements" else _json_row if name.endswith(("jsonl", "ndjson")) else _tsv_row
        for line in bounded_lines(file):
            if not line.raw.strip():
                continue
            try:
                row = parse(line, kind)
            except LineError as error:
                refuse(line.number, str(error))
                continue
            if row is not None:
                yield row


def _json_row(line: Line, kind: str) -> Row:
    value = decode_json(line)
    value = {"_id": _first(value, _IDS), "text": _first(value, _TEXTS)} | {
        key: value[key] for key in ("title", "answers", "image") if value.get(key) is not None
    }
    if value["_id"] is None and kind == "documents":
        value["_id"] = str(line.number)
    return parse_query(value) if kind == "queries" else parse_document(value)


def _first(value: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _tsv_row(line: Line, kind: str) -> Row | None:
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
    if len(fields) == 4:
        text = "\t".join([fields[0], fields[2], fields[3]])
        line = line._replace(raw=text.encode(), size=len(text.encode()), number=max(line.number, 2))
    elif len(fields) == 3:
        text = "\t".join(fields)
        line = line._replace(raw=text.encode(), size=len(text.encode()))
    return parse_judgement(line)


def _topics(data: bytes, refuse: Callable[[int, str], None]) -> Iterator[Query]:
    """TREC topics: `<num>` and `<title>`; a file without them is read as `id text` lines."""
    found = list(_TOPIC.finditer(data))
    for match in found:
        number, title = (part.decode("utf-8", "replace") for part in match.groups())
        line = data.count(b"\n", 0, match.start()) + 1
        try:
            yield Query(check_id(number), " ".join(title.split()))
        except LineError as error:
            refuse(line, str(error))
    for i, row in enumerate([] if found else data.decode("utf-8", "replace").splitlines(), start=1):
        key, _, text = row.strip().partition("\t" if "\t" in row else " ")
        if key and text.strip():
            try:
                yield Query(check_id(key), text.strip())
            except LineError as error:
                refuse(i, str(error))
        elif key:
            refuse(i, "expected an id and a text")
