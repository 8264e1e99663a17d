"""Whatever a batch holds is encoded as if each part went alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy_towers import Bag, pack, words

from lodesmith.core.errors import InputError
from lodesmith.objectives._parts import encode, encode_batch, join, split
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.triplet import Triplet

GENERATOR = torch.Generator().manual_seed(4)


def texts(n: int) -> dict[str, torch.Tensor]:
    return pack(words(n, GENERATOR))


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_packed_texts_are_joined_and_split_back() -> None:
    parts = [texts(3), pack([]), texts(1), texts(4)]
    joined = join(parts)
    assert joined["offsets"].tolist()[-1] == len(joined["ids"])
    for part, again in zip(parts, split(joined, [3, 0, 1, 4]), strict=True):
        assert same(part, again)


def test_a_slice_of_offsets_and_further_columns_are_joined_too() -> None:
    whole = {"ids": torch.arange(9), "offsets": torch.tensor([0, 2, 5, 9]), "vectors": torch.randn(9, 2)}
    first, second = split(whole, [1, 2])
    assert same(join([first, second]), whole)
    assert second["offsets"].tolist() == [0, 3, 7]


def test_a_tower_runs_once_and_gives_what_it_gives_apart() -> None:
    bag, own = Bag(), Bag()
    batch = {"queries": texts(4), "documents": texts(4), "negatives": texts(5), "pool": texts(3)}
    shared = encode_batch(batch, bag)
    assert bag.calls == 1
    for name, part in batch.items():
        torch.testing.assert_close(getattr(shared, name), bag(part))
    bag.calls = 0
    apart = encode_batch(batch, bag, own)
    assert (bag.calls, own.calls) == (1, 1)
    for name in ("documents", "negatives", "pool"):
        torch.testing.assert_close(getattr(apart, name), own(batch[name]))


def test_padded_texts_go_one_after_another() -> None:
    class Padded(nn.Module):
        def forward(self, padded: Any) -> torch.Tensor:
            ids: torch.Tensor = padded["input_ids"] * padded["attention_mask"]
            return ids.sum(1, keepdim=True).float()

    parts = [{"input_ids": torch.ones(2, n, dtype=torch.int64), "attention_mask": torch.ones(2, n)} for n in (3, 5)]
    assert [v.tolist() for v in encode(Padded(), parts)] == [[[3.0], [3.0]], [[5.0], [5.0]]]


def test_queries_without_their_documents_are_refused() -> None:
    with pytest.raises(InputError, match="4 queries but 3 documents"):
        encode_batch({"queries": texts(4), "documents": texts(3)}, Bag())


OBJECTIVES = [
    (Contrast, {}),
    (Contrast, {"negatives": "own"}),
    (Contrast, {"symmetric": True}),
    *((Triplet, {"negatives": name}) for name in ("random", "mined", "batch_all", "batch_hard", "semi_hard")),
]


@pytest.mark.parametrize(("kind", "settings"), OBJECTIVES)
@pytest.mark.parametrize("separate", [False, True])
def test_texts_give_what_their_vectors_give(kind: Any, settings: dict[str, Any], separate: bool) -> None:
    """Packed negatives hold the filled places alone; stored rows have something at every place."""
    towers = (Bag(), Bag()) if separate else (Bag(), None)
    negative_ids = torch.tensor([[4, 5], [-1, -1], [6, -1]])
    packed = {
        "query_ids": torch.tensor([0, 1, 2]),
        "document_ids": torch.tensor([0, 1, 2]),
        "negative_ids": negative_ids,
        "queries": texts(3),
        "documents": texts(3),
        "negatives": texts(3),
    }
    places = torch.full((3, 2, 6), 9.0)
    document_tower = towers[1] or towers[0]
    places[negative_ids >= 0] = document_tower(packed["negatives"])
    rows = packed | {"queries": towers[0](packed["queries"]), "negatives": places}
    rows["documents"] = document_tower(packed["documents"])
    torch.manual_seed(7)
    expected = kind(nn.Identity(), **settings)(rows)
    torch.manual_seed(7)
    objective = kind(*towers, **settings)
    found = objective(packed)
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-6)
    sum(found.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in objective.parameters())


@pytest.mark.parametrize(("kind", "settings"), OBJECTIVES)
def test_a_batch_whose_texts_have_no_negative_gives_a_number(kind: Any, settings: dict[str, Any]) -> None:
    batch = {"queries": texts(1), "documents": texts(1), "negatives": pack([])}
    batch["negative_ids"] = torch.zeros(1, 0, dtype=torch.int64)
    objective = kind(Bag(), **settings)
    terms = objective(batch)
    sum(terms.values()).backward()
    assert all(value.item() == 0.0 for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters())
