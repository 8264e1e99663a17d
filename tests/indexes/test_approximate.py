"""The FAISS-backed indexes above their exact size: recall, deletion, files, scores that never depend on the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import folder as index_folder
from lodesmith.indexes.flat import Flat

ROWS, WIDTH = 3000, 16


def clustered(n: int, seed: int, prefix: str = "") -> Vectors:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, WIDTH))
    values = centres[random.integers(0, 40, n)] + 0.5 * random.standard_normal((n, WIDTH))
    return Vectors.dense(values.astype(np.float32), [f"{prefix}{i}" for i in range(n)])


@pytest.fixture(params=["hnsw", "ivf", "ivfpq"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["cosine", "euclidean", "dot"])
def metric(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(name: str, metric: str = "cosine", **settings: Any) -> Any:
    return find("indexes", name)(metric=metric, **({"small": 0} | settings))


def recall(run: Any, truth: Any) -> float:
    pairs = [({d for d, _ in run[q]}, {d for d, _ in truth[q]}) for q in truth]
    return sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def test_most_true_neighbours_are_found_with_their_exact_scores(name: str, metric: str) -> None:
    index, exact = make(name, metric), Flat(metric)
    for each in (index, exact):
        each.add(clustered(ROWS, 0))
    queries = clustered(50, 1, "q")
    run, truth = index.search(queries, 10), exact.search(queries, 10)
    assert index.report["rows"] == ROWS
    assert recall(run, truth) >= 0.9
    scores = {q: dict(exact.search(queries, ROWS)[q]) for q in list(truth)[:5]}
    assert all(scores[q][d] == s for q in scores for d, s in run[q])
    assert all(list(run[q]) == sorted(run[q], key=lambda pair: (pair[1], pair[0]), reverse=True) for q in run)


def test_the_structure_is_really_used(name: str) -> None:
    index = make(name, target=1e-9)  # the least effort will do
    index.add(clustered(ROWS, 0))
    queries = clustered(200, 1, "q")
    exact = Flat("cosine")
    exact.add(clustered(ROWS, 0))
    assert recall(index.search(queries, 10), exact.search(queries, 10)) < 1
    assert index.report["effort"] == type(index).efforts[0]


def test_deleted_items_are_not_found_and_added_ones_are(name: str) -> None:
    index = make(name)
    index.add(clustered(ROWS, 0))
    queries = clustered(20, 1, "q")
    before = index.search(queries, 5)
    gone = {d for q in before for d, _ in before[q]}
    assert index.delete(gone) == len(gone)
    after = index.search(queries, 5)
    assert not gone & {d for q in after for d, _ in after[q]}
    index.add(Vectors.dense(np.asarray(queries.values), [f"new{i}" for i in range(20)]))
    assert [index.search(queries, 1)[q][0][0] for q in queries.ids] == [f"new{i}" for i in range(20)]


def test_alone_and_in_company(name: str) -> None:
    index = make(name)
    index.add(clustered(ROWS, 0))
    queries = clustered(30, 1, "q")
    together = index.search(queries, 10)
    for i, query in enumerate(queries.ids):
        assert list(index.search(queries.take([i]), 10)[query]) == list(together[query])


def test_items_of_several_rows_count_once_by_their_best(name: str) -> None:
    values = np.asarray(clustered(ROWS, 0).values)
    items = Vectors(values, np.arange(0, ROWS + 1, 5), tuple(str(i) for i in range(ROWS // 5)))
    index, exact = make(name), Flat("cosine")
    for each in (index, exact):
        each.add(items)
    queries = clustered(20, 1, "q")
    run, truth = index.search(queries, 8), exact.search(queries, 8)
    assert all(len({d for d, _ in run[q]}) == 8 for q in run)
    assert recall(run, truth) >= 0.9


def test_built_twice_it_is_the_same(name: str) -> None:
    runs = []
    for _ in range(2):
        index = make(name)
        index.add(clustered(ROWS, 0))
        runs.append(index.search(clustered(30, 1, "q"), 10))
    assert runs[0] == runs[1]


@pytest.fixture
def stored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lodesmith.indexes._approximate.SMALL", 0)
    index_folder.create(tmp_path / "index", name, clustered(ROWS, 0), metric="cosine", model="m")
    return tmp_path / "index"


def test_a_reopened_folder_gives_the_same_and_lives_through_changes(stored: Path) -> None:
    queries = clustered(30, 1, "q")
    first = index_folder.open_index(stored).search(queries, 10)
    assert index_folder.open_index(stored).search(queries, 10) == first
    assert list(stored.glob("generation-*/structure.faiss"))
    gone = [first[q][0][0] for q in first]
    index_folder.delete(stored, gone)
    index_folder.add(stored, clustered(50, 3, "more"), model="m")
    again = index_folder.open_index(stored)
    assert len(again) == ROWS - len(set(gone)) + 50  # type: ignore[arg-type]
    run = again.search(queries, 10)
    assert not set(gone) & {d for q in run for d, _ in run[q]}
    index_folder.compact(stored)
    assert recall(index_folder.open_index(stored).search(queries, 10), run) >= 0.9
    index_folder.verify(stored)


def test_a_damaged_structure_is_refused(stored: Path) -> None:
    path = next(stored.glob("generation-*/structure.faiss"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"structure\.faiss"):
        index_folder.open_index(stored)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
def test_a_structure_that_is_none_is_a_typed_error(name: str, damage: bytes, tmp_path: Path) -> None:
    index = make(name)
    index.add(clustered(ROWS, 0))
    index.save_structure(tmp_path)
    (tmp_path / "structure.faiss").write_bytes(damage)
    with pytest.raises(IntegrityError, match="cannot be read"):
        index.load_structure(tmp_path)


def test_a_structure_of_other_items_is_refused(name: str, tmp_path: Path) -> None:
    index, other = make(name), make(name)
    index.add(clustered(ROWS, 0))
    index.save_structure(tmp_path)
    other.add(clustered(100, 0))
    with pytest.raises(IntegrityError, match="does not fit"):
        other.load_structure(tmp_path)
    wrong = make(name, "dot")
    wrong.add(clustered(ROWS, 0))
    with pytest.raises(IntegrityError, match="the structure is of"):
        wrong.load_structure(tmp_path)


def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(ConfigError):
        make(name, refine=0)


def test_ties_keep_the_rows_of_greatest_id(name: str, metric: str) -> None:
    """Six copies of every vector: which three come first must not depend on the order in which FAISS names them."""
    rows = np.asarray(clustered(ROWS // 6, 0).values)
    order = np.random.default_rng(3).permutation(len(rows) * 6)
    items = Vectors.dense(np.repeat(rows, 6, axis=0)[order], [f"{i:04}" for i in range(len(order))])
    index, exact = make(name, metric, target=1.0), Flat(metric)
    for each in (index, exact):
        each.add(items)
    queries = clustered(40, 1, "q")
    run, truth = index.search(queries, 3), exact.search(queries, 3)
    assert index.report["rows"] == len(order)
    same = [q for q in queries.ids if truth[q][0][1] == run[q][0][1]]
    assert len(same) >= 36  # a structure may miss the best group of all
    assert all(run[q] == truth[q] for q in same)


def test_on_a_hard_set_the_effort_rises_until_the_target_is_reached(name: str) -> None:
    noise = np.random.default_rng(0).standard_normal((ROWS, 64)).astype(np.float32)  # nothing to build a structure on
    items = Vectors.dense(noise, [str(i) for i in range(ROWS)])
    efforts = []
    for target in (1e-9, 0.975):
        index = make(name, target=target)
        index.add(items)
        index.build()
        efforts.append(index.report["effort"])
        assert index.report["recall"] >= target
    least, tuned = efforts
    assert least == type(index).efforts[0]
    assert tuned > least
    assert tuned < type(index).efforts[-1]  # and no further than that


def test_far_from_the_origin_batch_and_distances_hold(name: str) -> None:
    """FAISS with BLAS takes distances as ‖x‖² + ‖y‖² − 2xy, which here cancel to nothing, and for a batch only."""
    index, exact = make(name, "euclidean", target=1e-9), Flat("euclidean")
    away = [
        Vectors.dense(np.asarray(v.values) + np.float32(4000), v.ids) for v in (clustered(ROWS, 0), clustered(60, 1))
    ]
    for each in (index, exact):
        each.add(away[0])
    together = index.search(away[1], 10)
    assert recall(together, exact.search(away[1], 10)) > 0.95
    assert index.report["recall"] > 0.8  # what it measures of itself does not cancel either
    for i, query in enumerate(away[1].ids):
        assert index.search(away[1].take([i]), 10)[query] == together[query]


def test_a_graph_is_built_by_one_thread_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest FAISS that is allowed inserts rows in whatever order its threads come by."""
    faiss = pytest.importorskip("faiss")
    threads, graphs, before = [], [], faiss.omp_get_max_threads()
    add = faiss.IndexHNSWFlat.add
    monkeypatch.setattr(
        faiss.IndexHNSWFlat, "add", lambda self, x: threads.append(faiss.omp_get_max_threads()) or add(self, x)
    )
    try:
        for many in (1, 2, 4):
            faiss.omp_set_num_threads(many)
            index = make("hnsw", target=1e-9)
            index.add(clustered(ROWS, 0))
            index.build()
            index.add(clustered(200, 1, "more"))
            graphs.append(faiss.serialize_index(index._graph).tobytes())
            assert faiss.omp_get_max_threads() == many  # as the caller had it
    finally:
        faiss.omp_set_num_threads(before)
    assert threads == [1] * 6
    assert graphs[0] == graphs[1] == graphs[2]
