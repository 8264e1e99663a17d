"""Where positives may share a batch: every batch is full, the objective masks, and positions are not mixed up."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import combinations, islice
from typing import Any

import numpy as np
import pytest
import torch
from batch_worlds import conflict, epoch, ids, random_pairs, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from token_worlds import plain

from lodesmith.core.errors import ResumeError
from lodesmith.data.loading import LoadedBatches
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.objectives.contrast import Contrast
from lodesmith.training.health import crowded


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(tmp_path_factory.mktemp("tokens"), plain())


@pytest.fixture(scope="module")
def world(opened: TokenStore) -> tuple[Tokens, Tokens]:
    return opened.tokens(texts(400, 12)), opened.tokens(texts(300, 60, 1))


def asked(queries: int, documents: int = 1) -> NDArray[np.int64]:
    """Pairs of so many queries, which share a few documents."""
    return np.stack([np.arange(queries), np.arange(queries) % documents], 1)


@pytest.mark.parametrize("noise", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("many", [40, 43, 47])
def test_a_document_of_many_queries_is_dealt_in_full_batches(
    world: tuple[Tokens, Tokens], many: int, noise: float
) -> None:
    batches = TextBatches(*world, asked(many), batch_size=8, apart=False, noise=noise)
    assert len(batches) == math.ceil(many / 8)
    epochs = [epoch(batches) for _ in range(3)]
    for dealt in epochs:
        assert sorted(map(len, dealt), reverse=True) == [8] * (many // 8) + [many % 8] * (many % 8 > 0)
        assert sorted(pair for own in dealt for pair in own) == [(q, 0) for q in range(many)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(TextBatches(*world, asked(many), batch_size=8, noise=noise)) == many  # apart: each by itself


few = st.integers(0, 9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(few, few), min_size=1, max_size=60),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.1, 10.0]),
    st.booleans(),
    st.integers(0, 2),
)
def test_the_contract_of_full_batches(
    opened: TokenStore, pairs: list[tuple[int, int]], batch_size: int, noise: float, padded: bool, seed: int
) -> None:
    documents = opened.tokens(" ".join(["7"] * (1 + number // 2)) for number in range(10))  # two by two equal
    queries = opened.tokens(f"{number}" for number in range(10))
    batches = TextBatches(
        queries, documents, np.array(pairs), batch_size=batch_size, apart=False, noise=noise, padded=padded, seed=seed
    )
    assert len(batches) == math.ceil(len(pairs) / batch_size)
    for _ in range(3):
        dealt = epoch(batches)
        assert len(dealt) == len(batches)
        assert max(map(len, dealt)) <= batch_size
        lacking = len(batches) * batch_size - len(pairs)
        assert sum(len(own) < batch_size for own in dealt) <= 1 + lacking  # the last, and those that gave it some
        assert Counter(pair for own in dealt for pair in own) == Counter((q, d // 2 * 2) for q, d in pairs)
        assert batches.plan.displaced == 0


def test_a_token_budget_holds_too(world: tuple[Tokens, Tokens]) -> None:
    """A batch costs what its texts cost, whoever else asks for the document."""
    pairs = asked(300, 3)
    full, apart = (TextBatches(*world, pairs, tokens=600, apart=apart) for apart in (False, True))
    loads = [sum(len(batch[side]["ids"]) for side in ("queries", "documents")) for batch in full]
    assert max(loads) <= 600
    assert len(full) < len(apart) / 3
    assert len(full) <= sum(loads) / 600 * 1.2


def test_only_then_do_positives_of_each_other_meet(world: tuple[Tokens, Tokens]) -> None:
    pairs = asked(200, 5)
    known = set(map(tuple, pairs.tolist()))
    for apart in (False, True):
        dealt = epoch(TextBatches(*world, pairs, batch_size=16, apart=apart))
        meet = sum(conflict(a, b, known) for own in dealt for a, b in combinations(own, 2))
        assert bool(meet) != apart


def test_the_objective_masks_what_meets(world: tuple[Tokens, Tokens]) -> None:
    """All ask for one document: whatever else a batch holds of it is masked, and nothing is left to tell apart."""
    table = torch.nn.EmbeddingBag(1000, 8)
    losses = []
    for documents in (1, 5):
        batches = TextBatches(*world, asked(40, documents), batch_size=8, apart=False)
        contrast = Contrast(torch.nn.Identity(), known=batches.known)
        for batch in batches:
            rows = {name: table(batch[name]["ids"], batch[name]["offsets"][:-1]) for name in ("queries", "documents")}
            losses.append(float(contrast({**batch, **rows})["infonce"].detach()))
    assert losses[:5] == [0.0] * 5
    assert min(losses[5:]) > 0


def test_ranks_together_are_the_batch_of_one_process(world: tuple[Tokens, Tokens]) -> None:
    options: dict[str, Any] = {"batch_size": 20, "apart": False}
    whole = epoch(TextBatches(*world, asked(390, 2), **options))
    ranks = [list(TextBatches(*world, asked(390, 2), shard=(rank, 3), **options)) for rank in range(3)]
    assert [sorted(p for r in own for p in ids(r)) for own in zip(*ranks, strict=True)] == [sorted(b) for b in whole]
    assert [len(own) for own in whole].count(20) == 19


# --------------------------------------------------------------------- position


def test_a_position_is_resumed_exactly(world: tuple[Tokens, Tokens]) -> None:
    def build(**options: Any) -> TextBatches:
        return TextBatches(*world, asked(100, 3), **{"batch_size": 8, "apart": False, "noise": 10.0, **options})

    batches, stream, states = build(), [], [build().state_dict()]
    for _ in range(4):
        for batch in batches:
            stream.append(ids(batch))
            states.append(json.loads(json.dumps(batches.state_dict())))
    assert len(stream) == 4 * 13
    for taken in range(0, 3 * 13, 2):
        resumed: Any = build() if taken % 4 else LoadedBatches(build(), workers=0)
        resumed.load_state_dict(states[taken])
        left = 13 - taken % 13
        assert [ids(batch) for batch in resumed] == stream[taken : taken + left]
        assert [ids(batch) for batch in islice(resumed, 1)] == stream[taken + left : taken + left + 1]
    with pytest.raises(ResumeError, match="were begun with batch_size 8, not 9"):
        build(batch_size=9).load_state_dict(states[1])


@pytest.mark.parametrize("apart", [False, True])
def test_a_position_of_the_other_way_is_refused(world: tuple[Tokens, Tokens], apart: bool) -> None:
    """Even where both happen to have as many batches of the same data."""
    pairs = np.stack([np.arange(200), np.arange(200)], 1)
    begun, other = (TextBatches(*world, pairs, batch_size=8, apart=way) for way in (apart, not apart))
    assert len(begun) == len(other)
    with pytest.raises(ResumeError, match=f"were begun with apart {apart}, not {not apart}"):
        other.load_state_dict(begun.state_dict())
    before = {name: value for name, value in begun.state_dict().items() if name != "apart"}
    with pytest.raises(ResumeError, match="were begun with apart None"):
        other.load_state_dict(before)
    TextBatches(*world, pairs, batch_size=8, apart=apart).load_state_dict(begun.state_dict())


def test_apart_is_the_way_that_is_meant_without_a_word(world: tuple[Tokens, Tokens]) -> None:
    said, unsaid = (
        TextBatches(*world, random_pairs(), batch_size=9, apart=True),
        TextBatches(*world, random_pairs(), batch_size=9),
    )
    assert said.state_dict() == unsaid.state_dict()
    assert epoch(said) == epoch(unsaid)


def test_what_shares_a_batch_is_counted_and_told(world: tuple[Tokens, Tokens]) -> None:
    batches = TextBatches(*world, asked(40), batch_size=8, apart=False)
    assert batches.plan.collisions == 40 - 5  # all but the first of each batch
    assert [finding.cause for finding in crowded(batches)] == ["duplicates"]
    single = TextBatches(*world, asked(40, 40), batch_size=8, apart=False)
    assert single.plan.collisions == 0
    assert not list(crowded(single))


def test_a_loader_gives_the_known_positives_of_its_batches(world: tuple[Tokens, Tokens]) -> None:
    batches = TextBatches(*world, asked(20, 3), batch_size=8, known=np.array([[0, 2]]), apart=False)
    assert np.array_equal(LoadedBatches(batches, workers=1).known, batches.known)
