"""Every example once an epoch, within the budget, apart from its false negatives, whatever the data."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_worlds import conflict, epoch, ids, random_pairs, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from token_worlds import plain

from lodesmith.core.errors import ResumeError
from lodesmith.data._plan import _apart
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.training import Batches


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(tmp_path_factory.mktemp("tokens"), plain())


@pytest.fixture(scope="module")
def world(opened: TokenStore) -> tuple[Tokens, Tokens]:
    return opened.tokens(texts(400, 12)), opened.tokens(texts(300, 60, 1))


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
