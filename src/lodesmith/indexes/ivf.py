"""`IVF`: rows in cells around k-means centres, of which the nearest are searched; by FAISS."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import faiss

from lodesmith.indexes._approximate import Approximate

__all__ = ["IVF"]

FEWEST = 39
"""So many training rows a centre needs (FAISS warns below)."""


def cells(rows: int) -> int:
    """4·√n cells, as FAISS's guidelines advise, where there are rows enough for them."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // FEWEST))


class IVF(Approximate):
    """4·√n cells of float32 rows."""

    efforts: ClassVar[tuple[int, ...]] = (4, 8, 16, 32, 64, 128, 256, 512)

    def make(self, rows: int, dimension: int, measure: int) -> Any:
        """Cells over float32 rows."""
        coarse = faiss.IndexFlat(dimension, measure)
        graph = faiss.IndexIVFFlat(coarse, dimension, cells(rows), measure)
        coarse.this.disown()  # the cells own it from here on
        graph.own_fields = True
        return graph

    def effort(self, value: int, selector: Any) -> Any:
        """`value` cells are searched."""
        return faiss.SearchParametersIVF(nprobe=value, sel=selector)
