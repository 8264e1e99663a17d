"""TREC document files: `<DOC>` after `<DOC>`, each with its `<DOCNO>`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from lodesmith.core.lines import LIMIT, LineError, check_id
from lodesmith.core.records import Document
from lodesmith.data.formats._source import Head, Record, Source, stream

__all__ = ["TrecDocuments"]

_BLOCK = 1 << 20
_DOC = re.compile(rb"<DOC>", re.IGNORECASE)
_END = re.compile(rb"</DOC>", re.IGNORECASE)
_DOCNO = re.compile(r"<DOCNO>\s*(.*?)\s*</DOCNO>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<(TITLE|HEADLINE|HEAD|HL|TTL|TI)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(r"<(TEXT|LEADPARA|BODY)(?:\s[^>]*)?>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_HEADER = re.compile(r"<(DOCNO|DOCHDR|DOCID|DOCOLDNO|FILEID)>.*?</\1>", re.IGNORECASE | re.DOTALL)
_UNSEEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r"</?(?:p|br|div|li|tr|h[1-6])\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")


class _Part(NamedTuple):
    """The bytes between `<DOC>` and `</DOC>`, and the line on which they begin; None where they are too many."""

    line: int
    raw: bytes | None


class TrecDocuments:
    """Each `<DOC>` is a document: its title or headline, and what its text elements (or else all of it) say."""

    split = "test"

    def fits(self, head: Head) -> bool:
        return b"<docno>" in head.raw.lower() and _DOC.search(head.raw) is not None

    def records(self, source: Source) -> Iterator[Record]:
        with stream(source.path) as file:
            for part in _parts(file, source):
                try:
                    yield _document(part)
                except LineError as error:
                    source.refuse(part.line, str(error))


def _parts(file: IO[bytes], source: Source) -> Iterator[_Part]:
    """The documents one at a time; memory is bounded by the longest that is read."""
    held, line, dropped = b"", 1, False
    while block := file.read(_BLOCK):
        held += block
        begin = _DOC.search(held)
        end = _END.search(held, begin.end()) if begin else None
        while begin and end:
            start = line + held.count(b"\n", 0, begin.start())
            yield _Part(start, None if dropped else held[begin.end() : end.start()])
            line, dropped = line + held.count(b"\n", 0, end.end()), False
            held = held[end.end() :]
            begin = _DOC.search(held)
            end = _END.search(held, begin.end()) if begin else None
        if len(held) > LIMIT:  # keep the opening, and a tail in which the closing tag may be cut
            kept = b"<DOC>" + held[-len(b"</DOC>") :] if begin else held[-len(b"<DOC>") :]
            line, dropped = line + held.count(b"\n", 0, len(held) - len(b"</DOC>")), dropped or begin is not None
            held = kept
    if _DOC.search(held):
        source.refuse(line + held.count(b"\n", 0, held.upper().find(b"<DOC>")), "the file ends inside this document")


def _document(part: _Part) -> Document:
    if part.raw is None:
        raise LineError("long-line", f"the document has over {LIMIT:,} bytes")
    try:
        markup = part.raw.decode("utf-8")
    except UnicodeDecodeError:
        markup = part.raw.decode("latin-1")  # what the collections of the nineties are written in
    number = _DOCNO.search(markup)
    if number is None:
        raise LineError("missing-id", "the document has no <DOCNO>")
    title = " ".join(plain(found.group(2)) for found in _TITLE.finditer(markup))
    parts = [found.group(2) for found in _TEXT.finditer(markup)]
    body = "\n\n".join(parts) if parts else _TITLE.sub(" ", _HEADER.sub(" ", markup))
    return Document(check_id(number.group(1)), " ".join(title.split()), plain(body))


def plain(markup: str) -> str:
    """Markup as text, in paragraphs."""
    parts = _BREAK.sub("\n\n", _UNSEEN.sub(" ", markup))
    paragraphs = html.unescape(_TAG.sub(" ", parts)).replace("\x00", "").split("\n\n")
    return "\n\n".join(text for paragraph in paragraphs if (text := " ".join(paragraph.split())))
