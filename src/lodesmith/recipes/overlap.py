"""What test queries share with the training: documents that a training query was taught to find.

Splits are often made by query, so that a document answers queries of both sides (SciFact: 196 of 300 test queries).
Whoever learns which documents get asked for does well on those queries and knows nothing of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import read_object
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation, Pair
from lodesmith.evaluation.compare import compare
from lodesmith.evaluation.parts import part
from lodesmith.recipes.pairs import Pairs, document_rows

__all__ = ["Overlap", "measured", "notes_of", "overlap", "saved"]

MEASURE = "nDCG@10"


@dataclass(frozen=True)
class Overlap:
    """Judged queries of a split by whether any of their relevant documents was a positive of training."""

    shared: frozenset[str]
    new: frozenset[str]


def overlap(dataset: Dataset, pairs: Pairs, split: str) -> Overlap:
    """Compare a split's relevant documents with the training pairs; documents of equal text are one."""
    rows, taught = document_rows(dataset), set(np.unique(pairs.pairs[:, 1]).tolist())
    judged = dataset.split(split)
    shared = frozenset(
        query
        for query, documents in judged.items()
        if any(grade > 0 and rows.get(key) in taught for key, grade in documents.items())
    )
    return Overlap(shared, frozenset(judged) - shared)


def measured(evaluations: Sequence[Evaluation], found: Overlap, base: str, trained: str) -> dict[str, Any]:
    """Each system on both parts of the queries, and the trained one against its base there; empty where a part has
    fewer than the two queries that a comparison needs.

    Args:
        evaluations: of one split; `base` and `trained` are among them.
        found: of that split.
        base: name of the system that training began from.
        trained: name of the trained system.
    """
    if min(len(found.shared), len(found.new)) < 2:
        return {}
    told: dict[str, Any] = {"measure": MEASURE, "base": base, "trained": trained}
    for name, queries in (("shared", found.shared), ("new", found.new)):
        parts = [part(evaluation, queries) for evaluation in evaluations]
        two = [each for each in parts if each.system in (base, trained)]
        told[name] = {
            "queries": len(queries),
            "systems": {each.system: asdict(each.measures[MEASURE]) for each in parts},
            "difference": asdict(compare(two, measure=MEASURE, baseline=base).pair(trained, base)),
        }
    return told


def saved(path: Path) -> dict[str, Any]:
    """What `measured` gave and a run saved.

    Raises:
        IntegrityError: the file holds something else.
    """
    told = read_object(path)
    try:
        notes_of(told)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path}: not what a run tells of shared documents: {type(error).__name__}: {error}",
            "delete the file: it is a part of the report",
        ) from None
    return told


def notes_of(told: dict[str, Any]) -> list[str]:
    """The same in words, for the report; none where nothing is told."""
    if not told:
        return []
    trained, base = told["trained"], told["base"]
    lines = []
    for name, what in (
        ("shared", "with a relevant document that was a training positive"),
        ("new", "without such a document"),
    ):
        own, pair = told[name], Pair(**told[name]["difference"])
        means = {system: estimate["mean"] for system, estimate in own["systems"].items()}
        lines.append(
            f"The {own['queries']} queries {what}: {told['measure']} of {trained} {means[trained]:.3f}, of {base} "
            f"{means[base]:.3f}; difference {pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}], "
            f"p {pair.p:.4f} (not corrected)."
        )
    return lines
