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
# Opening tags only: `_elements` finds where each ends in one pass, however many are never closed.
_DOCNO = re.compile(r"<(DOCNO)>", re.IGNORECASE)
_TITLE = re.compile(r"<(TITLE|HEADLINE|HEAD|HL|TTL|TI)>", re.IGNORECASE)
_TEXT = re.compile(r"<(TEXT|LEADPARA|BODY)(?:\s[^<>]*)?>", re.IGNORECASE)
_HEADER = re.compile(r"<(DOCNO|DOCHDR|DOCID|DOCOLDNO|FILEID)>", re.IGNORECASE)
_UNSEEN = re.compile(r"<(script|style)\b|<!--", re.IGNORECASE)
_BREAK = re.compile(r"</?(?:p|br|div|li|tr|h[1-6])\b[^<>]*>", re.IGNORECASE)
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
        at = 0
        while (begin := _DOC.search(held, at)) and (end := _END.search(held, begin.end())):
            start = line + held.count(b"\n", at, begin.start())
            yield _Part(start, None if dropped else held[begin.end() : end.start()])
            line, dropped = line + held.count(b"\n", at, end.end()), False
            at = end.end()
        held = held[at:]
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
    number = next((found.content.strip() for found in _elements(markup, _DOCNO)), None)
    if number is None:
        raise LineError("missing-id", "the document has no <DOCNO>")
    title = " ".join(plain(found.content) for found in _elements(markup, _TITLE))
    parts = [found.content for found in _elements(markup, _TEXT)]
    body = "\n\n".join(parts) if parts else _without(_without(markup, _HEADER), _TITLE)
    return Document(check_id(number), " ".join(title.split()), plain(body))


class _Element(NamedTuple):
    """Where an element begins and ends, and what is in it."""

    start: int
    end: int
    content: str


def _elements(markup: str, opening: re.Pattern[str]) -> Iterator[_Element]:
    """The elements that begin so and are closed; what is in one is not looked into."""
    at, unclosed = 0, set()
    while found := opening.search(markup, at):
        close = f"</{found[1]}\\s*>" if found[1] else "-->"
        end = None if close.lower() in unclosed else re.compile(close, re.IGNORECASE).search(markup, found.end())
        at = end.end() if end else found.end()
        if end:
            yield _Element(found.start(), end.end(), markup[found.end() : end.start()])
        else:
            unclosed.add(close.lower())


def _without(markup: str, opening: re.Pattern[str]) -> str:
    """The markup with a space in place of each of these elements."""
    parts, at = [], 0
    for found in _elements(markup, opening):
        parts.append(markup[at : found.start])
        at = found.end
    return " ".join([*parts, markup[at:]])


def plain(markup: str) -> str:
    """Markup as text, in paragraphs."""
    parts = _BREAK.sub("\n\n", _without(markup, _UNSEEN))
    paragraphs = html.unescape(_TAG.sub(" ", parts)).replace("\x00", "").split("\n\n")
    return "\n\n".join(text for paragraph in paragraphs if (text := " ".join(paragraph.split())))
