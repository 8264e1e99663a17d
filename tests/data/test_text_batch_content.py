"""What batches of texts hold: ids, texts and negatives that belong together."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_worlds import conflict, epoch, ids, random_pairs, texts
from token_worlds import plain

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.records import Dataset
from lodesmith.data.text_batches import Plan, TextBatches, pad, spread
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.objectives.contrast import Contrast


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(tmp_path_factory.mktemp("tokens"), plain())


@pytest.fixture(scope="module")
def world(opened: TokenStore) -> tuple[Tokens, Tokens]:
    return opened.tokens(texts(400, 12)), opened.tokens(texts(300, 60, 1))


def test_texts_and_ids_belong_together(world: tuple[Tokens, Tokens]) -> None:
    pairs = random_pairs(100)
    mined = np.stack([pairs[:, 1] - 1, np.full(100, -1), np.where(pairs[:, 0] % 2, -1, 5)], 1)
    sides = {"queries": (world[0], "query_ids"), "documents": (world[1], "document_ids")}
    for batch in TextBatches(*world, pairs, batch_size=7, negatives=mined):
        assert next(iter(batch)) == "query_ids"  # its length is the number of examples that the loop reports
        for side, (tokens, name) in sides.items():
            flat, offsets = tokens.take(batch[name].numpy())
            assert batch[side]["ids"].tolist() == flat.tolist()
            assert batch[side]["offsets"].tolist() == offsets.tolist()
        numbers = batch["negative_ids"]
        assert numbers[:, 0].tolist() == (batch["document_ids"] - 1).tolist()
        assert (numbers >= 0).any(0).all()
        flat, _ = world[1].take(numbers[numbers >= 0].numpy())
        assert batch["negatives"]["ids"].tolist() == flat.tolist()


def test_equal_texts_have_one_number_in_pairs_and_negatives(opened: TokenStore) -> None:
    documents = opened.tokens(["1 1", "2 2", "1 1", "2 2"])
    queries = opened.tokens(["5", "6", "5"])
    batches = TextBatches(
        queries, documents, np.array([[0, 2], [1, 3], [2, 3]]), batch_size=3, negatives=np.array([[3], [2], [-1]])
    )
    found = {(*pair, *negative) for b in batches for pair, negative in zip(ids(b), b["negative_ids"].tolist())}  # noqa: B905
    assert {(own[0], own[1]) for own in found} == {(0, 0), (1, 1), (0, 1)}
    assert {own[2] for own in found if len(own) > 2} <= {0, 1, -1}
    assert batches.known.tolist() == [[0, 0], [1, 1], [0, 1]]


def test_the_contrastive_objective_masks_what_a_batch_says(world: tuple[Tokens, Tokens]) -> None:
    table = torch.nn.EmbeddingBag(1000, 8)
    pairs = random_pairs(200)
    mined = np.random.default_rng(0).integers(-1, 300, (200, 3))
    batches = TextBatches(*world, pairs, tokens=900, negatives=mined)
    contrast = Contrast(torch.nn.Identity(), known=batches.known)

    def embed(packed: dict[str, torch.Tensor]) -> torch.Tensor:
        return table(packed["ids"], packed["offsets"][:-1])

    for batch in batches:
        rows = {side: embed(batch[side]) for side in ("queries", "documents")}
        rows["negatives"] = spread(embed(batch["negatives"]), batch["negative_ids"])
        assert (rows["negatives"].abs().sum(-1) > 0).equal(batch["negative_ids"] >= 0)
        loss = contrast({**batch, **rows})["infonce"]
        assert torch.isfinite(loss)


def test_padded_batches_hold_the_same_texts(world: tuple[Tokens, Tokens]) -> None:
    pairs = random_pairs(100)
    packed = list(TextBatches(*world, pairs, batch_size=9))
    padded = list(TextBatches(*world, pairs, batch_size=9, padded=True))
    for flat, square in zip(packed, padded, strict=True):
        for side in ("queries", "documents"):
            assert square[side]["input_ids"][square[side]["attention_mask"].bool()].equal(flat[side]["ids"])
            assert square[side]["attention_mask"].sum(1).equal(flat[side]["offsets"].diff())
    made = pad({"ids": torch.tensor([5, 6, 7]), "offsets": torch.tensor([0, 1, 3])}, 9)
    assert made["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert made["attention_mask"].tolist() == [[1, 0], [1, 1]]
    nothing = {"ids": torch.zeros(0, dtype=torch.int64), "offsets": torch.zeros(1, dtype=torch.int64)}
    assert pad(nothing)["input_ids"].shape == (0, 0)


def test_negatives_may_stay_on_the_disk(world: tuple[Tokens, Tokens], tmp_path: Path) -> None:
    pairs = random_pairs(50)
    mined = np.random.default_rng(0).integers(-1, 300, (50, 4)).astype(np.int32)
    np.save(tmp_path / "n.npy", mined)
    for given_ in (mined, np.load(tmp_path / "n.npy", mmap_mode="r")):
        batches = TextBatches(*world, pairs, tokens=500, negatives=given_)
        assert sum(int((b["negative_ids"] >= 0).sum()) for b in batches) == int((mined >= 0).sum())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairs": np.zeros((0, 2))}, InputError, "no training pairs"),
        ({"pairs": [[0, 300]]}, InputError, "a document outside 0 to 299"),
        ({"pairs": [[-1, 0]]}, InputError, "a query outside 0 to 399"),
        ({"pairs": [0, 1]}, InputError, "must be"),
        ({"known": [[0, 900]]}, InputError, "known name a document"),
        ({"negatives": np.zeros((2, 3), int)}, InputError, r"negatives must be \[1, h\]"),
        ({"negatives": np.array([[300]])}, InputError, "numbers of the 300 documents"),
        ({"shard": (0, 2)}, InputError, "too few for 2 ranks"),
        ({"shard": (2, 2)}, ConfigError, "out of range"),
        ({"noise": -1}, ConfigError, "out of range"),
        ({"tokens": None}, ConfigError, "give one of them"),
        ({"tokens": 0}, ConfigError, "from 1 on"),
        ({"batch_size": 1, "shard": (0, 2)}, ConfigError, "no example each"),
    ],
)
def test_what_does_not_fit_is_refused(
    world: tuple[Tokens, Tokens], options: dict[str, Any], error: type, message: str
) -> None:
    given_ = {"pairs": [[0, 0]], "tokens": 100, **options}
    with pytest.raises(error, match=message):
        TextBatches(*world, np.asarray(given_.pop("pairs")), **given_)


def test_a_text_without_tokens_is_refused_where_it_is_used(opened: TokenStore) -> None:
    queries, documents = opened.tokens(["1", ""]), opened.tokens(["1", "", "2"])
    assert len(TextBatches(queries, documents, np.array([[0, 0]]), batch_size=1)) == 1
    with pytest.raises(InputError, match="the query 1 has no tokens"):
        TextBatches(queries, documents, np.array([[1, 0]]), batch_size=1)
    with pytest.raises(InputError, match="the document 1 has no tokens"):
        TextBatches(queries, documents, np.array([[0, 0]]), batch_size=1, negatives=np.array([[1]]))


@pytest.mark.data
def test_real_judgements_come_apart_and_whole(collections: Path, tmp_path: Path) -> None:
    dataset = Dataset.load(collections / "scifact")
    judged = dataset.split("train")
    number = {key: at for at, key in enumerate(dataset.documents)}
    pairs = np.array([(q, number[d]) for q, own in enumerate(judged.values()) for d in own])
    store = TokenStore(tmp_path, plain())
    sides = [dataset.queries[q].content for q in judged], [d.content for d in dataset.documents.values()]
    tokens = [store.tokens(" ".join(str(len(w)) for w in text.split()) for text in side) for side in sides]
    batches = TextBatches(*tokens, pairs, tokens=8192)
    known = set(map(tuple, batches.known.tolist()))
    for _ in range(2):
        plan = batches.plan
        dealt = epoch(batches)
        assert sum(map(len, dealt)) == len(pairs)
        assert not any(conflict(a, b, known) for own in dealt for a, b in combinations(own, 2))
        assert plan.short <= 4
    assert isinstance(plan, Plan)
