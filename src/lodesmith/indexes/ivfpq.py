"""`IVFPQ`: cells of product-quantised rows (Jégou, Douze & Schmid, 2011), by FAISS: a few bytes a row in memory."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import faiss

from lodesmith.indexes.ivf import FEWEST, IVF, cells

__all__ = ["IVFPQ"]


class IVFPQ(IVF):
    """A code of up to 8 bits for every 4 components (the nearest divisor); exact scores come from the vectors on disk.

    Codes are coarse, so more rows are named than by the other kinds.
    """

    named: ClassVar[int] = 16

    def make(self, rows: int, dimension: int, measure: int) -> Any:
        """Cells over codes; fewer bits where there are too few rows to learn 256 centres."""
        parts = next(p for p in range(max(1, dimension // 4), 0, -1) if dimension % p == 0)
        bits = min(8, max(1, int(math.log2(max(2, rows // FEWEST)))))
        coarse = faiss.IndexFlat(dimension, measure)
        graph = faiss.IndexIVFPQ(coarse, dimension, cells(rows), parts, bits, measure)
        coarse.this.disown()
        graph.own_fields = True
        return graph
