"""Threads that stand for processes, each with a share of a batch, mimic as one process with all of it."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from taught_batches import Taught
from torch import nn
from toy_towers import Bag, pack, words

from lodesmith.objectives import _ranks
from lodesmith.objectives.mimic import Mimic

N = 7
ALL: dict[str, Any] = dict.fromkeys(("infonce", "mse", "cosine", "kl", "margin_mse", "relational", "relative"), 1.0)
SINGLE = ("mse", "cosine", "relational", "relative")


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


def texts() -> dict[str, list[list[int]]]:
    generator = torch.Generator().manual_seed(1)
    return {name: words(40, generator) for name in ("queries", "documents")}


def share(rows: slice, feed: str) -> dict[str, Any]:
    """The rows of a batch with unequally many mined documents, as stored rows or as packed texts."""
    numbers, ids = torch.arange(N), torch.arange(3 * N).reshape(N, 3) + 10
    ids[2], ids[4, 1:], ids[0, 0] = -1, -1, 5
    numbers, ids = numbers[rows], ids[rows]
    batch: dict[str, Any] = {"query_ids": numbers, "document_ids": numbers + 2, "negative_ids": ids}
    if feed == "packed":
        found = texts()
        batch["queries"] = pack([found["queries"][i] for i in numbers])
        batch["documents"] = pack([found["documents"][i + 2] for i in numbers])
        batch["negatives"] = pack([found["documents"][i] for i in ids[ids >= 0]])
    else:
        queries, documents = table(1), table(2)
        batch |= {"queries": queries[numbers], "documents": documents[numbers + 2], "negatives": documents[ids]}
    return Taught(None, table(3), table(4)).taught(batch)


def table(seed: int) -> torch.Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))


def found(tower: nn.Module, batch: dict[str, Any], settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each term, and its gradient in the tower's parameters."""
    terms = Mimic(tower, temperature=0.3, **settings)(batch)
    parameters = list(tower.parameters())
    gradients = {name: torch.autograd.grad(term, parameters, retain_graph=True) for name, term in terms.items()}
    return {name: (term.detach(), gradients[name]) for name, term in terms.items()}


def compare(
    monkeypatch: pytest.MonkeyPatch, tower: nn.Module, whole: Any, shares: Sequence[Any], settings: dict[str, Any]
) -> None:
    expected = found(tower, whole, settings)
    meeting = Meeting(len(shares))
    monkeypatch.setattr(_ranks, "distributed", meeting)

    def one(rank: int) -> dict[str, tuple[Any, Any]]:
        meeting.place.rank = rank
        return found(copy.deepcopy(tower), shares[rank], settings)

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


@pytest.mark.parametrize("feed", ["rows", "packed"])
@pytest.mark.parametrize("counts", [(4, 3), (7, 0), (1, 4, 2)])
@pytest.mark.parametrize("extra", [{}, {"negatives": "own"}, {"dimensions": (2, 4)}])
def test_shares_of_a_batch_are_the_batch(
    monkeypatch: pytest.MonkeyPatch, feed: str, counts: tuple[int, ...], extra: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    tower = Bag() if feed == "packed" else nn.Linear(6, 6)
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    shares = [share(slice(a, b), feed) for a, b in itertools.pairwise(ends)]
    compare(monkeypatch, tower, share(slice(None), feed), shares, {**ALL, **extra})


def single(queries: list[int], documents: list[int]) -> dict[str, Any]:
    """Texts without partners."""
    sides = texts()
    return {
        "queries": pack([sides["queries"][i] for i in queries]),
        "documents": pack([sides["documents"][i] for i in documents]),
        "query_targets": table(3)[queries],
        "document_targets": table(4)[documents],
    }


def test_single_texts_count_alike_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shares = [single([0, 1], [2, 3, 4]), single([], [5]), single([6], [])]
    whole, settings = single([0, 1, 6], [2, 3, 4, 5]), dict.fromkeys(SINGLE, 1.0)
    compare(monkeypatch, Bag(), whole, shares, settings)


def test_ranks_that_keep_to_themselves_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    expected = found(tower := Bag(), share(slice(0, 4), "packed"), ALL)
    monkeypatch.setattr(_ranks, "distributed", Meeting(2))  # would wait for the other one
    alone = found(tower, share(slice(0, 4), "packed"), {**ALL, "gather": False})
    for name, (term, _) in expected.items():
        torch.testing.assert_close(alone[name][0], term)
