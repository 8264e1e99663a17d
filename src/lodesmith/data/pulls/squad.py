"""SQuAD 1.1 (Rajpurkar et al. 2016): questions, and the Wikipedia paragraphs that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lodesmith.core.records import Document, Query
from lodesmith.data.pulls import _catalogue as catalogue
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._json import elements
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._remote import Plan, Wanted
from lodesmith.data.pulls._source import Job

__all__ = ["Squad"]


class Squad:
    """`squad`: each paragraph is a document, each question is answered by its own paragraph. `--limit` keeps the
    first questions of each split; `--split-ratio` divides by article, so that no paragraph is on both sides.
    """

    options = frozenset({"limit", "split_ratio"})
    remember = True

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """Two JSON files."""
        files = tuple(catalogue.SQUAD.values())
        return Plan(files, "https://rajpurkar.github.io/SQuAD-explorer/", catalogue.LICENCES["squad"])

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Article by article."""
        for split, remote in catalogue.SQUAD.items():
            if split in job.stage.steps:
                continue
            left = job.wanted.limit
            with job.file(remote).open("rb") as file:
                for article in elements(file, remote.name):
                    try:
                        left = _add(job, split, article, left)
                    except (KeyError, TypeError, AttributeError) as error:
                        raise LayoutError(
                            f"{remote.name}: an article lacks {error}", "take it from its publisher"
                        ) from None
                    if left == 0:
                        break
            job.commit(split)
        return {}


def _add(job: Job, split: str, article: Mapping[str, Any], left: int | None) -> int | None:
    """Add an article's paragraphs and questions, as many as are left."""
    title = article["title"]
    for number, paragraph in enumerate(article["paragraphs"]):
        if left == 0:
            break
        key = f"{title}#{number}"
        job.stage.document(Document(key, title.replace("_", " "), paragraph["context"]))
        for question in paragraph["qas"][:left]:
            answers = dict.fromkeys(answer["text"] for answer in question["answers"])
            if job.stage.query(Query(question["id"], question["question"].strip(), tuple(answers))):
                job.stage.judge(split, question["id"], key, group=title)
        left = None if left is None else max(0, left - len(paragraph["qas"]))
    return left
