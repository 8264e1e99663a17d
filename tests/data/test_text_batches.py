"""Every example once an epoch, within the budget, apart from its false negatives, whatever the data."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from token_worlds import plain

from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.records import Dataset
from lodesmith.data._plan import _apart
from lodesmith.data.text_batches import Plan, TextBatches, pad, spread
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import Batches


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(tmp_path_factory.mktemp("tokens"), plain())


def texts(count: int, longest: int, seed: int = 0) -> list[str]:
    """Different texts of 1 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    return [" ".join(map(str, [number, *rng.integers(0, 99, rng.integers(0, longest))])) for number in range(count)]


@pytest.fixture(scope="module")
def world(opened: TokenStore) -> tuple[Tokens, Tokens]:
    return opened.tokens(texts(400, 12)), opened.tokens(texts(300, 60, 1))


def random_pairs(count: int = 600, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 400, count), rng.integers(0, 300, count)], 1)


def ids(batch: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(batch["query_ids"].tolist(), batch["document_ids"].tolist(), strict=True))


def epoch(batches: TextBatches) -> list[list[tuple[int, int]]]:
    return [ids(batch) for batch in batches]


def conflict(a: tuple[int, int], b: tuple[int, int], known: set[tuple[int, int]]) -> bool:
    return (a[0], b[1]) in known or (b[0], a[1]) in known


def cost(batch: dict[str, Any]) -> int:
    """Tokens of a packed batch, or size of a padded one."""
    total = 0
    for side in ("queries", "documents", "negatives"):
        if side in batch:
            total += len(batch[side]["ids"]) if "ids" in batch[side] else batch[side]["input_ids"].numel()
    return total


few = st.integers(0, 9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(few, few), min_size=3, max_size=50),
    st.lists(st.tuples(few, few), max_size=8),
    st.lists(st.integers(1, 30), min_size=10, max_size=10),
    st.lists(few, min_size=10, max_size=10),
    st.sampled_from([(40, None), (None, 4), (60, 5), (25, 3)]),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.booleans(),
    st.integers(0, 2),
    st.data(),
)
def test_the_contract_of_a_plan(  # noqa: PLR0917
    opened: TokenStore,
    pairs: list[tuple[int, int]],
    known: list[tuple[int, int]],
    lengths: list[int],
    names: list[int],
    limits: tuple[int | None, int | None],
    noise: float,
    padded: bool,
    seed: int,
    data: Any,
) -> None:
    # Documents of one name are equal texts; so are their positives.
    documents = opened.tokens(" ".join(["7"] * lengths[name]) + f" {name}" for name in names)
    queries = opened.tokens(f"{number}" for number in range(10))
    mined = None
    if data.draw(st.booleans()):
        mined = np.array(data.draw(st.lists(st.tuples(*[st.integers(-1, 9)] * 2), min_size=len(pairs), max_size=50)))
        mined = mined[: len(pairs)]
    tokens, batch_size = limits
    options = {"tokens": tokens, "batch_size": batch_size, "noise": noise, "padded": padded, "negatives": mined}
    batches = TextBatches(
        queries, documents, np.array(pairs), known=np.array(known).reshape(-1, 2), seed=seed, **options
    )
    first = [names.index(name) for name in names]
    positives = {(q, first[d]) for q, d in [*pairs, *known]}
    for _ in range(3):
        dealt, beyond = [], 0
        plan = batches.plan
        for batch in batches:
            assert len(batch["query_ids"]) <= (batch_size or 50)
            if tokens is not None and cost(batch) > tokens:
                beyond += 1
                assert len(batch["query_ids"]) == 1
            dealt.append(ids(batch))
        assert plan.beyond == beyond
        assert plan.collisions == 0
        assert len(dealt) == len(batches)
        assert Counter(p for own in dealt for p in own) == Counter((q, first[d]) for q, d in pairs)
        assert not any(conflict(a, b, positives) for own in dealt for a, b in combinations(own, 2))
    assert {tuple(pair) for pair in batches.known.tolist()} == positives


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(few, few), min_size=4, max_size=50),
    st.integers(2, 4),
    st.sampled_from([(40, None), (None, 4), (8, 6)]),
    st.integers(0, 2),
)
def test_ranks_share_every_batch_and_none_is_idle(
    opened: TokenStore, pairs: list[tuple[int, int]], ranks: int, limits: tuple[int | None, int | None], seed: int
) -> None:
    both = opened.tokens(texts(10, 12)), opened.tokens(texts(10, 20, 1))

    def build(rank: int, many: int) -> TextBatches:
        options = {"tokens": limits[0], "batch_size": limits[1]}
        return TextBatches(*both, np.array(pairs), seed=seed, shard=(rank, many), **options)

    every = [build(rank, ranks) for rank in range(ranks)]
    assert len({len(one) for one in every}) == 1
    plan = every[0].plan
    dealt = []
    for shares in zip(*every, strict=True):
        counts = [len(share["query_ids"]) for share in shares]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1
        dealt.append([pair for share in shares for pair in ids(share)])
    assert [sorted(own) for own in dealt] == [
        sorted(map(tuple, every[0].examples.pairs[plan.batch(number)].tolist())) for number in range(len(plan))
    ]
    assert Counter(p for own in dealt for p in own) == Counter(pairs)
    colliding = sum(conflict(a, b, set(pairs)) for own in dealt for a, b in combinations(own, 2))
    assert bool(colliding) == bool(plan.collisions)


