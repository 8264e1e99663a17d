"""Batches with something of a teacher beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lodesmith.training.stage import Batches

__all__ = ["Beside"]


class Beside(ABC):
    """Batches of texts, each with what `beside` finds for it; in every other way they are as they were.

    Args:
        batches: of texts.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    @abstractmethod
    def beside(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What is added to a batch, by name."""

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            yield {**batch, **self.beside(batch)}

    def state_dict(self) -> dict[str, Any]:
        """The position of the batches."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""
        self._batches.load_state_dict(state)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._batches, name)  # what is known of collisions, positives and the plan
