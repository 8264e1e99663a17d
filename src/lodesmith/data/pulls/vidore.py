"""The ViDoRe benchmarks (Faysse et al. 2024, Macé et al. 2025): page images and questions about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.lines import shorten
from lodesmith.core.records import Query
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._hub import Listing
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._pages import add_page
from lodesmith.data.pulls._parquet import rows
from lodesmith.data.pulls._remote import Plan, Remote, Wanted, sample
from lodesmith.data.pulls._source import Job

__all__ = ["Vidore"]

_TABLES = ("corpus", "queries", "qrels")
_PAGE = ("image", "image_filename", "query", "answer", "text_description")


class Vidore:
    """`vidore/NAME`: any dataset of the hub's `vidore` organisation in one of its two layouts, as `test`.

    Version 1 has one table of questions with their page. As in the benchmark's own evaluation, rows with the same
    `image_filename` are one document, rows with the same question are one query, and the page of the last of them
    is its relevant one; rows without a question are pages only. Version 2 has `corpus`, `queries` and `qrels`.
    `--limit` keeps that many queries and all pages.
    """

    options = frozenset({"limit"})
    remember = True

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """The Parquet files of the test split."""
        repo = f"vidore/{wanted.detail}"
        if not wanted.detail or "/" in wanted.detail:
            raise InputError(f"{wanted.name!r} is not vidore/NAME", "for example vidore/arxivqa_test_subsampled")
        listing = origin.listing(repo, "", revision)
        files = _tables(listing) or listing.parquet("data/test-") or listing.parquet("data/")
        if not files:
            raise LayoutError(
                f"{repo}: has neither data/test-*.parquet nor corpus, queries and qrels", "check the name"
            )
        known = [listing.unpacked(config) for config in (_TABLES if _tables(listing) else ("default",))]
        unpacked = None if None in known else sum(size or 0 for size in known)
        source = f"hub dataset {repo}"
        return Plan(files, source, listing.licence, listing.revision, unpacked=unpacked)

    def convert(self, job: Job) -> Mapping[str, Any]:
        """By layout."""
        if any(_table(file) for file in job.plan.files):
            _second(job)
        else:
            _first(job)
        return {}


def _tables(listing: Listing) -> tuple[Remote, ...]:
    """The files of the second layout, or none."""
    found = {table: listing.parquet(f"{table}/") for table in _TABLES}
    return sum(found.values(), ()) if all(found.values()) else ()


def _table(file: Remote) -> str:
    """Which table of the second layout a file belongs to, or ''."""
    parent = file.path.split("/")[-2] if "/" in file.path else ""
    return parent if parent in _TABLES else ""


def _first(job: Job) -> None:
    """Shard by shard: pages as they come; judgements once all questions are known."""
    stage = job.stage
    targets: dict[str, list[str]] = stage.notes.setdefault("targets", {})  # question → [file name, answer]
    for shard in job.plan.files:
        if shard.name in stage.steps:
            continue
        for row in rows(job.file(shard), _PAGE, required=3, texts=("query",)):
            name = str(row["image_filename"] or "")
            add_page(stage, name, row)
            if row["query"]:
                answer = row.get("answer")
                targets[row["query"]] = [name, answer if isinstance(answer, str) else ""]
        job.commit(shard.name)
        job.forget(shard)
    numbered = {f"q{number}": question for number, question in enumerate(targets)}
    kept = sample(numbered, job.wanted.limit, job.wanted.seed)
    for key, question in numbered.items():
        name, answer = targets[question]
        if key in kept and stage.query(Query(key, question, (answer,) if answer else ())):
            stage.judge("test", key, name)


def _second(job: Job) -> None:
    """Corpus shard by shard, then judgements, which say which queries a limit may keep, then queries."""
    stage, files = job.stage, {t: [f for f in job.plan.files if _table(f) == t] for t in _TABLES}
    for shard in files["corpus"]:
        if shard.path in stage.steps:
            continue
        for row in rows(job.file(shard), ("image", "corpus-id", "corpus_id", "text_description", "markdown")):
            add_page(stage, _id(row, "corpus"), row)
        job.commit(shard.path)
        job.forget(shard)
    judged = [
        (_id(row, "query"), _id(row, "corpus"), _grade(row["score"]))
        for file in files["qrels"]
        for row in rows(job.file(file), ("score", "query-id", "corpus-id", "query_id", "corpus_id"))
    ]
    kept = sample({query for query, _, _ in judged}, job.wanted.limit, job.wanted.seed)
    for file in files["queries"]:
        for row in rows(job.file(file), ("query", "query-id", "query_id", "answer"), texts=("query",)):
            if job.wanted.limit is None or _id(row, "query") in kept:
                answer = row.get("answer")
                answers = (answer,) if isinstance(answer, str) and answer else ()
                stage.query(Query(_id(row, "query"), row["query"] or "", answers))
    for query, document, grade in judged:
        if query in kept:
            stage.judge("test", query, document, grade)


def _id(row: Mapping[str, Any], table: str) -> str:
    value = row.get(f"{table}-id", row.get(f"{table}_id"))
    if value is None:
        raise LayoutError(f"a row has no {table}-id", "this is not the published layout: check the name")
    return str(value)


def _grade(score: object) -> int:
    if not isinstance(score, int | float) or not math.isfinite(score) or score != int(score):
        raise LayoutError(
            f"a judgement has the grade {shorten(score)}, which is no whole number", "this is not the published layout"
        )
    return int(score)
