"""A teacher's vectors beside the texts of any batches with ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


class Taught:
    """Batches with targets.

    Args:
        batches: with `query_ids`, `document_ids` and perhaps `negative_ids`.
        queries: [q, t], the teacher's vectors by number.
        documents: [m, t].
    """

    def __init__(self, batches: Any, queries: torch.Tensor, documents: torch.Tensor) -> None:
        self.batches, self.queries, self.documents = batches, queries, documents

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.taught, self.batches)

    def taught(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """One batch with targets."""
        found = {"query_targets": self.queries[batch["query_ids"]]}
        found["document_targets"] = self.documents[batch["document_ids"]]
        if "negatives" in batch:
            ids, rows = batch["negative_ids"], isinstance(batch["negatives"], torch.Tensor)
            found["negative_targets"] = self.documents[ids if rows else ids[ids >= 0]]
        if "pool_ids" in batch:
            found["pool_targets"] = self.documents[batch["pool_ids"]]
        return {**batch, **found}

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        return dict(self.batches.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""
        self.batches.load_state_dict(state)
