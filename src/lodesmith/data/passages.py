"""Documents cut into passages at headings and paragraphs, up to a number of words; sentences stay whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lodesmith.data.outline import Outline

__all__ = ["passages", "sentences"]

_SEPARATOR = " — "
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\bal)(?<!\b[A-Z])([.!?…]+[\"'”’)\]]*)\s+(?=[^a-zß-öø-ÿ])"
)
_WIDE_END = re.compile(r"(?<=[。！？])")


def passages(outline: Outline, words: int, fallback: str = "") -> Iterator[tuple[str, str]]:
    """(title, text) of each passage.

    A section's paragraphs are put together while they fit into `words`; a longer paragraph is cut between sentences,
    a longer sentence between words. The title is the document's and the path of headings.

    Args:
        outline: the document.
        words: the most words of a passage.
        fallback: the title of a document that has none.
    """
    for section in outline.sections:
        title = _SEPARATOR.join([outline.title or fallback, *section.headings]).strip(_SEPARATOR)
        pieces = (piece for paragraph in section.paragraphs for piece in _pieces(paragraph, words))
        for text in _packed(pieces, words):
            yield title, text


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; nothing is lost but the white space between them."""
    parts = _END.sub(lambda m: m.group(1) + "\x00", text).split("\x00")
    return [s for part in parts for s in _WIDE_END.split(part) if s.strip()]


def _pieces(paragraph: str, words: int) -> Iterator[str]:
    """A paragraph in parts of at most `words`."""
    if len(paragraph.split()) <= words:
        yield paragraph
        return
    for sentence in _packed(sentences(paragraph), words, " "):
        parts = sentence.split()
        if len(parts) <= words:
            yield sentence
        else:
            yield from (" ".join(parts[i : i + words]) for i in range(0, len(parts), words))


def _packed(pieces: Iterable[str], words: int, joint: str = "\n\n") -> Iterator[str]:
    """Neighbours put together while they fit."""
    held: list[str] = []
    room = words
    for piece in pieces:
        size = len(piece.split())
        if held and size > room:
            yield joint.join(held)
            held, room = [], words
        held.append(piece)
        room -= size
    if held:
        yield joint.join(held)
