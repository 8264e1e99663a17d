"""Late interaction over several processes, each with queries and documents of other lengths: one process's loss."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from meeting import compare
from test_interact import Tokens
from torch import nn
from toy_towers import pack, words

from lodesmith.objectives.interact import Interact
from lodesmith.objectives.mid import Mid

N, WORDS = 7, 200


def share(rows: slice, *, mined: bool) -> dict[str, Any]:
    made = torch.Generator().manual_seed(1)
    queries, documents = (words(40, made) for _ in range(2))
    numbers, ids = torch.arange(N), torch.arange(3 * N).reshape(N, 3) + 10
    ids[2], ids[4, 1:], ids[0, 0] = -1, -1, 5
    numbers, ids = numbers[rows], ids[rows]
    asked, found = ([side[at] for at in numbers] for side in (queries, documents[2:]))
    counts = torch.tensor([len(text) for text in asked], dtype=torch.int64)
    lengths = torch.tensor([len(text) for text in found], dtype=torch.int64)
    columns = torch.zeros(int(counts.sum()), 1, dtype=torch.int64)
    batch: dict[str, Any] = {
        "queries": pack(asked),
        "documents": pack(found),
        "query_ids": numbers,
        "document_ids": numbers + 2,
        "interactions": {
            "columns": columns,
            "mass": torch.full(columns.shape, 0.8),
            "offsets": nn.functional.pad(counts.cumsum(0), (1, 0)),
            "lengths": lengths,
        },
    }
    if mined:
        batch |= {"negative_ids": ids, "negatives": pack([documents[i] for i in ids[ids >= 0]])}
    return batch


@pytest.mark.parametrize("counts", [(4, 3), (7, 0), (1, 4, 2)])
@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("kind", [Interact, Mid])
def test_shares_of_a_batch_of_token_vectors_are_the_batch(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], mined: bool, kind: Any
) -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    shares = [share(slice(a, b), mined=mined) for a, b in itertools.pairwise(ends)]
    whole = share(slice(None), mined=mined)
    compare(
        monkeypatch,
        Tokens(WORDS),
        whole,
        shares,
        lambda tower: kind(tower, temperature=0.3, pairwise=1.0, hinge={"weight": 1.0, "margin": 0.5}),
    )
