"""Mine hard negatives for a split of a dataset folder into a column, resumably."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import sha256_file
from lodesmith.core.progress import listen, tell
from lodesmith.core.records import Dataset
from lodesmith.data.mine import Mined, Miner, PairScores, Rules
from lodesmith.recipes.scoring import cross_encoder, scored
from lodesmith.recipes.systems import resolve

__all__ = ["Rules", "check_name", "mine_dataset", "mining_text"]

_BATCH = 256
"""Queries that are searched together, and that a kill may lose."""

_REASONS = {
    "margin-relative": "too near to the positive (relative margin)",
    "margin-absolute": "too near to the positive (absolute margin)",
    "filtered": "too near to the positive, says the filter",
    "duplicate": "the words of a positive, or of the query",
    "near-duplicate": "nearly the words of a positive",
    "repeated": "the words of a candidate before",
    "empty": "no words",
    "not-needed": "not needed: there were enough",
    "kept": "kept",
}


def mine_dataset(
    folder: Path | str,
    system: str,
    *,
    split: str = "train",
    limit: int | None = None,
    rules: Rules | None = None,
    judge: str | None = None,
    name: str = "negatives",
) -> dict[str, Any]:
    """Write `columns/NAME.jsonl`: for each query with a positive `{"query", "ids", "scores"}`, best ranked first.

    An interrupted call is continued by the same one; what is finished is not made again.

    Args:
        folder: the dataset.
        system: any SYSTEM; its scores are what the margins compare and what the column holds.
        split: whose queries.
        limit: only the first so many of them.
        rules: what a negative is.
        judge: a cross-encoder that scores positives and candidates in the system's stead; candidates are judged as
            they are needed, so that its cost follows the number of negatives and not that of the ranks.
        name: of the column.

    Returns:
        What the column's meta file holds: `made_by`, `counts` (see `data.mine.Mined`), `seconds`.

    Raises:
        InputError: there is no such dataset, split, system or cross-encoder.
        ConfigError: the rules do not fit each other.
        BusyError: another process mines into this column.
    """
    folder, rules = Path(folder), rules or Rules()
    check_name(name)
    dataset = Dataset.load(folder)
    queries = {key: query.content for key, query in islice(dataset.queries_of(split).items(), limit)}
    if not queries:
        raise InputError(f"the split {split!r} has no queries", "choose another", path=folder)
    found = resolve(system, dataset)
    scorer, prints = _judge(judge, dataset)
    retriever, scores = scored(found)
    miner = Miner(dataset, split, rules, retriever, scores, scorer)
    made_by = {
        "annotator": "mine",
        "system": found.name,
        "fingerprints": dict(found.fingerprints) | prints | _index(system),
        "dataset": dataset.fingerprint,
        "split": split,
        "limit": limit,
        "rules": asdict(rules),
    }
    with ColumnWriter(folder, name, "query", made_by) as column:
        return _mine(miner, queries, column)


def check_name(name: str) -> None:
    """A column's name must be a plain file name.

    Raises:
        ConfigError: it is not.
    """
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(f"{name!r} cannot name a column", "use letters, digits, - and _")


def _mine(miner: Miner, queries: Mapping[str, str], column: ColumnWriter) -> dict[str, Any]:
    start = time.perf_counter()
    missing = column.missing(queries)
    done = len(queries) - len(missing)
    tell("mine", done, len(queries), "queries")
    for at in range(0, len(missing), _BATCH):
        batch = {query: queries[query] for query in missing[at : at + _BATCH]}
        with listen(lambda _: None):  # the searches of a batch would only flicker
            mined = list(miner.mine(batch))
        for query, negatives in mined:
            column.add(query, _rows(negatives), negatives.counts)
        column.sync()
        done += len(batch)
        tell("mine", done, len(queries), "queries")
    return column.finish(seconds=round(time.perf_counter() - start, 3), mined_now=len(missing))


def _rows(mined: Mined) -> list[dict[str, Any]]:
    """One row, with empty lists where nothing was left; none for a query without a positive."""
    if "without-positive" in mined.counts:
        return []
    return [{"ids": list(mined.ids), "scores": list(mined.scores)}]


def _judge(name: str | None, dataset: Dataset) -> tuple[PairScores | None, dict[str, str]]:
    if name is None:
        return None, {}
    encoder, documents = cross_encoder(name), dataset.documents

    def score(queries: Any, lists: Any) -> Any:
        return encoder.score_lists(queries, lists, lambda key: documents[key].content, activated=True)

    return score, {"filter": encoder.fingerprint}


def _index(system: str) -> dict[str, str]:
    """What is in a saved index: the model's fingerprint does not say that."""
    manifest = Path(system) / "manifest.json"
    return {"index": sha256_file(manifest)} if manifest.is_file() else {}


def mining_text(info: Mapping[str, Any]) -> str:
    """The report as lines of text."""
    counts, made = info["counts"], info["made_by"]
    wanted = made["rules"]["negatives"]
    total = counts.get("candidates", 0)
    lines = [
        f"columns/{info['column']}.jsonl: {counts.get('kept', 0):,} negatives for {counts['rows']:,} queries of "
        f"{made['split']}, mined with {made['system']} in {info['seconds']:,.1f} s",
        f"{total:,} candidates at ranks {made['rules']['first']}-{made['rules']['last']}:",
    ]
    for key, reason in _REASONS.items():
        if count := counts.get(key, 0):
            lines.append(f"  {count:>11,}  {count / total:6.1%}  {reason}")
    remarks = {
        "judged-0": "negatives kept that were judged not relevant",
        "short": f"queries with fewer than {wanted} negatives",
        "none": "queries among them with none",
        "positive-unranked": "queries with a positive outside the ranking",
        "without-positive": "queries without a positive in the corpus, left out",
        "unknown-document": "results that are not in the dataset",
    }
    lines += [f"{counts[key]:,} {words}" for key, words in remarks.items() if counts.get(key)]
    return "\n".join(lines)
