"""Dense retrieval: an encoder and an index."""

from __future__ import annotations

from collections.abc import Mapping

from lodesmith.core.protocols import Encoder, Index
from lodesmith.core.run import Run

__all__ = ["Dense"]


class Dense:
    """Encodes queries and looks them up in an index of document vectors of the same encoder."""

    def __init__(self, encoder: Encoder, index: Index) -> None:
        self.encoder, self.index = encoder, index

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text)."""
        return self.index.search(self.encoder.encode(list(queries.values()), "query", tuple(queries)), k)
