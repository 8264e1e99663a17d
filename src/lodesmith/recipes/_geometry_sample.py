"""The geometry of a model's vectors while it is trained: the same few rows at each validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.progress import listen
from lodesmith.core.protocols import Metric
from lodesmith.evaluation.geometry import figures

MOST = 4096
"""Documents that are looked at: enough for IsoScore up to 400 dimensions, and little beside an epoch."""


@dataclass(frozen=True)
class GeometrySample:
    """What is looked at; call it with the vectors of a validation.

    Args:
        documents: int64 [n], rows.
        pairs: int64 [p, 2] of (query row, document row) that belong together.
        metric: how vectors are compared.
        seed: of SIGReg's directions.
    """

    documents: NDArray[np.int64]
    pairs: NDArray[np.int64]
    metric: Metric
    seed: int

    @staticmethod
    def of(documents: NDArray[np.int64], pairs: NDArray[np.int64], metric: Metric, seed: int) -> GeometrySample:
        """At most `MOST` of the documents and of the pairs, drawn by the seed."""
        chosen = [_drawn(len(each), seed) for each in (documents, pairs)]
        return GeometrySample(documents[chosen[0]], pairs[chosen[1]], metric, seed)

    def __call__(self, queries: NDArray[np.floating], documents: NDArray[np.floating]) -> dict[str, float]:
        """Its figures, of queries [q, d] and all documents [m, d]; none where there are not two documents."""
        if len(self.documents) < 2:
            return {}
        pairs = (queries[self.pairs[:, 0]], documents[self.pairs[:, 1]]) if len(self.pairs) else None
        with listen(lambda _: None):  # too short to be told of
            return figures(documents[self.documents], pairs, metric=self.metric, seed=self.seed)


def _drawn(count: int, seed: int) -> NDArray[np.int64]:
    """Row numbers, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:MOST])
