"""Unsupervised pairs: texts that belong together because of where they stand, for training without questions.

Written as the column `pairs`: `document`, `text` (what is used as the query), `kind` (the method), and `passage` where
the positive is not what the document says (its title, or the sentence, is taken out).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import text_key
from lodesmith.core.progress import tell, track
from lodesmith.core.records import Dataset, Document
from lodesmith.core.registry import did_you_mean
from lodesmith.data.duplicates import near_duplicates
from lodesmith.data.passages import sentences
from lodesmith.data.selfsupervised import FEWEST_REST, FEWEST_SENTENCE, MOST_QUERY
from lodesmith.data.selfsupervised import _copied as copied

__all__ = ["METHODS", "Pair", "make_pairs", "pairs_of", "pairs_text"]

FEWEST_TITLE = 2
_VERSION = 2  # of the rules: another one makes a finished column anew
_NUMBERED = re.compile(r"(.*)#(\d+)")
_SEPARATOR = " — "  # what `lode data import` puts between headings
_OTHER_SEPARATOR = " - "  # a path only where another document has the same beginning
_WORDS = re.compile(r"[^\W\d_]{2,}")
_CHARACTERS = re.compile(r"[^\W\d_]|\s|[.,;:'’()-]")
_READABLE = 0.85  # share of letters, spaces and plain punctuation; below it is code, a table or a formula
# What points back to text that the pair takes away.
_BACK = re.compile(
    r"(?:this|that|these|those|it|its|they|their|them|he|she|his|her|such|however|therefore|thus|but|and|also|so|then|"
    r"hence|moreover|furthermore|otherwise|instead|for example|for instance|in addition|the former|the latter|"
    r"below|above|here|as (?:mentioned|noted|described|shown|seen)|see|note)\b|[\d(\[]",
    re.IGNORECASE,
)
_LOWER_END = re.compile(r"(?<=[.!?])\s+(?=[a-z])")


@dataclass(frozen=True)
class Pair:
    """A text and the passage that belongs to it.

    Args:
        kind: the method.
        text: what is used as the query.
        passage: the positive; None: the document as it is.
    """

    kind: str
    text: str
    passage: str | None = None

    def to_json(self) -> dict[str, str]:
        """The row of the column."""
        row = {"text": self.text, "kind": self.kind}
        return row if self.passage is None else row | {"passage": self.passage}


@dataclass
class _Corpus:
    """What a method must know besides its document."""

    documents: Mapping[str, Document]
    allowed: set[str]
    seed: int
    _roots: Counter[str] = field(default_factory=Counter)
    _sources: dict[str, set[str]] = field(default_factory=dict)  # title → numbered sources that have it
    _headings: dict[str, set[str]] = field(default_factory=dict)  # heading → full titles that end in it
    _first: dict[str, str] = field(default_factory=dict)  # title or full title → its first document

    def __post_init__(self) -> None:
        titles = [(document.id, document.title) for document in self.documents.values() if document.title]
        self._roots.update(title.partition(_OTHER_SEPARATOR)[0] for title in {title for _, title in titles})
        for name, title in titles:
            path = self.path(title)
            self._first.setdefault(path[0], name)
            self._first.setdefault(title, name)
            if source := _source(name)[0]:
                self._sources.setdefault(path[0], set()).add(source)
            self._headings.setdefault(path[-1], set()).add(title)

    def path(self, title: str) -> list[str]:
        """A title as the document's and the headings below it."""
        parts = [part.strip() for part in title.split(_SEPARATOR) if part.strip()]
        root, dash, rest = title.partition(_OTHER_SEPARATOR)
        if len(parts) == 1 and dash and rest.strip() and self._roots[root] > 1:
            return [root.strip(), rest.strip()]
        return parts or [title]

    def is_first(self, title: str, document: Document) -> bool:
        return self._first.get(title) == document.id

    def sources(self, title: str) -> int:
        return len(self._sources.get(title, ()))

    def headings(self, heading: str) -> int:
        return len(self._headings.get(heading, ()))

    def before(self, document: Document) -> Document | None:
        """The passage before this one in its source, if it may be used."""
        source, number = _source(document.id)
        name = f"{source}#{number - 1}"
        return self.documents[name] if source and name in self.allowed else None


def _source(name: str) -> tuple[str, int]:
    found = _NUMBERED.fullmatch(name)
    return (found[1], int(found[2])) if found and len(found[2]) < 10 else ("", 0)


# methods: a pair, or why there is none


def _title(document: Document, corpus: _Corpus) -> Pair | str:
    if not document.title:
        return "no-title"
    title = corpus.path(document.title)[0]
    if corpus.sources(title) > 1:
        return "shared-title"
    if not corpus.is_first(title, document):
        return "not-the-first-passage"
    return _fault(title, FEWEST_TITLE) or _short(document.text) or Pair("title", title, document.text)


