"""`Flat`: whatever finds the candidates, the answer is brute force with the exact kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import _scan, _segment, _threads
from lodesmith.indexes.flat import Flat

METRICS = ("dot", "cosine", "euclidean")
PRECISIONS = ("float32", "bfloat16", "int8")
KINDS = ("random", "clustered", "duplicates", "tiny", "large", "offset", "skewed", "integers", "zeros")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that little data fills many, and little room for candidates, so that it overflows."""
    monkeypatch.setattr(_segment, "BLOCK", 128)
    monkeypatch.setattr(_scan, "BLOCK", 128)
    monkeypatch.setattr(_scan, "PENDING", 256)
    monkeypatch.setattr(_threads, "LEAST", 2)


def halved(rows: np.ndarray) -> np.ndarray:
    while rows.shape[1] > 1:
        half = (rows.shape[1] + 1) // 2
        front = rows[:, :half].copy()
        front[:, : rows.shape[1] - half] += rows[:, half:]
        rows = front
    return rows[:, 0]


def truth(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The exact kernel, written once more in numpy: float32 scores [n]."""
    q, d = query.astype(np.float64)[None], rows.astype(np.float64)
    if metric == "euclidean":
        return (-halved((q - d) ** 2)).astype(np.float32)
    products = halved(q * d)
    if metric == "cosine":
        lengths = np.sqrt(halved(q * q)) * np.sqrt(halved(d * d))
        products = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return products.astype(np.float32)


def brute(metric: str, query: np.ndarray, documents: Vectors, k: int) -> list[tuple[str, float]]:
    scores = truth(metric, query, np.asarray(documents.values, np.float32))
    best = np.maximum.reduceat(scores, documents.offsets[:-1])
    ranked = sorted(zip(documents.ids, best.tolist(), strict=True), key=lambda pair: pair[0], reverse=True)
    return sorted(ranked, key=lambda pair: -pair[1])[:k]


def rows(kind: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal((n, d))
    if kind == "clustered":
        values = rng.standard_normal((4, d))[rng.integers(0, 4, n)] + 1e-4 * values
    elif kind == "duplicates":
        values = values[rng.integers(0, max(1, n // 8), n)]
    elif kind == "tiny":
        values *= 1e-30
    elif kind == "large":
        values *= 1e14
    elif kind == "offset":
        values += 1000 * rng.standard_normal(d)
    elif kind == "skewed":
        values *= 10.0 ** rng.uniform(-6, 3, (n, 1)) * 10.0 ** rng.uniform(-3, 1, d)
    elif kind == "integers":
        values = rng.integers(-1, 2, (n, d))
    elif kind == "zeros":
        values *= rng.integers(0, 2, (n, 1))
    return values.astype(np.float32)


def ragged(values: np.ndarray, longest: int, rng: np.random.Generator) -> Vectors:
    counts = rng.integers(1, longest + 1, len(values))
    ends = np.minimum(np.cumsum(counts), len(values))
    offsets = np.unique(np.concatenate([[0], ends, [len(values)]]))
    ids = tuple(str(i * 7919 % 10007) for i in range(len(offsets) - 1))
    return Vectors(values, offsets.astype(np.int64), ids)


def dense(values: np.ndarray, prefix: str = "") -> Vectors:
    return Vectors.dense(values, [f"{prefix}{i}" for i in range(len(values))])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    shape=st.tuples(st.integers(1, 700), st.integers(1, 40)),
    k=st.sampled_from([1, 2, 10, 33, 1000]),
    longest=st.sampled_from([1, 1, 2, 9, 200]),
    seed=st.integers(0, 2**16),
)
def test_equals_brute_force(
    metric: str, precision: str, kinds: tuple[str, str], shape: tuple[int, int], k: int, longest: int, seed: int
) -> None:
    (kind, other), (n, d) = kinds, shape
    rng = np.random.default_rng(seed)
    documents = ragged(rows(kind, n, d, rng), longest, rng)
    queries = dense(np.concatenate([rows(other, 4, d, rng), documents.values[:2] + np.float32(0)]), "q")
    index = Flat(metric, precision)  # type: ignore[arg-type]
    index.add(documents)
    together = index.search(queries, k)
    for number, name in enumerate(queries.ids):
        assert together[name] == brute(metric, queries.values[number], documents, k)
        assert index.search(queries.take([number]), k)[name] == together[name]


@pytest.mark.parametrize("metric", METRICS)
def test_precision_batch_and_threads_change_nothing(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    documents, queries = dense(rows("clustered", 700, 48, rng)), dense(rows("random", 20, 48, rng), "q")
    runs = []
    before = torch.get_num_threads()
    for precision in PRECISIONS:
        for batch, threads in ((1024, 1), (7, 2)):
            monkeypatch.setattr("lodesmith.indexes.flat._QUERIES", batch)
            torch.set_num_threads(threads)
            index = Flat(metric, precision)  # type: ignore[arg-type]
            index.add(documents)
            runs.append(dict(index.search(queries, 20)))
            assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(run == runs[0] for run in runs)


def test_lowered_float32_precision_of_the_user_is_kept_out_and_restored() -> None:
    rng = np.random.default_rng(6)
    documents, queries = dense(rows("clustered", 500, 32, rng)), dense(rows("clustered", 5, 32, rng), "q")
    index = Flat("dot", "float32")
    index.add(documents)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        run = index.search(queries, 10)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(run[q] == brute("dot", queries.values[i], documents, 10) for i, q in enumerate(queries.ids))


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), metric=st.sampled_from(METRICS))
def test_adding_replacing_and_deleting_leaves_what_a_fresh_index_has(precision: str, seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    index = Flat(metric, precision)  # type: ignore[arg-type]
    queries = dense(rows("random", 3, 12, rng), "q")
    kept: dict[str, np.ndarray] = {}
    for _ in range(8):
        ids = rng.choice(400, int(rng.integers(1, 150)), replace=False).astype(str).tolist()
        if rng.random() < 0.6:
            values = rows(str(rng.choice(KINDS[:3])), len(ids), 12, rng)
            index.add(Vectors.dense(values, ids))
            kept |= dict(zip(ids, values, strict=True))
        else:
            assert index.delete(ids) == len(kept.keys() & set(ids))
            kept = {name: row for name, row in kept.items() if name not in ids}
        assert len(index) == len(kept)
        assert set(index.ids) == set(kept)
        if kept:
            whole = Vectors.dense(np.stack(list(kept.values())), list(kept))
            run = index.search(queries, 15)
            assert all(run[q] == brute(metric, queries.values[i], whole, 15) for i, q in enumerate(queries.ids))


def test_many_small_adds_stay_few_segments() -> None:
    index = Flat()
    for i in range(300):
        index.add(Vectors.dense(np.full((1, 2), i, np.float32), [str(i)]))
    assert len(index._segments) < 12
    assert [name for name, _ in index.search(dense(np.ones((1, 2), np.float32)), 2)["0"]] == ["299", "298"]


def test_memory_mapped_half_precision_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    values = rows("random", 900, 24, rng).astype(np.float16)
    stored = Vectors.load(dense(values).save(tmp_path / "v"))
    queries = dense(rows("random", 4, 24, rng), "q")
    index = Flat("cosine")
    index.add(stored)
    run = index.search(queries, 5)
    assert isinstance(index._segments[0].vectors.values, np.memmap)
    assert all(run[q] == brute("cosine", queries.values[i], stored, 5) for i, q in enumerate(queries.ids))


def test_candidates_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The point of it all: of 20,000 rows the exact kernel sees a handful a query."""
    monkeypatch.setattr(_scan, "PENDING", 1 << 20)
    rng = np.random.default_rng(9)
    index = Flat("dot", "int8")
    index.add(dense(rows("random", 20_000, 64, rng)))
    scored = 0
    original = _scan.Truth.score

    def count(self: _scan.Truth, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        nonlocal scored
        scored += len(row)
        return original(self, query, row)

    monkeypatch.setattr(_scan.Truth, "score", count)
    index.search(dense(rows("random", 20, 64, rng), "q"), 10)
    assert 200 <= scored < 20 * 40


def test_no_items_and_no_queries() -> None:
    index = Flat()
    assert index.search(dense(np.ones((2, 3), np.float32)), 5)["1"] == []
    index.add(dense(np.ones((2, 3), np.float32)))
    assert len(index.search(dense(np.ones((0, 3), np.float32)), 5)) == 0
    assert index.delete(["0", "1", "2"]) == 2
    assert index.search(dense(np.ones((1, 3), np.float32)), 5)["0"] == []


def spoilt(value: float) -> Vectors:
    values = np.ones((3, 4), np.float32)
    values[1, 2] = value
    return dense(values, "item")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused_and_named(value: float) -> None:
    index = Flat()
    with pytest.raises(InputError, match=r"'item1'.*NaN or infinite"):
        index.add(spoilt(value))
    assert len(index) == 0
    index.add(dense(np.ones((2, 4), np.float32)))
    with pytest.raises(InputError, match="the query 'item1'"):
        index.search(spoilt(value), 2)


def test_other_input_errors() -> None:
    index = Flat("dot")
    index.add(dense(np.full((2, 4), 1e30, np.float32)))
    with pytest.raises(InputError, match="5 dimensions, the index has 4"):
        index.add(dense(np.ones((2, 5), np.float32)))
    with pytest.raises(InputError, match="the queries have 3 dimensions, the index has 4"):
        index.search(dense(np.ones((2, 3), np.float32)), 1)
    with pytest.raises(InputError, match="k is 0"):
        index.search(dense(np.ones((2, 4), np.float32)), 0)
    with pytest.raises(InputError, match="leave the range of float32"):
        index.search(dense(np.full((1, 4), 1e9, np.float32)), 1)
    with pytest.raises(InputError, match="'a' occurs twice"):
        index.add(Vectors.dense(np.ones((2, 4), np.float32), ["a", "a"]))
    with pytest.raises(InputError, match="query id occurs twice"):
        index.search(Vectors.dense(np.ones((2, 4), np.float32), ["a", "a"]), 1)
    with pytest.raises(InputError, match="'b' has no vector"):
        index.add(Vectors(np.ones((1, 4), np.float32), np.array([0, 1, 1]), ("a", "b")))
    with pytest.raises(InputError, match="one vector each"):
        index.search(Vectors(np.ones((2, 4), np.float32), np.array([0, 2]), ("a",)), 1)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="'manhattan'"):
        Flat("manhattan")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'int4'"):
        Flat(precision="int4")


def test_saved_under_another_metric(tmp_path: Path) -> None:
    index = Flat("dot")
    index.add(dense(np.ones((2, 4), np.float32)))
    index.save(tmp_path)
    with pytest.raises(IntegrityError, match="metric dot, this one has cosine"):
        Flat("cosine").load(tmp_path)
