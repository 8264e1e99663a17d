"""Queries for documents that come without: made from the documents themselves, or read from a file of the user's."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.lines import Line, LineError, bounded_lines, check_id, decode_json, decode_text, shorten
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.tables import open_plain
from lodesmith.data.duplicates import near_duplicates
from lodesmith.data.passages import sentences

__all__ = ["self_supervise", "with_queries"]

SPLITS = {"train": 0.70, "dev": 0.15, "test": 0.15}
FEWEST_QUERY = 3
FEWEST_SENTENCE = 5
MOST_QUERY = 40
FEWEST_REST = 20
_SOURCE = re.compile(r"#\d+$")
_TITLE_SHARE = 2  # every second document with a usable title is asked for by it, the others by their first sentence
_WORD = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]{2,}")


def self_supervise(dataset: Dataset, seed: int = 0) -> Dataset:
    """A dataset whose queries are titles, headings and leading sentences, each taken out of its passage.

    Splits are by source, the file that passages were cut from: no file is in two splits (with less than three files
    they are by passage, and `info["splits_by"]` says so). A title that several passages share is no query; neither
    are queries that nearly repeat each other, queries of passages that nearly repeat each other, and those of which
    less than 20 words would remain. All passages stay as documents.

    Args:
        dataset: documents; queries and judgements that it has are dropped.
        seed: of the splits and of the choice between title and sentence.
    """
    documents = list(dataset.documents.values())
    titles = Counter(document.title for document in documents)
    groups = near_duplicates([d.content for d in documents]).representatives
    copies = np.bincount(groups, minlength=1)[groups]
    made: dict[str, tuple[str, str, Document]] = {}
    for document, count in zip(documents, copies.tolist(), strict=True):
        if count == 1 and (found := _query(document, titles[document.title] == 1, seed)) is not None:
            made[document.id] = found
    made = _distinct(made)
    sources = {key: _SOURCE.sub("", key) for key in made}
    by_file = len(set(sources.values())) >= len(SPLITS)
    sources = sources if by_file else {key: key for key in made}
    split_of = _split_sources(Counter(sources.values()), seed)
    judgements: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for key, source in sources.items():
        judgements[split_of[source]][f"q:{key}"] = {key: 1}
    info = _info(dataset.info) | {
        "queries_from": "titles, headings and leading sentences, taken out of their passages (self-supervised)",
        "splits_by": "file" if by_file else "passage, for want of files",
        "queries_by_kind": dict(Counter(kind for kind, _, _ in made.values())),
        "seed": seed,
    }
    return Dataset(
        {d.id: made[d.id][2] if d.id in made else d for d in documents},
        {f"q:{key}": Query(f"q:{key}", text) for key, (_, text, _) in made.items()},
        judgements,
        info,
    )


def _info(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in ("counts", "fingerprints")}


def _query(document: Document, own_title: bool, seed: int) -> tuple[str, str, Document] | None:
    """The kind of query, its text, and the document without it."""
    by_title = int(text_key(f"{seed} {document.id}")[:8], 16) % _TITLE_SHARE == 0
    title = document.title.rpartition(" — ")[2] if own_title else ""
    if by_title and FEWEST_QUERY <= len(_WORD.findall(title)) <= MOST_QUERY:
        kept = document.title.rpartition(" — ")[0]
        if len(document.text.split()) >= FEWEST_REST and not _copied(title, f"{kept} {document.text}"):
            return ("heading" if kept else "title"), title, replace(document, title=kept)
    paragraph, gap, after = document.text.partition("\n\n")
    first, *others = sentences(paragraph) or [""]
    text = " ".join(first.split())
    rest = (" ".join(others) + gap + after).strip()
    if not FEWEST_SENTENCE <= len(_LETTERS.findall(text)) <= MOST_QUERY or len(rest.split()) < FEWEST_REST:
        return None
    return None if _copied(text, rest) else ("sentence", text, replace(document, text=rest))


def _copied(query: str, text: str) -> bool:
    """Whether a text holds the query's words in a row."""
    return f" {' '.join(_WORD.findall(query.lower()))} " in f" {' '.join(_WORD.findall(text.lower()))} "


def _distinct(made: Mapping[str, tuple[str, str, Document]]) -> dict[str, tuple[str, str, Document]]:
    """Without the queries that nearly repeat another: they would have more than one right answer."""
    keys = list(made)
    groups = near_duplicates([made[key][1] for key in keys], shingle=2).groups
    repeated = {keys[i] for group in groups for i in group}
    return {key: value for key, value in made.items() if key not in repeated}


def _split_sources(counts: Mapping[str, int], seed: int) -> dict[str, str]:
    """Source → split: in an order by hash, each source goes where most is missing of the split's share."""
    total = sum(counts.values())
    missing = {split: share * total for split, share in SPLITS.items()}
    # Large sources first: a book among leaflets cannot then overfill a small split.
    order = sorted(counts, key=lambda source: (-counts[source], text_key(f"{seed} {source}")))
    found = {}
    for source in order:
        split = max(missing, key=lambda name: missing[name])
        missing[split] -= counts[source]
        found[source] = split
    return found