def _heading(document: Document, corpus: _Corpus) -> Pair | str:
    *above, heading = corpus.path(document.title)
    if not above:
        return "no-heading"
    if corpus.headings(heading) > 1:
        return "shared-heading"
    if not corpus.is_first(document.title, document):
        return "not-the-first-passage"
    passage = f"{_SEPARATOR.join(above)} {document.text}"
    return _fault(heading, FEWEST_TITLE) or _short(document.text) or Pair("heading", heading, passage)


def _inverse_cloze(document: Document, corpus: _Corpus) -> Pair | str:
    """A sentence drawn from those that can stand alone (Lee, Chang, Toutanova, ACL 2019, section 4)."""
    paragraphs = [_sentences(paragraph) for paragraph in document.text.split("\n\n")]
    places = [
        (i, j)
        for i, paragraph in enumerate(paragraphs)
        for j, sentence in enumerate(paragraph)
        if not _fault(sentence, FEWEST_SENTENCE) and not _BACK.match(sentence.lstrip("\"'“‘ ")) and _is_whole(sentence)
    ]
    if not places:
        return "no-sentence-that-stands-alone"
    first = int(text_key(f"{corpus.seed} {document.id}")[:12], 16) % len(places)
    for i, j in [*places[first:], *places[:first]]:
        text, rest = _without(paragraphs, i, j)
        if fault := _short(rest):
            return fault
        if not copied(text, rest):  # a sentence that the passage says again gives itself away
            return Pair("inverse_cloze", text, f"{document.title} {rest}".strip())
    return "sentence-repeated"


def _neighbours(document: Document, corpus: _Corpus) -> Pair | str:
    before = corpus.before(document)
    if before is None:
        return "no-neighbour"
    fault = _short(document.text) or _short(before.text)
    return fault or Pair("neighbours", " ".join(before.text.split()))


METHODS: dict[str, Callable[[Document, _Corpus], Pair | str]] = {
    "title": _title,
    "heading": _heading,
    "inverse_cloze": _inverse_cloze,
    "neighbours": _neighbours,
}


def _fault(text: str, fewest: int) -> str:
    """Why a text is no query, or ''."""
    words = len(_WORDS.findall(text))
    if words < fewest:
        return "too-short"
    if words > MOST_QUERY:
        return "too-long"
    return "" if len(_CHARACTERS.findall(text)) >= _READABLE * len(text) else "unreadable"


def _short(text: str) -> str:
    return "little-text" if len(text.split()) < FEWEST_REST else ""


def _without(paragraphs: Sequence[Sequence[str]], i: int, j: int) -> tuple[str, str]:
    """A sentence, and the text without it."""
    parts = [[s for m, s in enumerate(part) if (n, m) != (i, j)] for n, part in enumerate(paragraphs)]
    rest = "\n\n".join(joined for part in parts if (joined := " ".join(part).strip()))
    return " ".join(paragraphs[i][j].split()), rest


