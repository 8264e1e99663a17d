"""Search block by block gives what the whole index gives, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import _streamed
from lodesmith.indexes._streamed import Streamed, merge
from lodesmith.indexes.flat import Flat

RNG = np.random.default_rng(0)


def vectors(count: int, dimension: int = 8) -> Vectors:
    """Ragged, with many equal rows, so that ties cross the blocks."""
    counts = RNG.integers(1, 4, count)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = RNG.integers(-1, 2, (int(offsets[-1]), dimension)).astype(np.float32)
    return Vectors(values, offsets, tuple(f"d{i}" for i in RNG.permutation(count)))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("block", [1, 400, 1 << 20])
def test_results_are_those_of_the_whole_index(metric: str, block: int) -> None:
    documents, whole = vectors(120), Flat(metric)  # type: ignore[arg-type]
    queries = Vectors.dense(RNG.normal(size=(9, 8)).astype(np.float32), [f"q{i}" for i in range(9)])
    whole.add(documents)
    streamed = Streamed(documents, metric, block)  # type: ignore[arg-type]
    for k in (1, 7, 500):
        found = streamed.search(queries, k)
        assert dict(found) == dict(whole.search(queries, k))
        assert set(found.document_ids) == {key for ranking in found.values() for key, _ in ranking}


def test_no_block_is_larger_than_asked_but_for_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, seen = vectors(100), []

    class Noted(Flat):
        def add(self, vectors: Vectors) -> None:
            seen.append((len(vectors), vectors.values.nbytes))
            super().add(vectors)

    monkeypatch.setattr(_streamed, "Flat", Noted)
    Streamed(documents, "dot", 320).search(Vectors.dense(np.ones((1, 8), np.float32), ["q"]), 3)
    assert sum(items for items, _ in seen) == 100
    assert len(seen) > 10
    assert all(size <= 320 or items == 1 for items, size in seen)


def test_nothing_stored_gives_nothing_and_wrong_queries_are_refused() -> None:
    queries = Vectors.dense(np.ones((1, 8), np.float32), ["q"])
    assert dict(Streamed(vectors(0), "dot").search(queries, 3)) == {"q": []}
    with pytest.raises(InputError, match="dimensions"):
        Streamed(vectors(5, 4), "dot").search(queries, 3)


def test_merged_runs_keep_the_best_of_both_and_break_ties_by_id() -> None:
    first = Run.of({"q": {"a": 3.0, "b": 1.0}, "r": {}})
    second = Run.of({"q": {"c": 3.0, "d": 2.0}, "r": {"e": -1.0}})
    assert dict(merge(first, second, 3)) == {"q": [("c", 3.0), ("a", 3.0), ("d", 2.0)], "r": [("e", -1.0)]}


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no index may be held."""
    from lodesmith.recipes import _machine

    monkeypatch.setattr(_machine, "memory", lambda: {"total": 64, "available": 64})


def test_a_system_too_large_for_memory_is_streamed_and_not_timed(
    small_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lodesmith.recipes import _machine
    from lodesmith.recipes.evaluating import evaluate_system
    from lodesmith.recipes.systems import dense
    from lodesmith.testing import HashEncoder, tiny_dataset

    data, encoder = tiny_dataset(60), HashEncoder()
    stored = encoder.encode([d.content for d in data.documents.values()], "document", list(data.documents))
    streamed = dense("hash", encoder, stored)
    assert isinstance(streamed.retriever.index, Streamed)  # type: ignore[attr-defined]
    evaluation, run = evaluate_system(streamed, data)
    monkeypatch.setattr(_machine, "memory", lambda: {"total": 1 << 30, "available": 0})
    held = dense("hash", encoder, stored)
    assert isinstance(held.retriever.index, Flat)  # type: ignore[attr-defined]
    whole, expected = evaluate_system(held, data)
    assert dict(run) == dict(expected)
    assert (evaluation.cost["query_ms_p50"] is None, whole.cost["query_ms_p50"] is None) == (True, False)
