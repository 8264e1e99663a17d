"""MS MARCO passage ranking (Bajaj et al. 2016), from Microsoft's own files."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lodesmith.core.progress import tell
from lodesmith.core.records import Document, Query
from lodesmith.data.pulls import _catalogue as catalogue
from lodesmith.data.pulls._errors import LayoutError, SizeError
from lodesmith.data.pulls._ids import Ids
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._remote import Plan, Wanted, sample
from lodesmith.data.pulls._source import DAMAGED, Job, plain, tsv

__all__ = ["MsMarco"]

_NEGATIVES = 8  # of each training query; the triples have up to a thousand
_LINE = 1 << 12  # bytes of a triple, generously
_FILES = re.compile(r"(^|/)(collection|queries\.(train|dev\.small)|qrels\.(train|dev\.small))\.tsv$")
_SPLITS = {"train": "train", "dev": "dev.small"}
_TASK = (
    "the task is passage ranking: each query against every passage (8,841,823 as published; dev is the small set of "
    "6,980 development queries, where BM25 has RR@10 .184, tuned .187); it is not the question answering set v1.1 with "
    "about ten candidates a query, where chance alone has .293"
)
"""Which of the tasks called MS MARCO a figure belongs to. BM25: Anserini with k1 .9, b .4, and with .82, .68; chance:
the mean of 1/rank over ten places.
"""

Judged = dict[str, "array[int]"]


class MsMarco:
    """`msmarco`: all judged training queries as `train`, the 6,980 of the small development set as `dev`, and for
    each training query the first negatives that Microsoft's triples name. `--limit` draws that many queries of each
    split and keeps only the passages that they name: an easier task than the full collection. `--split-ratio` holds
    the other training queries out as `test`.
    """

    options = frozenset({"limit", "split_ratio"})
    remember = True

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """An archive of collection, queries and judgements, and a file of triples that may not be read to its end."""
        files = (catalogue.MSMARCO["collection"], catalogue.MSMARCO["triples"])
        notes: tuple[str, ...] = (_TASK,)
        if wanted.limit is not None:
            notes += (f"this corpus holds only the passages that {wanted.limit:,} queries a split name: figures are "
                      "far above those of the full collection, and not comparable with them",)  # fmt: skip
        source = "https://microsoft.github.io/msmarco/Datasets"
        return Plan(files, source, catalogue.LICENCES["msmarco"], partial=True, notes=notes)

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Judgements first: they say which negatives and passages are wanted."""
        folder = _folder(job.unpacked(catalogue.MSMARCO["collection"], _FILES))
        judged = {s: _judged(folder / f"qrels.{n}.tsv", job.wanted) for s, n in _SPLITS.items()}
        negatives = _negatives(job, judged["train"])
        named = None if job.wanted.limit is None else _named([*judged.values(), negatives])
        with (folder / "collection.tsv").open("rb") as file:
            for number, (key, text) in enumerate(tsv(file, 2, "collection.tsv")):
                if named is None or key in named:
                    job.stage.document(Document(key, "", text.strip()))
                if number % 50_000 == 0:
                    tell("convert collection.tsv", number, None, "passages")
        for split, name in _SPLITS.items():
            _queries(job, folder / f"queries.{name}.tsv", split, judged[split])
        for query, ids in negatives.items():
            job.stage.negatives(query, map(str, ids))
        return {"negatives": f"the first {_NEGATIVES} a query in {catalogue.MSMARCO['triples'].name}"}


def _folder(unpacked: Path) -> Path:
    """Where the files lie: at the top of the archive, or in a folder of it."""
    found = next(unpacked.rglob("collection.tsv"), None)
    if found is None:
        raise LayoutError("collectionandqueries.tar.gz: has no collection.tsv", "take it from its publisher")
    return found.parent


def _judged(path: Path, wanted: Wanted) -> Judged:
    """Query → relevant passages, of the queries that are kept."""
    found: Judged = {}
    with path.open("rb") as file:
        for query, _, passage, grade in tsv(file, 4, path.name):
            if _number(grade, path.name) > 0:
                found.setdefault(query, array("q")).append(_number(passage, path.name))
    kept = sample(found, wanted.limit, wanted.seed)
    return {query: ids for query, ids in found.items() if query in kept}


def _number(text: str, name: str) -> int:
    try:
        if (value := int(text)).bit_length() < 64:
            return value
        raise ValueError
    except ValueError:
        raise LayoutError(f"{name}: {text[:60]!r} is no number", "take the file from its publisher") from None


def _negatives(job: Job, judged: Judged) -> Judged:
    """Query → passages of its triples, until each query has enough or the triples end."""
    remote = catalogue.MSMARCO["triples"]
    found: Judged = {}
    short = len(judged)
    with job.reading(remote) as raw:
        try:
            with plain(raw) as file:
                for number, (query, negative) in enumerate(_triples(file, remote.name)):
                    short -= _take(found, judged, query, negative)
                    if short == 0:
                        break
                    if number % 1_000_000 == 0:
                        tell(f"read {remote.name}", number, None, "triples")
        except OverflowError:
            raise LayoutError(f"{remote.name}: the number of a passage is too large", "run again") from None
        except DAMAGED as error:
            raise SizeError(f"{remote.name}: {error}", "run again, or take it from its publisher") from None
    return found


def _triples(file: IO[bytes], name: str) -> Iterator[tuple[str, int]]:
    """Query and negative of each line; there are 400 million, so the fields are taken as they are."""
    while line := file.readline(_LINE):
        fields = line.split(b"\t")
        try:
            yield fields[0].decode("ascii"), int(fields[2])
        except (IndexError, ValueError):
            raise LayoutError(f"{name}: {line[:60]!r} is no query, positive, negative", "run again") from None


def _take(found: Judged, judged: Judged, query: str, negative: int) -> bool:
    """Keep a negative if its query wants one; whether the query has enough now."""
    if query not in judged or negative in judged[query]:
        return False
    ids = found.setdefault(query, array("q"))
    if len(ids) >= _NEGATIVES or negative in ids:
        return False
    ids.append(negative)
    return len(ids) == _NEGATIVES


def _named(tables: Iterable[Judged]) -> Ids:
    named = Ids()
    for table in tables:
        for ids in table.values():
            for passage in ids:
                named.add(str(passage))
    return named


def _queries(job: Job, path: Path, split: str, judged: Judged) -> None:
    with path.open("rb") as file:
        for key, text in tsv(file, 2, path.name):
            if key in judged and job.stage.query(Query(key, text.strip())):
                for passage in judged[key]:
                    job.stage.judge(split, key, str(passage))
