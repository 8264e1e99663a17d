"""Known positives, looked up for a batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError


class Known:
    """Which documents are positives of which query.

    It is no module: buffers would be sent round by several processes at every step.

    Args:
        pairs: int64 [p, 2] of (query id, document id), from 0; None for none.

    Raises:
        InputError: they have another shape, or a number is below 0.
    """

    def __init__(self, pairs: NDArray[np.integer] | None) -> None:
        self._starts, self._listed = _by_query(pairs)

    def __len__(self) -> int:
        return len(self._listed)

    def among(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Bool [n, m]: whether the column's document is a known positive of the row's query.

        The known documents of the batch's queries are looked up among the sorted columns: no n × m × positives.

        Args:
            queries: int64 [n], ids; below 0 for one that is not known.
            documents: int64 [m], ids.
        """
        rows, positives = self.listed(queries)
        distinct, place_of = torch.unique(documents, return_inverse=True)
        table = torch.zeros(len(distinct), len(queries), dtype=torch.bool, device=queries.device)
        if len(distinct):
            place = torch.searchsorted(distinct, positives).clamp(max=len(distinct) - 1)
            hit = distinct[place] == positives
            table[place[hit], rows[hit]] = True
        return table[place_of].T  # whole rows are quicker to take than columns

    def listed(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every known positive of the queries: the row of its query, and its document; int64 [k] twice.

        Args:
            queries: int64 [n], ids; below 0 for one that is not known.
        """
        if self._starts.device != queries.device:
            self._starts, self._listed = self._starts.to(queries.device), self._listed.to(queries.device)
        last = len(self._starts) - 2
        counted = queries.clamp(0, last)
        starts = self._starts[counted]
        counts = torch.where((queries >= 0) & (queries <= last), self._starts[counted + 1] - starts, 0)
        rows = torch.repeat_interleave(torch.arange(len(queries), device=queries.device), counts)
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        return rows, self._listed[starts[rows] + within]


def _by_query(pairs: NDArray[np.integer] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Known pairs sorted by query: where each query's documents start (int64 [queries + 1]), and the documents."""
    if pairs is None or not len(pairs):
        return torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.min() < 0:
        raise InputError(f"known must be [p, 2] of ids from 0, not {list(pairs.shape)}")
    pairs = np.unique(pairs.astype(np.int64), axis=0)
    counts = np.bincount(pairs[:, 0])
    starts = np.concatenate([[0], np.cumsum(counts)])
    return torch.from_numpy(starts), torch.from_numpy(np.ascontiguousarray(pairs[:, 1]))
