"""`HNSW`: a navigable graph (Malkov & Yashunin, arXiv:1603.09320), by FAISS."""

from __future__ import annotations

from typing import Any, ClassVar

import faiss

from lodesmith.indexes._approximate import Approximate

__all__ = ["HNSW"]

LINKS = 32
CONSTRUCTION = 100


class HNSW(Approximate):
    """32 links a row, built with 100 candidates, by one thread, since the order of insertion decides the graph."""

    threads: ClassVar[int | None] = 1

    def make(self, rows: int, dimension: int, measure: int) -> Any:
        """A graph over float32 rows."""
        graph = faiss.IndexHNSWFlat(dimension, LINKS, measure)
        graph.hnsw.efConstruction = CONSTRUCTION
        return graph

    def effort(self, value: int, selector: Any) -> Any:
        """`value` candidates are kept while searching."""
        return faiss.SearchParametersHNSW(efSearch=value, sel=selector)
