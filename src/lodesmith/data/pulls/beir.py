"""The public sets of the BEIR benchmark (Thakur et al. 2021), from their published archives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.lines import Line, LineError, bounded_lines, decode_json, decode_text
from lodesmith.core.records import parse_document, parse_query
from lodesmith.core.registry import did_you_mean
from lodesmith.data.pulls import _catalogue as catalogue
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._remote import Plan, Remote, Wanted, sample
from lodesmith.data.pulls._source import Job

__all__ = ["Beir"]

_PRIVATE = ("bioasq", "robust04", "signal1m", "trec-news")


class Beir:
    """`beir/NAME`: corpus, queries and judgements as published. `--limit` keeps that many queries of each split and
    the whole corpus, so that figures stay those of the full task.
    """

    options = frozenset({"limit"})
    remember = True

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """One archive."""
        return Plan((_archive(wanted.detail),), "BEIR", catalogue.LICENCES["beir"])

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Corpus, queries, then the judgements of each split."""
        set_, _, forum = job.wanted.detail.partition("/")
        prefix = f"{set_}/{forum}/" if forum else f"{set_}/"
        folder = job.unpacked(job.plan.files[0], re.compile(r"(^|/)(corpus|queries)\.jsonl$|/qrels/[^/]+\.tsv$"))
        root = folder / prefix
        if not (root / "corpus.jsonl").is_file():
            raise LayoutError(f"{job.plan.files[0].name}: has no {prefix}corpus.jsonl", "take it from its publisher")
        splits = {path.stem: list(_judgements(path)) for path in sorted((root / "qrels").glob("*.tsv"))}
        kept = {s: sample({row[0] for row in rows}, job.wanted.limit, job.wanted.seed) for s, rows in splits.items()}
        for value in _values(root / "corpus.jsonl"):
            with _counted(job):
                job.stage.document(parse_document(value))
        for value in _values(root / "queries.jsonl"):
            if job.wanted.limit is None or any(str(value.get("_id")) in keys for keys in kept.values()):
                with _counted(job):
                    job.stage.query(parse_query(value))
        for split, rows in splits.items():
            for query, document, grade in rows:
                if query in kept[split]:
                    job.stage.judge(split, query, document, grade)
        return {"drop_same_id": set_ in catalogue.BEIR_DROP_SAME_ID}


def _archive(detail: str) -> Remote:
    set_, _, forum = detail.partition("/")
    if set_ in _PRIVATE:
        raise InputError(f"beir/{set_} may not be passed on by BEIR", "ask its owners, then use `lode data import`")
    if set_ not in catalogue.BEIR:
        raise InputError(f"BEIR has no set {set_!r}", did_you_mean(set_, list(catalogue.BEIR)))
    if forum and (set_ != "cqadupstack" or forum not in catalogue.CQADUPSTACK):
        raise InputError(f"beir/{set_} has no part {forum!r}", did_you_mean(forum, list(catalogue.CQADUPSTACK)))
    return catalogue.BEIR[set_]


@contextmanager
def _counted(job: Job) -> Iterator[None]:
    """Leave out a record that no dataset may have."""
    try:
        yield
    except LineError as error:
        job.stage.repairs[error.kind] += 1


def _values(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in bounded_lines(file):
            if line.raw.strip():
                try:
                    yield {k: v for k, v in decode_json(line).items() if k in ("_id", "title", "text")}
                except LineError as error:
                    raise _broken(path, line, str(error)) from None


def _judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    """The judgements of a file; unlike elsewhere negative grades are let through, for the stage to count."""
    with path.open("rb") as file:
        for line in bounded_lines(file):
            try:
                fields = decode_text(line).split("\t")
            except LineError as error:
                raise _broken(path, line, str(error)) from None
            if fields == [""] or (line.number == 1 and not _whole(fields[-1])):
                continue
            if len(fields) != 3 or not _whole(fields[2]):
                raise _broken(path, line, "expected query, document and a whole grade, separated by tabs")
            yield fields[0], fields[1], int(fields[2])


def _whole(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,9}", text.strip(), re.ASCII) is not None


def _broken(path: Path, line: Line, reason: str) -> LayoutError:
    return LayoutError(f"{path.name}:{line.number}: {reason}", "run again, or take the archive from its publisher")
