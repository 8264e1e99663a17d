"""Candidates from cells of token vectors, exact MaxSim of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import folder
from lodesmith.indexes.flat import Flat
from lodesmith.indexes.multivector import Multivector

D = 16
TOPICS = np.random.default_rng(9).standard_normal((60, D))


def texts(count: int, seed: int, prefix: str, tokens: tuple[int, int] = (3, 12)) -> Vectors:
    """Items whose unit tokens lie around a few of the topics each."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*tokens, count)
    own = rng.integers(0, len(TOPICS), (count, 3))
    topics = np.concatenate([rng.choice(own[at], n) for at, n in enumerate(counts)])
    values = TOPICS[topics] + 0.6 * rng.standard_normal((len(topics), D))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Vectors(values.astype(np.float32), np.cumsum([0, *counts]), tuple(f"{prefix}{i}" for i in range(count)))


def pair(vectors: Vectors, **settings: int) -> tuple[Multivector, Flat]:
    index, exact = Multivector(**settings), Flat("maxsim")  # type: ignore[arg-type]
    for own in (index, exact):
        own.add(vectors)
    return index, exact


def shared(found: Multivector, exact: Flat, queries: Vectors, k: int = 10) -> float:
    runs = [own.search(queries, k) for own in (found, exact)]
    for name in queries.ids:
        truth = dict(runs[1][name])
        assert all(truth[key] == score for key, score in runs[0][name] if key in truth)  # to the bit
    hits = [len(dict(runs[0][name]).keys() & dict(runs[1][name]).keys()) for name in queries.ids]
    return sum(hits) / (k * len(queries))


def test_it_finds_what_exact_search_finds_with_the_same_scores() -> None:
    index, exact = pair(texts(900, 0, "d"), small=100)
    queries = texts(40, 1, "q", (2, 9))
    assert shared(index, exact, queries) >= 0.97
    assert index.report["recall@11"] >= 0.99
    assert index.report["rows"] == int(texts(900, 0, "d").offsets[-1])
    alone = index.search(queries.take([7]), 10)
    assert list(alone["q7"]) == list(index.search(queries, 10)["q7"])


def test_few_items_are_all_compared() -> None:
    index, exact = pair(texts(50, 0, "d"))
    assert shared(index, exact, texts(9, 1, "q")) == 1
    assert not index.report


def test_items_come_change_and_go() -> None:
    index, exact = pair(texts(900, 0, "d"), small=100)
    queries = texts(30, 1, "q")
    index.search(queries, 10)  # builds it
    gone = [f"d{at}" for at in range(0, 900, 3)]
    for own in (index, exact):
        own.add(texts(200, 5, "e"))
        own.add(texts(40, 6, "d"))  # these ids are there
        assert own.delete([*gone, "nobody"]) == len(gone)
    run = index.search(queries, 10)
    assert not {key for name in run for key, _ in run[name]} & set(gone)
    assert len(index) == len(exact) == 900 + 200 - len(gone)
    assert shared(index, exact, queries) >= 0.95


def test_a_query_without_tokens_and_one_that_wants_all() -> None:
    index, exact = pair(texts(700, 0, "d"), small=10)
    empty = Vectors(np.zeros((0, D), np.float32), np.zeros(2, np.int64), ("q",))
    assert dict(index.search(empty, 3)) == dict(exact.search(empty, 3))
    assert dict(index.search(texts(2, 1, "q"), 700)) == dict(exact.search(texts(2, 1, "q"), 700))


def test_a_saved_index_gives_the_same_answers(tmp_path: Path) -> None:
    vectors, queries = texts(900, 0, "d"), texts(20, 1, "q")
    folder.create(tmp_path / "index", "multivector", vectors, metric="maxsim", model="m")
    opened = folder.open_index(tmp_path / "index")
    index, _ = pair(vectors)
    assert dict(opened.search(queries, 10)) == dict(index.search(queries, 10))
    assert folder.verify(tmp_path / "index") > 0
    folder.add(tmp_path / "index", texts(30, 3, "e"))
    folder.delete(tmp_path / "index", ["d3", "e4"])
    before = folder.open_index(tmp_path / "index").search(queries, 10)
    folder.compact(tmp_path / "index")
    after = folder.open_index(tmp_path / "index")
    assert len(after) == 928  # type: ignore[arg-type]
    exact = Flat("maxsim")
    exact.add(vectors)
    exact.add(texts(30, 3, "e"))
    exact.delete(["d3", "e4"])
    truth = exact.search(queries, 10)
    for run in (before, after.search(queries, 10)):
        hits = sum(len(dict(run[q]).keys() & dict(truth[q]).keys()) for q in queries.ids)
        assert hits >= 0.95 * 200


def test_a_damaged_structure_is_refused(tmp_path: Path) -> None:
    folder.create(tmp_path / "index", "multivector", texts(900, 0, "d"), metric="maxsim", model="m")
    structure = next((tmp_path / "index").rglob("structure.faiss"))
    structure.write_bytes(structure.read_bytes()[:-9])
    with pytest.raises(IntegrityError):
        folder.open_index(tmp_path / "index")


def test_single_vector_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match="hnsw"):
        Multivector("cosine")
