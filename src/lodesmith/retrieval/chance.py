"""The random baseline: what a score is worth when nothing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lodesmith.core.hashing import text_key
from lodesmith.core.run import Run

__all__ = ["Chance"]


class Chance:
    """Ranks documents at random; a query's ranking depends on its id and the seed alone."""

    def __init__(self, ids: Sequence[str], seed: int = 0) -> None:
        self.ids, self.seed = tuple(ids), seed

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """k random documents of each query (id → text)."""
        k = min(k, len(self.ids))
        rows = [self._draw(query, k) for query in queries]
        scores = np.tile(np.arange(k, 0, -1, dtype=np.float64), len(rows))
        flat = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return Run.ranked(tuple(queries), self.ids, flat, scores, np.arange(len(rows) + 1) * k)

    def _draw(self, query: str, k: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        seed = int(text_key(f"{self.seed}\0{query}")[:16], 16)
        return np.random.default_rng(seed).choice(len(self.ids), k, replace=False)
