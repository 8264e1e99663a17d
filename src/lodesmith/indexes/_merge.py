"""Two searches over different documents, as one."""

from __future__ import annotations

import numpy as np

from lodesmith.core.run import Run

__all__ = ["merge"]


def merge(first: Run, second: Run, k: int) -> Run:
    """The k best of two runs of the same queries over different documents."""
    queries = np.arange(len(first.query_ids))
    owner = np.concatenate([np.repeat(queries, np.diff(run.offsets)) for run in (first, second)])
    order = np.argsort(owner, kind="stable")
    rows = np.concatenate([first.rows, second.rows + len(first.document_ids)])[order]
    scores = np.concatenate([first.scores, second.scores])[order]
    names = first.document_ids + second.document_ids
    best = Run.ranked(first.query_ids, names, rows, scores, first.offsets + second.offsets).top(k)
    used, places = np.unique(best.rows, return_inverse=True)  # what fell out is forgotten
    return Run(best.query_ids, tuple(names[row] for row in used.tolist()), places, best.scores, best.offsets)
