"""The training set of ColPali (Faysse et al. 2024): questions and the page images that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lodesmith.core.progress import tell
from lodesmith.core.records import Query
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._pages import add_page
from lodesmith.data.pulls._parquet import rows, seeded
from lodesmith.data.pulls._remote import Plan, Remote, Wanted
from lodesmith.data.pulls._source import Job

__all__ = ["ColPaliTrainSet"]

_REPO = "vidore/colpali_train_set"
_COLUMNS = ("image", "image_filename", "query", "answer")


class ColPaliTrainSet:
    """`colpali_train_set`: its `test` split, then its `train` split shard by shard in an order that the seed fixes.
    A shard is deleted once it is read, so that the disk never holds the whole download; `--limit` is a number of
    training pairs, and the pull ends with the shard that has enough.
    """

    options = frozenset({"limit"})
    remember = True

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """The Parquet shards, in the order in which they are read."""
        listing = origin.listing(_REPO, "data", revision)
        train = seeded(listing.parquet("data/train-"), wanted.seed, _REPO)
        files = (*listing.parquet("data/test-"), *train)
        unpacked = listing.unpacked("default")
        source = f"hub dataset {_REPO}"
        return Plan(files, source, listing.licence, listing.revision, wanted.limit is not None, unpacked)

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Shard by shard."""
        stage, limit = job.stage, job.wanted.limit
        for shard in job.plan.files:
            split = "test" if shard.name.startswith("test-") else "train"
            if shard.name in stage.steps:
                continue
            if split == "train" and limit is not None and stage.notes.get("train", 0) >= limit:
                break
            _shard(job, shard, split)
            job.commit(shard.name)
            job.forget(shard)
        return {}


def _shard(job: Job, shard: Remote, split: str) -> None:
    stage, seed = job.stage, job.wanted.seed
    prefix = shard.name.partition("-of-")[0]
    taken, limit = stage.notes.get(split, 0), job.wanted.limit if split == "train" else None
    order = (seed, shard.name) if split == "train" else None
    for number, row in enumerate(rows(job.file(shard), _COLUMNS, order=order, required=3, texts=("query",))):
        if taken == limit:
            break
        name = str(row["image_filename"] or "")
        add_page(stage, name, row)
        if not row["query"] or not stage.has_document(name):
            continue
        answer = row.get("answer")
        query = Query(f"{prefix}-{number}", row["query"], (answer,) if isinstance(answer, str) and answer else ())
        if stage.query(query):
            stage.judge(split, query.id, name)
            taken += 1
            tell(f"{split} pairs", taken, limit, "pairs")
    stage.notes[split] = taken
