"""Threads that stand for processes: what they make of their shares of a batch, beside one process with all of it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from lodesmith.objectives import _ranks

Objective = Callable[[nn.Module], Callable[[Any], Mapping[str, torch.Tensor]]]
"""An encoder → the objective over it."""


class Meeting:
    """What `torch.distributed` does, between threads."""

    def __init__(self, world: int) -> None:
        self.world, self.place = world, threading.local()
        self._barrier = threading.Barrier(world, timeout=20)
        self._held: dict[int, torch.Tensor] = {}

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return self.world

    def get_rank(self) -> int:
        return int(self.place.rank)

    def _all(self, values: torch.Tensor) -> list[torch.Tensor]:
        self._held[self.get_rank()] = values.detach().clone()
        self._barrier.wait()
        found = [self._held[rank].clone() for rank in range(self.world)]
        self._barrier.wait()
        return found

    def all_gather(self, into: Sequence[torch.Tensor], values: torch.Tensor) -> None:
        for place, found in zip(into, self._all(values), strict=True):
            place.copy_(found)

    def all_reduce(self, values: torch.Tensor) -> None:
        values.copy_(torch.stack(self._all(values)).sum(0))


def found(tower: nn.Module, batch: Any, objective: Objective) -> dict[str, tuple[Any, Any]]:
    """Each term, and its gradient in the tower's parameters."""
    terms = objective(tower)(batch)
    parameters = list(tower.parameters())
    gradients = {name: torch.autograd.grad(term, parameters, retain_graph=True) for name, term in terms.items()}
    return {name: (term.detach(), gradients[name]) for name, term in terms.items()}


def compare(
    monkeypatch: pytest.MonkeyPatch, tower: nn.Module, whole: Any, shares: Sequence[Any], objective: Objective
) -> None:
    """The mean over the ranks, of terms and gradients, is what one process finds."""
    expected = found(tower, whole, objective)
    meeting = Meeting(len(shares))
    monkeypatch.setattr(_ranks, "distributed", meeting)

    def one(rank: int) -> dict[str, tuple[Any, Any]]:
        meeting.place.rank = rank
        return found(copy.deepcopy(tower), shares[rank], objective)

    with ThreadPoolExecutor(len(shares)) as pool:
        ranks = list(pool.map(one, range(len(shares))))
    assert set(ranks[0]) == set(expected)
    for name, (term, gradients) in expected.items():
        mean = torch.stack([own[name][0] for own in ranks]).mean()
        torch.testing.assert_close(mean, term, rtol=1e-5, atol=1e-6, msg=name)
        for number, gradient in enumerate(gradients):
            mean = torch.stack([own[name][1][number] for own in ranks]).mean(0)
            torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-5)
            assert gradient.abs().sum() > 0, name