def test_ranks_together_are_the_batch_of_one_process(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(300), np.arange(300)], 1)
    whole = epoch(TextBatches(*world, pairs, tokens=500))
    ranks = [list(TextBatches(*world, pairs, tokens=500, shard=(rank, 3))) for rank in range(3)]
    assert [sorted(p for r in own for p in ids(r)) for own in zip(*ranks, strict=True)] == [sorted(b) for b in whole]


def test_ranks_get_like_shares_of_unlike_texts(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(300), np.arange(300)], 1)
    ranks = [TextBatches(*world, pairs, batch_size=30, noise=9.0, shard=(rank, 3)) for rank in range(3)]
    loads = np.array([[cost(batch) for batch in own] for own in ranks])
    assert ((loads.max(0) - loads.min(0)) / loads.mean(0)).max() < 0.05


# ---------------------------------------------------------------------- quality


def test_batches_are_full_near_in_length_and_not_sorted(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(300), np.arange(300)], 1)
    batches = TextBatches(*world, pairs, tokens=400)
    lengths = [batch["documents"]["offsets"].diff().tolist() for batch in batches]
    loads = [cost(batch) for batch in TextBatches(*world, pairs, tokens=400)]
    assert np.mean(loads) > 0.85 * 400
    assert batches.plan.short <= 1 + len(batches) // 100
    later = [batch["documents"]["offsets"].diff().tolist() for batch in batches]
    for epoch_ in (lengths, later):
        means = [np.mean(own) for own in epoch_]
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6
    assert np.mean([max(own) / np.mean(own) for own in lengths]) < 1.35
    mixed = TextBatches(*world, pairs, tokens=400, noise=5.0)
    assert np.mean([max(own) / np.mean(own) for own in (b["documents"]["offsets"].diff().numpy() for b in mixed)]) > 1.5


def test_noise_mixes_batches_from_epoch_to_epoch(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(300), np.arange(300)], 1)
    still, noisy = (TextBatches(*world, pairs, batch_size=10, noise=noise) for noise in (0.0, 0.2))
    together = []
    for batches in (still, noisy):
        neighbours = [{frozenset(p) for b in epoch(batches) for p in combinations(b, 2)} for _ in range(2)]
        together.append(len(neighbours[0] & neighbours[1]) / len(neighbours[0]))
    assert together[1] < together[0] - 0.1
    assert together[1] < 0.6


def test_what_shares_a_document_is_spread_and_batches_stay_full(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(400), np.arange(400) // 5], 1)  # five queries a document, as in reading comprehension
    batches = TextBatches(*world, pairs, batch_size=16)
    assert len(batches) == 25
    for _ in range(5):
        plan = batches.plan
        assert plan.displaced <= 12
        assert [len(own) for own in epoch(batches)].count(16) >= 24


def test_one_document_for_all_ends_in_batches_of_one(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(200), np.zeros(200, int)], 1)
    batches = TextBatches(*world, pairs, batch_size=16)
    assert [len(own) for own in epoch(batches)] == [1] * 200
    assert batches.plan.short == 200
    hot = np.concatenate([pairs[:20], np.stack([np.arange(200, 400), np.arange(1, 201)], 1)])
    batches = TextBatches(*world, hot, batch_size=8)
    assert len(batches) == 28  # one of the twenty in each of so many
    assert all(sum(d == 0 for _, d in own) <= 1 for own in epoch(batches))


