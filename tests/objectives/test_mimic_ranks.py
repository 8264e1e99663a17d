"""Threads that stand for processes, each with a share of a batch, mimic as one process with all of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from meeting import Meeting, found
from meeting import compare as compared
from taught_batches import Taught
from torch import nn
from toy_towers import Bag, pack, words

from lodesmith.objectives import _ranks
from lodesmith.objectives.mimic import Mimic

N = 7
ALL: dict[str, Any] = dict.fromkeys(("infonce", "mse", "cosine", "kl", "margin_mse", "relational", "relative"), 1.0)
SINGLE = ("mse", "cosine", "relational", "relative")


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


def mimicking(settings: dict[str, Any]) -> Any:
    return partial(Mimic, temperature=0.3, **settings)


def compare(
    monkeypatch: pytest.MonkeyPatch, tower: nn.Module, whole: Any, shares: Sequence[Any], settings: dict[str, Any]
) -> None:
    compared(monkeypatch, tower, whole, shares, mimicking(settings))


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
    expected = found(tower := Bag(), share(slice(0, 4), "packed"), mimicking(ALL))
    monkeypatch.setattr(_ranks, "distributed", Meeting(2))  # would wait for the other one
    alone = found(tower, share(slice(0, 4), "packed"), mimicking({**ALL, "gather": False}))
    for name, (term, _) in expected.items():
        torch.testing.assert_close(alone[name][0], term)
