"""Queries made from documents alone, for a corpus that nobody has asked anything yet.

A sentence taken out of its passage asks for the rest of it (the inverse cloze task: Lee, Chang and Toutanova, "Latent
Retrieval for Weakly Supervised Open Domain Question Answering", 2019); a title asks for its body; a few rare words of
a sentence stand for a search by keywords.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.passages import sentences

__all__ = ["Kind", "Overlaid", "pseudo_queries"]

Kind = Literal["sentence", "title", "phrase"]

FEWEST_WORDS, MOST_WORDS = 5, 40
"""Words of a sentence that makes a query."""
FEWEST_TITLE = 3
FEWEST_REST = 15
"""Words that must remain of a document without its query."""
PHRASE = 4
"""Words of a key phrase."""
SPAN = 12
"""Words of a run that stands for a sentence where there are no sentences."""
_SHARE = 0.125
"""Of the documents, at most so many are held out for each kind."""
_WORD = re.compile(r"[^\W\d_]{2,}")
_STOP = re.compile(r"(?<=[.!?])\s+")
_SEPARATOR = " — "


@dataclass(frozen=True)
class _Made:
    """A query and its document without it."""

    kind: str
    text: str
    rest: Document


class Overlaid(Mapping[str, Document]):
    """The documents of a table, some of them changed; the table is read where it lies."""

    def __init__(self, table: Mapping[str, Document], changed: Mapping[str, Document]) -> None:
        self._table, self._changed = table, changed

    def __getitem__(self, key: str) -> Document:
        return self._changed[key] if key in self._changed else self._table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def pseudo_queries(
    dataset: Dataset,
    kinds: Sequence[Kind] = ("sentence", "title"),
    *,
    trained: Sequence[Kind] = ("sentence",),
    held_out: int = 300,
    limit: int | None = 4000,
    seed: int = 0,
) -> Dataset:
    """A dataset of the same documents whose queries are made from them: splits `train` and `dev`.

    The documents of `dev` stand without their query, so that finding one takes more than finding its words again; no
    query of `train` comes from them. Those of `train` are whole, so that their stored vectors serve. Documents of
    equal text, and titles that several share, make no query. Queries and judgements of the dataset are not looked at.

    Args:
        dataset: its documents alone count.
        kinds: of queries in `dev`; a document makes one of one kind.
        trained: kinds of queries in `train`; a document makes one of each. What helps a kind in `dev` that is not among
            them carries over to queries that nobody trained on.
        held_out: queries of each kind in `dev`, at most, and no more than an eighth of the documents.
        limit: queries in `train`, at most; None for no limit.
        seed: of what is drawn.

    Raises:
        InputError: no document can make a query, or one of another kind is asked for.
    """
    for kind in (*kinds, *trained):
        if kind not in get_args(Kind):
            raise InputError(f"no pseudo-query is of the kind {kind!r}", f"choose of: {', '.join(get_args(Kind))}")
    maker = _Maker(dataset, (*kinds, *trained), seed)
    order = maker.order()
    most = min(held_out, math.ceil(len(order) * _SHARE))
    dev = _held_out(maker, order, kinds, most)
    train = _training(maker, [key for key in order if key not in dev], trained, limit)
    if not train or not dev:
        raise InputError(
            f"{dataset.name}: {len(order):,} distinct documents are too few or too short to make queries from (words "
            "are what stands between spaces)",
            "fuse without training: `lode evaluate bm25+MODEL`, as `bm25+minilm`",
        )
    queries = {f"dev:{made.kind}:{key}": (key, made) for key, made in dev.items()}
    queries |= {f"train:{made.kind}:{key}": (key, made) for key, made in train}
    judged: dict[str, dict[str, dict[str, int]]] = {"train": {}, "dev": {}}
    for name, (key, _) in queries.items():
        judged[name.partition(":")[0]][name] = {key: 1}
    counts = {split: dict(Counter(name.split(":")[1] for name in own)) for split, own in judged.items()}
    return Dataset(
        Overlaid(dataset.documents, {key: made.rest for key, made in dev.items()}),
        {name: Query(name, made.text) for name, (_, made) in queries.items()},
        judged,
        {"name": dataset.name, "pseudo_queries": counts, "seed": seed},
    )


def _held_out(maker: _Maker, order: Sequence[str], kinds: Sequence[str], most: int) -> dict[str, _Made]:
    """Document → its query, the kinds in turn, so that none takes all the documents that suit another."""
    dev: dict[str, _Made] = {}
    counts = dict.fromkeys(kinds, 0)
    for key in order:
        open_kinds = sorted((kind for kind in counts if counts[kind] < most), key=counts.__getitem__)
        if not open_kinds:
            break
        made = next((made for kind in open_kinds if (made := maker.make(key, kind)) is not None), None)
        if made is not None:
            dev[key] = made
            counts[made.kind] += 1
    return dev


def _training(maker: _Maker, keys: Sequence[str], kinds: Sequence[str], limit: int | None) -> list[tuple[str, _Made]]:
    found: list[tuple[str, _Made]] = []
    for key in keys:
        found += [(key, made) for kind in kinds if (made := maker.make(key, kind)) is not None]
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


class _Maker:
    """Makes queries of a dataset's documents; which sentence is drawn depends on seed, document and kind alone."""

    def __init__(self, dataset: Dataset, kinds: Sequence[str], seed: int) -> None:
        self.documents, self.seed = dataset.documents, seed
        self._titles: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._copied: set[str] = set()
        self._frequency: Counter[str] = Counter()
        for key, document in dataset.documents.items():
            self._titles[document.title] += 1
            digest = text_key(document.content)
            self._copied |= {key, self._texts[digest]} if digest in self._texts else set()
            self._texts.setdefault(digest, key)
            if "phrase" in kinds:
                self._frequency.update(set(_words(document.content)))
        self._ways: dict[str, Callable[[Document], _Made | None]] = {
            "sentence": self._sentence,
            "title": self._title,
            "phrase": self._phrase,
        }

    def order(self) -> list[str]:
        """The documents whose text no other has, in an order drawn by the seed."""
        keys = [key for key in self.documents if key not in self._copied]
        return [keys[place] for place in np.random.default_rng(self.seed).permutation(len(keys))]

    def make(self, key: str, kind: str) -> _Made | None:
        """The document's query of a kind; None where it has none."""
        return self._ways[kind](self.documents[key])

    def _draw(self, document: Document, kind: str, count: int) -> int:
        return int(text_key(f"{self.seed} {kind} {document.id}")[:8], 16) % count

    def _sentence(self, document: Document, kind: str = "sentence") -> _Made | None:
        parts = _parts(" ".join(document.text.split()))
        fit = [place for place, part in enumerate(parts) if FEWEST_WORDS <= len(_words(part)) <= MOST_WORDS]
        if not fit:
            return None
        place = fit[self._draw(document, kind, len(fit))]
        return _made(kind, parts[place], replace(document, text=" ".join(parts[:place] + parts[place + 1 :])))

    def _title(self, document: Document) -> _Made | None:
        kept, _, title = document.title.rpartition(_SEPARATOR)
        if self._titles[document.title] > 1 or not FEWEST_TITLE <= len(_words(title)) <= MOST_WORDS:
            return None
        return _made("title", title, replace(document, title=kept))

    def _phrase(self, document: Document) -> _Made | None:
        """The rarest words of a sentence that other documents have too, in the sentence's order."""
        made = self._sentence(document, "phrase")
        if made is None:
            return None
        known = [word for word in dict.fromkeys(_words(made.text)) if self._frequency[word] > 1 and len(word) > 3]
        rarest = sorted(known, key=lambda word: (self._frequency[word], word))[:PHRASE]
        if len(rarest) < PHRASE - 1:
            return None
        return replace(made, text=" ".join(word for word in known if word in rarest))


def _made(kind: str, text: str, rest: Document) -> _Made | None:
    """None where too little is left of the document, or its words in a row would give the query away."""
    if len(rest.text.split()) < FEWEST_REST or f" {' '.join(_words(text))} " in f" {' '.join(_words(rest.content))} ":
        return None
    return _Made(kind, text, rest)


def _parts(text: str) -> list[str]:
    """The sentences of a text; of one that knows no capitals what its full stops divide, else runs of its words."""
    for parts in (sentences(text), _STOP.split(text)):
        if len(parts) > 1:
            return parts
    words = text.split()
    return [" ".join(words[start : start + SPAN]) for start in range(0, len(words), SPAN)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
