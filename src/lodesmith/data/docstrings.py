"""A docstring as a query and a passage: its summary sentence, and what is left when that is taken out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Described", "clean", "describe"]

FEWEST_SUMMARY = 4
MOST_SUMMARY = 50
FEWEST_REST = 20
_COPIED = 0.5  # the share of a summary's word pairs above which the rest repeats it

_SIGNATURE = re.compile(r"^[\w.]+\(.*?\)(\s*->\s*[^\n]+)?:?\s*(--)?\s*$", re.DOTALL)
_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<![A-Z])[.!?](?=\s+[A-Z`*\"'(\[]|\s*$)")
_ROLE = re.compile(r":[\w:+-]+:`[~!]*([^`<]*?)(\s*<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]*?)\s*<[^`>]*>`_{0,2}")
_TICKS = re.compile(r"\[`+[~!]*([^`]*)`+\]|`+[~!]*([^`]*)`+_{0,2}|\*\*([^*]+)\*\*")
_ODD = re.compile(r">>>|::|[{}\\|]|https?:|^[:@#<.*=~+$-]|-{3}|={3}|\.\.\s")
_OPENINGS = (
    "alias", "args", "arguments", "bases", "copyright", "deprecated", "docstring", "example", "examples", "internal",
    "note", "parameters", "raises", "returns:", "see", "same as", "todo", "usage", "warning",
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Described:
    """A docstring taken apart. `query` is '' where it gives none, and `passage` is then the whole docstring."""

    query: str
    passage: str


def clean(doc: str) -> str:
    """A docstring with uniform white space: no spaces at line ends, at most one empty line in a row."""
    lines = [line.rstrip() for line in doc.expandtabs().split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    # Half of a surrogate pair can stand in an escaped literal; no file could hold it.
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")


def describe(doc: str) -> Described:
    """Take a cleaned docstring apart.

    The query is the first sentence after any signature, without markup. It is '' unless it has 4 to 50 words, the
    rest has at least 20, and the rest does not say nearly the same again.
    """
    signature, body = _signature(doc)
    paragraph, gap, after = body.partition("\n\n")
    end = _SENTENCE.search(paragraph)
    sentence = paragraph[: end.end()] if end else paragraph
    rest = (paragraph[len(sentence) :].strip() + gap + after).strip()
    query = _plain(sentence)
    passage = "\n\n".join(part for part in (signature, rest) if part)
    if _usable(query) and len(rest.split()) >= FEWEST_REST and not _copied(query, passage):
        return Described(query, passage)
    return Described("", doc)


def _signature(doc: str) -> tuple[str, str]:
    """The signature that docstrings of compiled objects begin with ('' if there is none), and what follows."""
    head, _, body = doc.partition("\n\n")
    return (head, body.lstrip()) if body and _SIGNATURE.match(head) else ("", doc)


def _plain(sentence: str) -> str:
    """A sentence without reStructuredText or Markdown markup, on one line."""
    text = _ROLE.sub(r"\1", sentence)
    text = _LINK.sub(r"\1", text)
    text = _TICKS.sub(lambda m: next(group for group in (*m.groups(), "") if group is not None), text)
    return " ".join(text.split()).rstrip(".:;, ")


def _usable(query: str) -> bool:
    words = _WORD.findall(query)
    if not FEWEST_SUMMARY <= len(words) <= MOST_SUMMARY or _ODD.search(query):
        return False
    return not query.lower().startswith(_OPENINGS)


def _copied(query: str, passage: str) -> bool:
    """Whether the passage repeats most of the query's pairs of neighbouring words."""
    words, others = _WORD.findall(query.lower()), _WORD.findall(passage.lower())
    pairs = set(pairwise(words))
    shared = pairs & set(pairwise(others))
    return len(shared) > _COPIED * len(pairs)