def test_deal_is_linear_where_everything_conflicts(opened: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from lodesmith.data._conflicts import Seated

    asked = []
    admits = Seated.admits
    monkeypatch.setattr(Seated, "admits", lambda self, *a: asked.append(1) or admits(self, *a))
    queries, document = opened.tokens(texts(2000, 3)), opened.tokens(["1 2 3"])
    plan = TextBatches(queries, document, np.stack([np.arange(2000), np.zeros(2000, int)], 1), tokens=100).plan
    assert len(plan) == 2000
    assert len(asked) <= 2 * 5 * 2000  # two plans, each with at most five looks at an example


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 3)), min_size=1, max_size=30))
def test_pushing_apart(places: list[tuple[float, int]]) -> None:
    at, group = (np.array(side) for side in zip(*places, strict=True))
    copies = Counter(group.tolist())
    moved = _apart(at.astype(float), group.astype(np.int32), 60.0)
    for name, count in copies.items():
        own = np.sort(moved[group == name])
        if own[-1] - own[0] < 58.4 and count <= 20:
            assert (np.diff(own) >= 1.5 - 1e-6).all()
        if count == 1:
            assert moved[group == name] == pytest.approx(at[group == name])


# --------------------------------------------------------------------- position


def test_epochs_and_seeds_differ_and_each_is_repeatable(world: tuple[Tokens, Tokens]) -> None:
    pairs = random_pairs()
    batches = TextBatches(*world, pairs, tokens=600)
    first, second = epoch(batches), epoch(batches)
    assert first != second
    again = TextBatches(*world, pairs, tokens=600)
    assert [epoch(again), epoch(again)] == [first, second]
    assert epoch(TextBatches(*world, pairs, tokens=600, seed=1)) != first
    direct = TextBatches(*world, pairs, tokens=600)
    direct.load_state_dict(direct.state_dict() | {"epoch": 1})
    assert epoch(direct) == second


def test_the_position_is_exact_at_any_batch(world: tuple[Tokens, Tokens]) -> None:
    def build(**options: Any) -> TextBatches:
        return TextBatches(*world, random_pairs(), **{"batch_size": 60, "negatives": None, **options})

    batches, stream, states = build(), [], [build().state_dict()]
    for _ in range(3):
        for batch in batches:
            stream.append(ids(batch))
            states.append(json.loads(json.dumps(batches.state_dict())))
    for taken in range(0, len(stream), 4):
        resumed = build()
        resumed.load_state_dict(states[taken])
        rest = [ids(batch) for batch in islice(resumed, 2)]
        assert rest == stream[taken : taken + len(rest)]
    assert len(json.dumps(states[-1])) < 300
    assert states[len(batches)]["epoch"] == 1
    assert isinstance(batches, Batches)
    for options in ({"batch_size": 61}, {"seed": 2}, {"known": np.array([[0, 1]])}, {"noise": 0.2}):
        with pytest.raises(ResumeError, match="were begun with"):
            build(**options).load_state_dict(states[1])


def test_a_position_in_other_data_of_the_same_size_is_refused(world: tuple[Tokens, Tokens]) -> None:
    pairs = np.stack([np.arange(300), np.arange(300)], 1)
    state = TextBatches(*world, pairs, batch_size=10).state_dict()
    others: list[Any] = [{"known": np.array([[399, 299]])}, {"negatives": np.zeros((300, 1), int)}, {}]
    for options, own in zip(others, (pairs, pairs, pairs[::-1]), strict=True):
        with pytest.raises(ResumeError, match="begun with data"):
            TextBatches(*world, own, batch_size=10, **options).load_state_dict(state)
    TextBatches(*world, pairs.copy(), batch_size=10).load_state_dict(state)


def test_a_store_filled_in_another_order_gives_the_same_batches(tmp_path: Path) -> None:
    sides = texts(50, 9), texts(40, 30, 1)
    found = []
    for name, first in (("a", [*sides[0], *sides[1]]), ("b", [*sides[1][::-1], *sides[0][::-1]])):
        filled = TokenStore(tmp_path / name, plain())
        filled.tokens(first)
        pairs = random_pairs() % [50, 40]
        batches = TextBatches(filled.tokens(sides[0]), filled.tokens(sides[1]), pairs, tokens=300)
        found.append((batches.state_dict(), [batch["documents"]["ids"].tolist() for batch in batches]))
    assert found[0] == found[1]


# ---------------------------------------------------------------------- content


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
