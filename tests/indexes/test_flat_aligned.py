"""The exact index over items that are compared as one long vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import write_json
from lodesmith.core.vectors import Vectors, VectorWriter
from lodesmith.indexes import _generations, _precision, _segment, flat, folder
from lodesmith.indexes._precision import int8_is_exact
from lodesmith.indexes._streamed import Streamed
from lodesmith.indexes.flat import Flat
from lodesmith.indexes.hnsw import HNSW
from lodesmith.indexes.multivector import Multivector
from lodesmith.similarity.aligned import aligned_rows, flattened

T, D = 4, 6


def items(count: int, seed: int, prefix: str = "d", t: int = T, d: int = D) -> Vectors:
    """Of few different numbers, so that some scores are equal."""
    values = np.random.default_rng(seed).integers(-1, 2, (count * t, d)).astype(np.float32)
    return Vectors(values, np.arange(count + 1) * t, tuple(f"{prefix}{i}" for i in range(count)))


def by_hand(queries: Vectors, documents: Vectors, k: int) -> dict[str, list[tuple[str, float]]]:
    """Every pair by the exact kernel; ties by id, descending."""
    n = len(documents)
    pairs = np.stack([np.repeat(np.arange(len(queries)), n), np.tile(np.arange(n), len(queries))], axis=1)
    scores = aligned_rows(queries, documents, pairs).reshape(len(queries), n).tolist()
    ranked = (sorted(zip(documents.ids, row, strict=True), key=lambda pair: (pair[1], pair[0]))[::-1] for row in scores)
    return dict(zip(queries.ids, (row[:k] for row in ranked), strict=True))


def filled(*parts: Vectors) -> Flat:
    index = Flat("aligned")
    for part in parts:
        index.add(part)
    return index


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_search_is_a_full_comparison_to_the_bit(precision: str) -> None:
    if precision == "int8" and not int8_is_exact():
        pytest.skip("int8 is not exact here")
    documents, queries = items(300, 0), items(7, 1, "q")
    index = Flat("aligned", precision)
    index.add(documents)
    for k in (1, 10, 1000):
        assert dict(index.search(queries, k)) == by_hand(queries, documents, k)


def test_built_saved_and_opened_again_it_gives_the_same(tmp_path: Path) -> None:
    first, second, queries = items(60, 0), items(20, 1, "e"), items(5, 2, "q")
    index = filled(first, second)
    index.add(items(3, 5))
    assert index.delete(["d7", "e3", "nobody"]) == 2
    held = Vectors.joined([items(3, 5), first.take(range(3, 60)), second])
    held = held.take([i for i, name in enumerate(held.ids) if name not in ("d7", "e3")])
    expected = by_hand(queries, held, 10)
    assert dict(index.search(queries, 10)) == expected
    assert (len(index), index.dimension, sorted(index.ids)) == (78, D, sorted(held.ids))
    index.save(tmp_path)
    stored = Vectors.load(tmp_path / "vectors")
    assert (stored.dimension, len(stored.values)) == (D, 78 * T)  # items as they were given
    again = Flat("aligned")
    again.load(tmp_path)
    assert dict(again.search(queries, 10)) == expected
    assert again.dimension == D
    with pytest.raises(IntegrityError, match="aligned"):
        Flat("cosine").load(tmp_path)


def test_an_index_folder_and_a_search_block_by_block(tmp_path: Path) -> None:
    documents, queries = items(50, 0), items(4, 2, "q")
    expected = by_hand(queries, documents, 6)
    folder.create(tmp_path / "index", "flat", documents.take(range(40)), metric="aligned", model="m")
    folder.add(tmp_path / "index", documents.take(range(40, 50)), model="m", metric="aligned")
    opened = folder.open_index(tmp_path / "index", metric="aligned", dimension=D)
    assert dict(opened.search(queries, 6)) == expected
    folder.compact(tmp_path / "index")
    assert dict(folder.open_index(tmp_path / "index").search(queries, 6)) == expected
    for size in (1, 500, 1 << 20):
        assert dict(Streamed(documents, "aligned", size).search(queries, 6)) == expected


def test_values_on_disk_are_not_copied(tmp_path: Path) -> None:
    documents = items(30, 0)
    with VectorWriter(tmp_path, D, np.float16, {}) as writer:
        writer.append(documents.ids, documents.values, documents.offsets)
        writer.finish()
    stored = Vectors.load(tmp_path)
    assert np.shares_memory(flattened(stored).values, stored.values)
    queries = items(3, 1, "q")
    assert dict(filled(stored).search(queries, 5)) == by_hand(queries, documents, 5)


def test_with_one_vector_an_item_it_is_the_cosine() -> None:
    documents, queries = items(40, 0, t=1), items(5, 1, "q", t=1)
    index = Flat("cosine")
    index.add(documents)
    assert dict(filled(documents).search(queries, 9)) == dict(index.search(queries, 9))


def test_another_number_of_vectors_is_refused_and_changes_nothing() -> None:
    index, queries = filled(items(10, 0)), items(2, 1, "q")
    before = dict(index.search(queries, 10))
    with pytest.raises(InputError, match="'x0' has 3 vectors, and 4 are compared"):
        index.add(items(2, 0, "x", t=3))
    with pytest.raises(InputError, match="'q0' has 8 vectors, and 4 are compared"):
        index.search(items(2, 1, "q", t=8), 3)
    with pytest.raises(InputError, match="3 dimensions, the index has 6"):
        index.search(items(2, 1, "q", t=8, d=3), 3)  # as many components
    with pytest.raises(InputError, match="'d1' has 2 vectors, and 4"):
        Flat("aligned").add(Vectors(np.ones((6, D), np.float32), np.array([0, 4, 6]), ("d0", "d1")))
    with pytest.raises(InputError, match="has no vector"):
        Flat("aligned").add(Vectors(np.ones((0, D), np.float32), np.array([0, 0]), ("d0",)))
    assert dict(index.search(queries, 10)) == before
    assert dict(Flat("aligned").search(queries, 3)) == {"q0": [], "q1": []}


def test_what_has_no_such_comparison_refuses_it() -> None:
    for kind in (HNSW, Multivector):
        with pytest.raises(ConfigError, match=r"compared by aligned\nchoose flat$"):
            kind("aligned")
    index = Flat("dot")
    index.add(items(5, 0, t=1))
    with pytest.raises(InputError, match="maxsim or aligned, and this index compares by dot"):
        index.search(items(2, 1, "q"), 3)


def test_large_components_do_not_leave_the_range() -> None:
    documents = items(5, 0)
    scaled = Vectors(documents.values * np.float32(1e37), documents.offsets, documents.ids)
    queries = items(2, 1, "q")
    assert dict(filled(scaled).search(queries, 5)) == by_hand(queries, scaled, 5)


def test_long_items_take_another_precision_and_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_precision, "_fastest", lambda: "int8")
    monkeypatch.setattr(flat, "MAX_INT8_DIMENSION", T * D - 1)
    monkeypatch.setattr(flat, "_BATCH_COMPONENTS", 3 * T * D)  # three queries at once
    monkeypatch.setattr(flat, "_MERGE_COMPONENTS", 10 * T * D)  # ten items are joined
    monkeypatch.setattr(_segment, "_WINDOW_BYTES", 4 * T * D * 64)
    documents, queries = items(200, 0), items(8, 1, "q")
    index = Flat("aligned")
    assert index.bytes_for(documents) == 200 * (T * D * 4 + 32)
    for start in range(0, 200, 50):
        index.add(documents.take(range(start, start + 50)))
    assert index.precision == "float32"
    assert len(index._segments) == 4
    assert dict(index.search(queries, 7)) == by_hand(queries, documents, 7)
    assert max(len(block.values) for _, block in index._prepare(index._segments)) <= 64
    if int8_is_exact():
        with pytest.raises(InputError, match=f"int8 takes 1 to {T * D - 1} dimensions, not {T * D}"):
            Flat("aligned", "int8").add(documents)


def test_in_8_bits_it_ranks_what_is_kept_to_the_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    documents, queries = items(80, 0, d=32), items(9, 1, "q", d=32)
    for side in (documents, queries):
        side.values[:] = random.standard_normal(side.values.shape) * random.uniform(0.1, 9, (len(side.values), 1))
    folder.create(tmp_path / "index", "flat", documents.take(range(60)), metric="aligned", dtype="int8")
    folder.add(tmp_path / "index", documents.take(range(50, 80)))  # in the type that it was built with
    assert [Vectors.load(place).values.dtype for place in (tmp_path / "index" / "vectors").iterdir()] == [np.int8] * 2
    kept = folder.vectors_of(tmp_path / "index", documents.ids)
    assert kept.values.dtype == np.float32
    assert 0 < np.abs(kept.values - documents.values).max() < 0.2
    expected = by_hand(queries, kept, 10)
    assert dict(folder.open_index(tmp_path / "index").search(queries, 10)) == expected
    folder.compact(tmp_path / "index")
    assert folder.verify(tmp_path / "index") > 3
    (segment,) = (tmp_path / "index" / "vectors").iterdir()
    assert (segment / "values.npy").stat().st_size == 128 + 80 * T * 32
    assert dict(folder.open_index(tmp_path / "index").search(queries, 10)) == expected
    assert dict(Streamed(Vectors.load(segment), "aligned", block_bytes=4 * 32 * T * 7).search(queries, 10)) == expected
    folder.delete(tmp_path / "index", documents.ids)
    folder.add(tmp_path / "index", documents)
    assert folder.read_manifest(tmp_path / "index")["dtype"] == "int8"
    assert dict(folder.open_index(tmp_path / "index").search(queries, 10)) == expected
    whole = by_hand(queries, documents, 80)
    assert all(abs(dict(whole[name])[key] - score) < 0.01 for name in expected for key, score in expected[name])


def test_what_a_type_cannot_hold_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    folder.create(tmp_path / "index", "flat", items(5, 0), metric="aligned", dtype="float16")
    large = items(2, 1, "e")
    large.values[3, 3] = 1e5
    with pytest.raises(InputError, match="a component that float16 cannot hold"):
        folder.add(tmp_path / "index", large)
    assert folder.read_manifest(tmp_path / "index")["items"] == 5
    assert len(list((tmp_path / "index" / "vectors").iterdir())) == 1


def test_a_folder_that_was_built_before_types_were_told_goes_on(tmp_path: Path) -> None:
    half = items(5, 0)
    half = Vectors(half.values.astype(np.float16), half.offsets, half.ids)
    manifest = folder.create(tmp_path, "flat", half, metric="aligned")
    assert manifest.pop("dtype") == "float16"
    manifest["sha256"] = _generations._checksum(manifest)
    write_json(tmp_path / "manifest.json", manifest)
    folder.add(tmp_path, Vectors(half.values[:T], half.offsets[:2], ("new",)))
    folder.compact(tmp_path)
    assert "dtype" not in folder.read_manifest(tmp_path)
    (segment,) = (tmp_path / "vectors").iterdir()
    assert Vectors.load(segment).values.dtype == np.float16
