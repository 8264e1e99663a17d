"""Worker processes that make the batches, through torchdata's StatefulDataLoader: the same batches, in order, with an
exact position, whatever their number.

    batches = LoadedBatches(TextBatches(queries, documents, pairs, tokens=16384), workers=2)

Reading a token store takes a few microseconds a text, so workers help where the training process has no time for that,
beside an accelerator for instance. They are given the numbers of the examples and read the texts; planning stays here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]

from lodesmith.core.errors import ConfigError
from lodesmith.data.text_batches import Plan, TextBatches

__all__ = ["LoadedBatches", "stateful_loader"]


class LoadedBatches:
    """The batches of `TextBatches`, made by workers; a `training.Batches`.

    A position that was saved with one number of workers is good for any other, and for `TextBatches` itself: what
    workers have made ahead of time does not count.

    Args:
        batches: what is to be made; its position is this one's.
        workers: processes; 0 for none.

    Raises:
        ConfigError: `workers` is below 0.
    """

    def __init__(self, batches: TextBatches, workers: int = 2) -> None:
        if workers < 0:
            raise ConfigError(f"workers must be at least 0, not {workers}")
        self.batches = batches
        self.workers = workers

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def plan(self) -> Plan:
        """The batches of the epoch in progress, over all ranks."""
        return self.batches.plan

    @property
    def known(self) -> NDArray[np.int64]:
        """int64 [·, 2]: as `TextBatches.known`."""
        return self.batches.known

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in stateful_loader(self.batches, self.workers):
            self.batches.passed()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out."""
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""
        self.batches.load_state_dict(state)


def stateful_loader(batches: TextBatches, workers: int = 0) -> StatefulDataLoader:
    """torchdata's loader over the rest of the epoch that `batches` stands in, for a training loop of one's own.

    Its `state_dict` is torchdata's: exact, small, and good for the same number of workers.
    """
    with warnings.catch_warnings():  # torchdata 0.11 calls a function that torch has deprecated since
        warnings.filterwarnings("ignore", ".*set_vital.*")
        return StatefulDataLoader(
            _Read(batches),
            batch_size=None,
            sampler=_Course(batches),
            num_workers=workers,
            collate_fn=_as_it_is,
            # A loader draws a seed when it starts. From torch's own generator that would change the training's numbers.
            generator=torch.Generator().manual_seed(batches.seed),
        )


class _Read(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples → batch; what a worker has."""

    def __init__(self, batches: TextBatches) -> None:
        self._batches = batches

    def __getitem__(self, examples: NDArray[np.int64]) -> dict[str, Any]:
        return self._batches.gather(examples)


class _Course(torch.utils.data.Sampler[Any]):
    """The examples of each batch to the end of the epoch, with a position for torchdata."""

    def __init__(self, batches: TextBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return _Walk(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class _Walk:
    """One pass of a `_Course`."""

    def __init__(self, batches: TextBatches) -> None:
        self._batches = batches
        state = batches.state_dict()
        self._epoch, self._number = int(state["epoch"]), int(state["batch"])

    def __iter__(self) -> _Walk:
        return self

    def __next__(self) -> NDArray[np.int64]:
        if self._number == len(self._batches):
            raise StopIteration
        share = self._batches.share(self._epoch, self._number)
        self._number += 1
        return share

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batch": self._number}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._epoch, self._number = state["epoch"], state["batch"]


def _as_it_is(batch: Any) -> Any:
    return batch
