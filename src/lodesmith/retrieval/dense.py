"""Dense retrieval: an encoder and an index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lodesmith.core.protocols import Encoder
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors

__all__ = ["Dense", "Searched"]


class Searched(Protocol):
    """What an index does for retrieval."""

    def search(self, queries: Vectors, k: int) -> Run:
        """The k best items of each query; ties by id, descending."""
        ...


class Dense:
    """Encodes queries and looks them up in an index of document vectors of the same encoder."""

    def __init__(self, encoder: Encoder, index: Searched) -> None:
        self.encoder, self.index = encoder, index

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text)."""
        return self.index.search(self.encoder.encode(list(queries.values()), "query", tuple(queries)), k)
