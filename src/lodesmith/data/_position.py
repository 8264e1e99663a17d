"""An exact position in epochs of batches, which a training saves and goes back to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from lodesmith.core.errors import ResumeError

__all__ = ["Position"]


class Position(ABC):
    """What `training.Batches` asks of a position: always after the last batch that was handed out."""

    def __init__(self) -> None:
        self._epoch = self._batch = 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch."""

    @abstractmethod
    def _meaning(self) -> dict[str, Any]:
        """What a position depends on, as JSON."""

    def rest(self) -> Iterator[tuple[int, int]]:
        """(epoch, batch) from the position to the end of its epoch."""
        epoch = self._epoch
        for number in range(self._batch, len(self)):
            yield epoch, number

    def passed(self) -> None:
        """Move the position on by a batch."""
        self._batch += 1
        if self._batch == len(self):
            self._epoch, self._batch = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batch, and what their meaning depends on: the same on all ranks."""
        return {"epoch": self._epoch, "batch": self._batch, **self._meaning()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position.

        Raises:
            ResumeError: it is a position in other batches.
        """
        for name, value in self._meaning().items():
            if state.get(name) != value:
                raise ResumeError(
                    f"the batches were begun with {name} {state.get(name)}, not {value}", "use the same data"
                )
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