def _sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, also of one that was put in lower case, as in the old test collections."""
    if any(character.isupper() for character in paragraph):
        return sentences(paragraph)
    return [part for part in _LOWER_END.split(paragraph) if part.strip()]


def _is_whole(sentence: str) -> bool:
    return sentence.rstrip("\"'”’)] \n").endswith((".", "!", "?", "…", "。", "！", "？"))


# making


def pairs_of(
    dataset: Dataset,
    *,
    methods: Sequence[str] = tuple(METHODS),
    limit: int | None = None,
    split: str | None = "train",
    seed: int = 0,
) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """The pairs of each document that was looked at, and counts: of pairs `kind`, of rejects `kind: reason`.

    Args:
        dataset: documents, and the judgements that say which may not be used.
        methods: names out of `METHODS`.
        limit: of documents, drawn by hash.
        split: documents that another split judges are left out, and so are those that nearly repeat one of them;
            None uses all of them.
        seed: of the sample and of the sentences that are taken out.

    Raises:
        ConfigError: a method is unknown, or the limit below 1.
        InputError: there is no such split.
    """
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"no method is called {method!r}", did_you_mean(method, list(METHODS)))
    if not methods or (limit is not None and limit < 1):
        raise ConfigError(f"methods {list(methods)} and limit {limit} make no pairs", "give a method, a limit above 0")
    if split not in (None, "train"):
        dataset.split(split)  # a dataset without a train split is usual, a misspelt one is not
    others = {d for name, j in dataset.judgements.items() if split not in (None, name) for ds in j.values() for d in ds}
    judged = [name for name in dataset.documents if name in others]
    allowed = [name for name in dataset.documents if name not in others]
    counts = Counter({"documents judged in other splits": len(dataset.documents) - len(allowed)})
    chosen = allowed if limit is None or limit >= len(allowed) else _sample(allowed, limit, seed)
    copies = _copies([dataset.documents[name].content for name in (*judged, *chosen)])[len(judged) :]
    counts["documents that nearly repeat another"] = sum(copies)
    repeated = {name for name, copy in zip(chosen, copies, strict=True) if copy}
    corpus = _Corpus(dataset.documents, set(allowed) - repeated, seed)
    found: dict[str, list[Pair]] = {}
    wanted = list(dict.fromkeys(methods))
    for name, copy in zip(track(chosen, "pairs", unit="documents"), copies, strict=True):
        document = dataset.documents[name]
        made = [] if copy else [METHODS[method](document, corpus) for method in wanted]
        found[name] = [pair for pair in made if isinstance(pair, Pair)]
        reasons = zip(wanted, made, strict=False)
        counts.update(f"{method}: {reason}" for method, reason in reasons if isinstance(reason, str))
    _drop_near(found, counts)
    counts.update(pair.kind for pairs in found.values() for pair in pairs)
    return found, +counts


def _sample(names: Sequence[str], limit: int, seed: int) -> list[str]:
    chosen = set(sorted(names, key=lambda name: text_key(f"{seed} {name}"))[:limit])
    return [name for name in names if name in chosen]


def _copies(texts: Sequence[str]) -> list[bool]:
    """Whether each text nearly repeats one before it."""
    tell("near-duplicates", 0, len(texts), "documents")
    return [] if not texts else [not first for first in near_duplicates(texts).first.tolist()]


def _drop_near(found: Mapping[str, list[Pair]], counts: Counter[str]) -> None:
    """Drop the texts of one kind that nearly agree: each would have several right answers."""
    for kind in METHODS:
        owners = [(name, pair) for name, pairs in found.items() for pair in pairs if pair.kind == kind]
        if not owners:
            continue
        for group in near_duplicates([pair.text for _, pair in owners], shingle=2).groups:
            for name, pair in (owners[i] for i in group):
                found[name].remove(pair)
                counts[f"{kind}: nearly the text of another"] += 1


def make_pairs(
    folder: Path | str,
    *,
    methods: Sequence[str] = tuple(METHODS),
    limit: int | None = None,
    split: str | None = "train",
    seed: int = 0,
) -> dict[str, Any]:
    """Write the column `pairs` of a dataset folder and return its meta file; arguments as of `pairs_of`.

    With the same documents and settings a finished column is left as it is.

    Raises:
        InputError: the folder is no dataset.
        ConfigError: a method is unknown, or the limit below 1.
        BusyError: another process writes this column.
    """
    dataset = Dataset.load(folder)
    made_by = {
        "command": "lode data pairs",
        "version": _VERSION,
        "methods": list(methods),
        "limit": limit,
        "split": split,
        "seed": seed,
        "dataset": dataset.fingerprint,
    }
    with ColumnWriter(folder, "pairs", "document", made_by=made_by) as column:
        if column.finished:
            return column.finish()
        found, counts = pairs_of(dataset, methods=methods, limit=limit, split=split, seed=seed)
        for name in column.missing(found):
            column.add(name, [pair.to_json() for pair in found[name]])
        return column.finish(**_report(methods, counts))


def _report(methods: Sequence[str], counts: Mapping[str, int]) -> dict[str, Any]:
    """Pairs by kind, rejects by kind and reason, documents left out."""
    rejects: dict[str, dict[str, int]] = {method: {} for method in methods}
    for method, reason, count in _rejected(counts):
        rejects[method][reason] = count
    return {
        "pairs": {method: counts.get(method, 0) for method in methods},
        "rejects": {method: dict(sorted(r.items(), key=lambda item: -item[1])) for method, r in rejects.items()},
        "left_out": {name: count for name, count in counts.items() if name.startswith("documents ")},
    }


def _rejected(counts: Mapping[str, int]) -> Iterator[tuple[str, str, int]]:
    for name, count in counts.items():
        method, colon, reason = name.partition(": ")
        if colon:
            yield method, reason, count


def pairs_text(info: Mapping[str, Any]) -> str:
    """The report of `make_pairs` for a reader."""
    total = sum(info["pairs"].values())
    lines = [f"{total:,} pairs from {info['counts']['done']:,} documents"]
    lines += [f"left out: {count:,} {reason}" for reason, count in info["left_out"].items()]
    for method, count in info["pairs"].items():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in info["rejects"][method].items())
        lines.append(f"{method}: {count:,}" + (f" (rejected: {reasons})" if reasons else ""))
    return "\n".join(lines)
