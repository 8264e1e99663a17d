"""Every example once an epoch, apart from its false negatives, at an exact position."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.records import read_judgements
from lodesmith.core.vectors import Vectors
from lodesmith.data.batching import Documents, PairBatches, Rows, crowd, deal
from lodesmith.training import Batches


def vectors(n: int) -> NDArray[np.float32]:
    return np.arange(2 * n, dtype=np.float32).reshape(n, 2)


def build(pairs: Any, **options: Any) -> PairBatches:
    pairs = np.asarray(pairs)
    options = {"batch_size": 4, **options}
    return PairBatches(pairs, vectors(100), vectors(200) + 0.5, **options)


def ids(batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(batch["query_ids"].tolist(), batch["document_ids"].tolist(), strict=True))


def epoch(batches: PairBatches) -> list[list[tuple[int, int]]]:
    return [ids(batch) for batch in batches]


def collide(a: tuple[int, int], b: tuple[int, int], known: set[tuple[int, int]]) -> bool:
    return (a[0], b[1]) in known or (b[0], a[1]) in known


def collisions(dealt: list[list[tuple[int, int]]], known: set[tuple[int, int]]) -> int:
    return sum(collide(a, b, known) for batch in dealt for a, b in combinations(batch, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=10),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_every_example_once_in_full_batches_and_no_uncounted_collision(
    pairs: list[tuple[int, int]], known: list[tuple[int, int]], batch_size: int, seed: int
) -> None:
    batches = build(pairs, batch_size=batch_size, seed=seed, known=np.array(known).reshape(-1, 2))
    counted = batches.collisions
    dealt = epoch(batches)
    assert sorted(pair for batch in dealt for pair in batch) == sorted(pairs)
    assert [len(batch) for batch in dealt[:-1]] == [batch_size] * (len(batches) - 1)
    assert bool(collisions(dealt, set(pairs) | set(known))) == bool(counted)


def test_what_can_be_kept_apart_is() -> None:
    # 10 batches; documents with up to 8 queries and queries with up to 8 documents, among many free pairs
    pairs = [(q, d) for d in range(5) for q in range(8 * d, 8 * d + 8)]
    pairs += [(40 + q, 10 + 8 * q + d) for q in range(5) for d in range(8)]
    pairs += [(60 + i, 100 + i) for i in range(40)]
    for seed in range(20):
        batches = build(pairs, batch_size=12, seed=seed)
        assert batches.collisions == 0
        assert collisions(epoch(batches), set(pairs)) == 0


def test_known_positives_of_other_pairs_count() -> None:
    pairs = [(0, 0), (1, 1), (2, 2), (3, 3)]
    known = np.array([[0, 1], [50, 2]])
    for seed in range(20):
        dealt = epoch(build(pairs, batch_size=2, seed=seed, known=known))
        assert not any({(0, 0), (1, 1)} <= set(batch) for batch in dealt)
    free = epoch(build(pairs, batch_size=2, seed=seed))
    assert any({(0, 0), (1, 1)} <= set(b) for s in range(20) for b in epoch(build(pairs, batch_size=2, seed=s)))
    assert len(free) == 2


def test_what_is_impossible_is_counted_and_happens_anyway() -> None:
    batches = build([(q, 0) for q in range(8)], batch_size=4)
    assert batches.collisions == 6  # two batches have room for one each
    assert [len(batch) for batch in epoch(batches)] == [4, 4]


@pytest.mark.data
def test_real_judgements_are_dealt_apart(collections: Path) -> None:
    judgements = read_judgements(collections / "scifact" / "qrels" / "train.tsv")
    documents: dict[str, int] = {}
    pairs = [(q, documents.setdefault(d, len(documents))) for q, own in enumerate(judgements.values()) for d in own]
    table = np.array(pairs)
    dealt = deal(table, crowd(table, table), 64, np.random.default_rng(0))
    parts = [list(map(tuple, table[dealt.order[i : i + 64]].tolist())) for i in range(0, len(table), 64)]
    assert dealt.collisions == 0
    assert collisions(parts, set(pairs)) == 0


def test_epochs_differ_seeds_differ_and_each_is_repeatable() -> None:
    pairs = [(i, i) for i in range(40)]
    batches = build(pairs)
    first, second = epoch(batches), epoch(batches)
    assert first != second
    assert [epoch(again := build(pairs)), epoch(again)] == [first, second]
    assert epoch(build(pairs, seed=1)) != first


@pytest.mark.parametrize("taken", [0, 1, 9, 10, 17, 20])
def test_the_position_is_exact_at_any_batch(taken: int) -> None:
    pairs = [(i, i % 30) for i in range(40)]
    batches, stream = build(pairs), []
    while len(stream) < 30:
        for batch in batches:
            stream.append(ids(batch))
            if len(stream) == taken:
                state = batches.state_dict()
    if not taken:
        state = build(pairs).state_dict()
    resumed = build(pairs)
    resumed.load_state_dict(state)
    rest: list[Any] = []
    while len(rest) < 30 - taken:
        rest += epoch(resumed)
    assert rest[: 30 - taken] == stream[taken:30]
    assert isinstance(resumed, Batches)
    with pytest.raises(ResumeError, match="begun with batch_size 4, not 5"):
        build(pairs, batch_size=5).load_state_dict(state)


def test_rows_and_ids_belong_together() -> None:
    pairs = [(i, 2 * i) for i in range(10)]
    mined = np.stack([np.arange(10) + 100, np.full(10, -1)], 1)
    for batch in build(pairs, negatives=mined, pool=3):
        assert torch.equal(batch["queries"], torch.tensor(vectors(100))[batch["query_ids"]])
        assert torch.equal(batch["documents"], torch.tensor(vectors(200) + 0.5)[batch["document_ids"]])
        assert torch.equal(batch["document_ids"], 2 * batch["query_ids"])
        assert torch.equal(batch["negative_ids"][:, 0], batch["query_ids"] + 100)
        assert torch.equal(batch["negatives"][:, 0], torch.tensor(vectors(200) + 0.5)[batch["negative_ids"][:, 0]])
        assert torch.equal(batch["pool"], torch.tensor(vectors(200) + 0.5)[batch["pool_ids"]])
        assert len(set(batch["pool_ids"].tolist())) == 3
    (whole,) = build(pairs, pool=10**6, batch_size=10)
    assert torch.equal(whole["pool_ids"], torch.arange(200))


def test_ranks_share_each_batch() -> None:
    pairs = [(i, i) for i in range(22)]
    whole = epoch(build(pairs, batch_size=8))
    ranks = [epoch(build(pairs, batch_size=8, shard=(rank, 3))) for rank in range(3)]
    assert [sorted(a + b + c) for a, b, c in zip(*ranks, strict=True)] == [sorted(batch) for batch in whole]
    assert [len(batch) for batch in whole] == [8, 8, 6]


@pytest.mark.parametrize("resident", [1 << 30, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_come_the_same_from_memory_and_from_disk(tmp_path: Path, dtype: Any, resident: int) -> None:
    np.save(tmp_path / "v.npy", vectors(50).astype(dtype))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    wanted = np.array([49, 3, 3, 0])
    taken = Rows(mapped, resident).take(wanted)
    assert taken.dtype == torch.float32
    assert torch.equal(taken, torch.tensor(vectors(50)[wanted]))


def test_vectors_must_be_dense() -> None:
    assert len(Rows(Vectors.dense(vectors(3), ["a", "b", "c"]))) == 3
    ragged = Vectors(vectors(3), np.array([0, 1, 3]), ("a", "b"))
    with pytest.raises(InputError, match="one row an item"):
        Rows(ragged)


@pytest.mark.parametrize(
    ("pairs", "options", "error", "message"),
    [
        (np.zeros((0, 2)), {}, InputError, "no training pairs"),
        ([(0, 200)], {}, InputError, "document rows outside 0 to 199"),
        ([(-1, 0)], {}, InputError, "query rows outside"),
        ([0, 1], {}, InputError, "must be"),
        ([(0, 0)], {"batch_size": 0}, ConfigError, "out of range"),
        ([(0, 0)], {"shard": (2, 2)}, ConfigError, "out of range"),
        ([(0, 0)], {"negatives": np.array([[1], [2]])}, InputError, "negatives must be"),
        ([(0, 0)], {"negatives": np.array([[200]])}, InputError, "rows of the 200 documents"),
    ],
)
def test_what_does_not_fit_is_refused(pairs: Any, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build(pairs, **options)


def test_a_corpus_is_every_distinct_document_block_by_block(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", vectors(50))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    distinct = np.setdiff1d(np.arange(50), [0, 17, 49])
    cpu = torch.device("cpu")
    for rows in (Rows(mapped), Rows(mapped, resident=0)):
        for documents, kept in ((Documents(rows), np.arange(50)), (Documents(rows, distinct), distinct)):
            assert documents.ids.tolist() == kept.tolist()
            assert documents.dimension == 2
            parts = [documents.block(start, min(start + 9, len(kept)), cpu) for start in range(0, len(kept), 9)]
            assert torch.equal(torch.cat(parts), torch.tensor(vectors(50)[kept]))


def test_the_pool_and_the_corpus_take_each_text_once() -> None:
    distinct = np.arange(0, 200, 2)
    pairs = [(i, 2 * i) for i in range(10)]
    for batch in build(pairs, pool=30, distinct=distinct, corpus=True):
        assert not (batch["pool_ids"] % 2).any()
        assert torch.equal(batch["pool"], torch.tensor(vectors(200) + 0.5)[batch["pool_ids"]])
        assert torch.equal(batch["corpus"].ids, torch.from_numpy(distinct))
    (whole,) = build(pairs, pool=10**6, distinct=distinct, batch_size=10)
    assert torch.equal(whole["pool_ids"], torch.from_numpy(distinct))
    assert "corpus" not in whole


@pytest.mark.parametrize("resident", [0, 1 << 20])
def test_components_whose_products_are_no_normal_numbers_are_zero(resident: int) -> None:
    values = np.array([[1e-32, 0.5, -1e-25], [-3e-20, 2e-19, -0.5]], np.float32)
    rows = Rows(values, resident=resident)
    expected = torch.tensor([[0.0, 0.5, 0.0], [0.0, 2e-19, -0.5]])
    assert torch.equal(rows.take(np.array([0, 1])), expected)
    assert torch.equal(rows.between(0, 2), expected)
    assert values[0, 0] == np.float32(1e-32)


def test_with_the_corpus_nothing_is_lost_by_sharing_a_batch() -> None:
    vectors = np.eye(3, dtype=np.float32)
    pairs = np.array([[0, 0], [0, 1], [0, 2]])
    assert PairBatches(pairs, vectors, vectors, batch_size=3).collisions > 0
    assert PairBatches(pairs, vectors, vectors, batch_size=3, corpus=True).collisions == 0