# queries of the user's


def with_queries(dataset: Dataset, file: Path | str, *, seed: int = 0) -> Dataset:
    """The dataset with the queries of a file instead of its own.

    JSONL lines are `{"query" or "text", optional "_id", "relevant": [document ids] or {id: grade}, "split",
    "answers"}`; TSV lines are `text`, or `id`, `text`, or `id`, `text`, `document ids with spaces between`; lines of
    any other file are queries. Judged queries without a split are put into train, dev and test (70/15/15) by hash.

    Raises:
        InputError: a line is broken, repeats an id, or names an unknown document, with file and line.
    """
    path = Path(file)
    queries: dict[str, Query] = {}
    judgements: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    unplaced: list[str] = []
    relevant: dict[str, dict[str, int]] = {}
    parse = {"jsonl": _json_query, "ndjson": _json_query, "tsv": _tsv_query}.get(_suffix(path), _text_query)
    with open_plain(path) as lines:
        for line in bounded_lines(lines):
            if not line.raw.strip():
                continue
            try:
                query, grades, split = parse(line)
                _check(query, grades, queries, dataset)
            except LineError as error:
                raise InputError(f"broken line: {error}", _FORMS, path=path, line=line.number) from None
            queries[query.id] = query
            relevant[query.id] = grades
            if split:
                judgements.setdefault(split, {})[query.id] = grades
            elif grades:
                unplaced.append(query.id)
    if not queries:
        raise InputError("there are no queries in it", _FORMS, path=path)
    for split, keys in _portions(unplaced, seed).items():
        judgements[split] |= {key: relevant[key] for key in queries if key in keys}
    judgements = {split: {key: grades for key, grades in j.items() if grades} for split, j in judgements.items()}
    info = _info(dataset.info) | {"queries_from": path.name}
    return Dataset(dataset.documents, queries, {s: j for s, j in judgements.items() if j}, info, dataset.folder)


_FORMS = 'a line is {"query": …, "relevant": [ids]}, or the text of a query'
_Parsed = tuple[Query, dict[str, int], str]


def _suffix(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def _json_query(line: Line) -> _Parsed:
    value = decode_json(line)
    text = next((value[key] for key in ("query", "text", "question") if value.get(key) is not None), None)
    if not isinstance(text, str) or not text.strip():
        raise LineError("empty-query", f"'query' must be a string with text, not {shorten(text)}")
    key = value.get("_id", value.get("id", f"q{line.number}"))
    answers = value.get("answers") or []
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise LineError("bad-field", f"'answers' must be strings, not {shorten(answers)}")
    split = value.get("split") or ""
    if not isinstance(split, str) or not re.fullmatch(r"[\w-]*", split):
        raise LineError("bad-field", f"'split' must be a name, not {shorten(split)}")
    return Query(check_id(str(key)), text.strip(), tuple(answers)), _grades(value.get("relevant")), split


def _grades(value: Any) -> dict[str, int]:
    if isinstance(value, str | int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list) and all(isinstance(key, str | int) for key in value):
        return {str(key): 1 for key in value}
    if isinstance(value, dict) and all(type(grade) is int and grade >= 0 for grade in value.values()):
        return dict(value)
    if value is None:
        return {}
    raise LineError("bad-field", f"'relevant' must be document ids, or ids with grades, not {shorten(value)}")


def _tsv_query(line: Line) -> _Parsed:
    fields = [field.strip() for field in decode_text(line).split("\t")]
    if len(fields) == 1:
        return _text_query(line)
    if len(fields) > 3 or not fields[1]:
        raise LineError("field-count", f"expected id, text and perhaps document ids; found {len(fields)} fields")
    return Query(check_id(fields[0]), fields[1]), _grades(fields[2].split() if len(fields) == 3 else None), ""


def _text_query(line: Line) -> _Parsed:
    return Query(f"q{line.number}", decode_text(line).strip()), {}, ""


def _check(query: Query, grades: Mapping[str, int], queries: Mapping[str, Query], dataset: Dataset) -> None:
    if query.id in queries:
        raise LineError("duplicate-id", f"the id {query.id!r} occurs twice")
    for document in grades:
        if document not in dataset.documents:
            raise LineError("unknown-document", f"the document {document!r} is not in the dataset")


def _portions(keys: Sequence[str], seed: int) -> dict[str, set[str]]:
    """Judged queries by split: dev and test have their share, and at least one each where there are three."""
    order = sorted(keys, key=lambda key: text_key(f"{seed} {key}"))
    size = max(1, round(len(order) * SPLITS["test"])) if len(order) >= 3 else 0
    parts = {"test": order[:size], "dev": order[size : 2 * size], "train": order[2 * size :]}
    groups: dict[str, set[str]] = defaultdict(set)
    for split, part in parts.items():
        groups[split].update(part)
    return groups
