"""HotpotQA (Yang et al. 2018), distractor setting: questions that two Wikipedia paragraphs answer together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lodesmith.core.hashing import text_key
from lodesmith.core.records import Document, Query
from lodesmith.data.pulls import _catalogue as catalogue
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._json import elements
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._remote import Plan, Wanted
from lodesmith.data.pulls._source import Job

__all__ = ["HotpotQA"]


class HotpotQA:
    """`hotpotqa`: each paragraph of a question's context is a document; those with supporting facts are relevant,
    the others are its distractors, which become the column `negatives`. `--limit` keeps the first questions of each
    split.
    """

    options = frozenset({"limit", "split_ratio"})
    remember = True

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """Two JSON files."""
        return Plan(tuple(catalogue.HOTPOTQA.values()), "https://hotpotqa.github.io/", catalogue.LICENCES["hotpotqa"])

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Question by question."""
        for split, remote in catalogue.HOTPOTQA.items():
            if split in job.stage.steps:
                continue
            with job.file(remote).open("rb") as file:
                for number, row in enumerate(elements(file, remote.name)):
                    if number == job.wanted.limit:
                        break
                    try:
                        _add(job, split, row)
                    except (KeyError, TypeError, ValueError, AttributeError) as error:
                        raise LayoutError(
                            f"{remote.name}: a question lacks {error}", "take it from its publisher"
                        ) from None
            job.commit(split)
        return {"negatives": "the distractor paragraphs that HotpotQA gives with each question"}


def _add(job: Job, split: str, row: Mapping[str, Any]) -> None:
    key = row["_id"]
    if not job.stage.query(Query(key, row["question"].strip(), (str(row["answer"]),) if row["answer"] else ())):
        return
    supporting = {title for title, _ in row["supporting_facts"]}
    others = []
    for title, sentences in row["context"]:
        text = " ".join(sentence.strip() for sentence in sentences)
        document = text_key(f"{title}\n{text}")[:16]
        if not job.stage.has_document(document):
            job.stage.document(Document(document, title, text))
        if title in supporting:
            job.stage.judge(split, key, document)
        else:
            others.append(document)
    if others:
        job.stage.negatives(key, others)
