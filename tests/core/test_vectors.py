"""Vectors in memory and on disk; a writer that survives kills and notices damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError, IntegrityError, ResumeError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.vectors import Vectors, VectorWriter


def ragged(counts: list[int], dimension: int = 3, dtype: str = "float32") -> Vectors:
    """Items of so many rows; the values count up."""
    total = sum(counts)
    values = np.arange(total * dimension, dtype=dtype).reshape(total, dimension)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Vectors(values, offsets, tuple(f"i{n}" for n in range(len(counts))), {"model": "m"})


def same(a: Vectors, b: Vectors) -> None:
    np.testing.assert_array_equal(a.values, b.values)
    assert a.values.dtype == b.values.dtype
    assert (a.offsets.tolist(), a.ids) == (b.offsets.tolist(), b.ids)


@pytest.mark.parametrize(
    ("values", "offsets", "ids", "message"),
    [
        (np.zeros(3), [0, 3], ("a",), r"must be \[total, d\]"),
        (np.zeros((3, 2)), [0, 3], ("a", "b"), "2 ids, 2 offsets"),
        (np.zeros((3, 2)), [0, 2], ("a",), "rise from 0 to 3"),
        (np.zeros((3, 2)), [1, 3], ("a",), "rise from 0 to 3"),
        (np.zeros((3, 2)), [0, 4, 3], ("a", "b"), "rise from 0 to 3"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    values: np.ndarray, offsets: list[int], ids: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Vectors(values, np.array(offsets), ids)


def test_dense_vectors_have_one_row_an_item() -> None:
    vectors = Vectors.dense(np.eye(2, dtype=np.float32), ["a", "b"], model="m")
    assert vectors.is_dense
    assert vectors.info == {"model": "m"}
    assert not ragged([1, 2]).is_dense
    assert not ragged([2, 0]).is_dense
    with pytest.raises(InputError, match="2 != 3"):
        Vectors.dense(np.eye(3), ["a", "b"])


@given(st.lists(st.integers(0, 4), max_size=8), st.data())
def test_taking_items_takes_their_rows(counts: list[int], data: st.DataObject) -> None:
    vectors = ragged(counts)
    order = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8)) if counts else []
    taken = vectors.take(order)
    assert taken.ids == tuple(vectors.ids[at] for at in order)
    for position, at in enumerate(order):
        np.testing.assert_array_equal(
            taken.values[taken.offsets[position] : taken.offsets[position + 1]],
            vectors.values[vectors.offsets[at] : vectors.offsets[at + 1]],
        )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=8), st.sampled_from(["float32", "float16"]))
def test_saved_and_loaded_they_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], dtype: str
) -> None:
    vectors = ragged(counts, dtype=dtype)
    loaded = Vectors.load(vectors.save(tmp_path_factory.mktemp("v")), verify=True)
    same(loaded, vectors)
    assert loaded.info["model"] == "m"
    assert loaded.info["items"] == len(counts)


def test_ids_may_hold_anything(tmp_path: Path) -> None:
    ids = ["a\nb", "\t", "ü", "\u2028", "\x85", '"', "../x", "\ud800"]
    vectors = Vectors.dense(np.zeros((len(ids), 2), np.float32), ids)
    assert Vectors.load(vectors.save(tmp_path / "v")).ids == tuple(ids)


def test_saving_again_replaces(tmp_path: Path) -> None:
    ragged([1, 2]).save(tmp_path / "v")
    ragged([3]).save(tmp_path / "v")
    same(Vectors.load(tmp_path / "v", verify=True), ragged([3]))


def test_saving_over_the_folder_it_is_mapped_from(tmp_path: Path) -> None:
    loaded = Vectors.load(ragged([1, 2, 3]).save(tmp_path / "v"))
    loaded.take([2, 0]).save(tmp_path / "v")
    loaded.save(tmp_path / "v")
    same(Vectors.load(tmp_path / "v", verify=True), ragged([1, 2, 3]))


def test_values_are_memory_mapped(tmp_path: Path) -> None:
    assert isinstance(Vectors.load(ragged([1, 2]).save(tmp_path / "v")).values, np.memmap)


def test_what_is_no_vectors_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a finished vectors folder"):
        Vectors.load(tmp_path)
    with VectorWriter(tmp_path / "v", 2, "float32", {}) as writer:
        writer.append(["a"], np.zeros((1, 2)))
    with pytest.raises(InputError, match="continues"):
        Vectors.load(tmp_path / "v")


@pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "ids.txt"])
def test_one_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    folder = ragged([1, 2, 3]).save(tmp_path / "v")
    raw = bytearray((folder / name).read_bytes())
    raw[-2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match=name):
        Vectors.load(folder, verify=True)


@pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "ids.txt"])
@pytest.mark.parametrize("left", [0, 10, 0.5])
def test_a_file_cut_short_is_found_without_hashing(tmp_path: Path, name: str, left: float) -> None:
    folder = ragged([1, 2, 3]).save(tmp_path / "v")
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: int(len(raw) * left) if left < 1 else int(left)])
    with pytest.raises(IntegrityError, match="damaged"):
        Vectors.load(folder)


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    folder = ragged([1]).save(tmp_path / "v")
    (folder / "ids.txt").unlink()
    with pytest.raises(IntegrityError):
        Vectors.load(folder)
    with pytest.raises(IntegrityError, match="missing"):
        Vectors.load(folder, verify=True)


def test_pickles_in_the_place_of_arrays_are_refused(tmp_path: Path) -> None:
    folder = ragged([1]).save(tmp_path / "v")
    np.save(folder / "values.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(IntegrityError, match="damaged"):
        Vectors.load(folder)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=5), st.booleans())
def test_appending_piece_by_piece_is_saving_at_once(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[list[int]], reopen: bool
) -> None:
    counts = [count for piece in pieces for count in piece]
    whole, folder = ragged(counts), tmp_path_factory.mktemp("v")
    start = 0
    writer = VectorWriter(folder, 3, "float32", {"model": "m"})
    for piece in pieces:
        part = whole.take(range(start, start + len(piece)))
        writer.append(part.ids, part.values, part.offsets, {"at": start})
        start += len(piece)
        if reopen:
            writer.close()
            writer = VectorWriter(folder, 3, "float32", {"model": "m"})
            assert writer.note == {"at": start - len(piece)}
    assert (writer.count, writer.rows) == (len(counts), sum(counts))
    same(writer.finish(), whole)
    writer.close()


def test_a_finished_folder_grows(tmp_path: Path) -> None:
    whole = ragged([1, 2, 3])
    first, second = whole.take([0, 1]), whole.take([2])
    first.save(tmp_path / "v")
    with VectorWriter(tmp_path / "v", 3, "float32", {"model": "m"}) as writer:
        writer.append(second.ids, second.values, second.offsets)
        assert not (tmp_path / "v" / "manifest.json").exists()
        same(writer.finish({"seconds": 3}), whole)
    assert Vectors.load(tmp_path / "v", verify=True).info["seconds"] == 3


def test_extra_fields_do_not_cover_what_made_the_vectors(tmp_path: Path) -> None:
    with VectorWriter(tmp_path / "v", 3, "float32", {"model": "m"}) as writer:
        assert writer.finish({"model": "other", "rows": 9}).info["model"] == "m"
        assert Vectors.load(tmp_path / "v").info["rows"] == 0


@pytest.mark.parametrize(
    ("dimension", "dtype", "info", "message"),
    [
        (4, "float32", {"model": "m"}, "dimension 3, not 4"),
        (3, "float16", {"model": "m"}, "dtype 'float32', not 'float16'"),
        (3, "float32", {"model": "n"}, "info"),
    ],
)
def test_another_kind_of_vectors_is_refused(
    tmp_path: Path, dimension: int, dtype: str, info: dict[str, str], message: str
) -> None:
    ragged([1]).save(tmp_path / "v")
    with pytest.raises(ResumeError, match=message):
        VectorWriter(tmp_path / "v", dimension, dtype, info)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="holds other things"):
        VectorWriter(tmp_path, 2, np.float32, {})
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("ids", "shape", "offsets"),
    [(["a"], (2, 3), None), (["a"], (1, 4), None), (["a", "b"], (2, 3), [0, 2]), (["a"], (2, 3), [0, 1])],
)
def test_items_that_do_not_fit_are_refused(
    tmp_path: Path, ids: list[str], shape: tuple[int, int], offsets: list[int] | None
) -> None:
    with VectorWriter(tmp_path / "v", 3, "float32", {}) as writer:
        with pytest.raises(InputError, match="do not fit"):
            writer.append(ids, np.zeros(shape), None if offsets is None else np.array(offsets))
        assert writer.finish().values.shape == (0, 3)


@pytest.mark.parametrize("name", ["values.npy", "counts.part", "ids.txt"])
def test_a_written_file_cut_short_is_refused_on_reopening(tmp_path: Path, name: str) -> None:
    ragged([1, 2]).save(tmp_path / "v")
    path = tmp_path / "v" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=name):
        VectorWriter(tmp_path / "v", 3, "float32", {"model": "m"})


def test_a_journal_that_does_not_fit_the_files_is_refused(tmp_path: Path) -> None:
    ragged([1, 2]).save(tmp_path / "v")
    journal = read_json(tmp_path / "v" / "journal.json")
    write_json(tmp_path / "v" / "journal.json", journal | {"counts.part": 8})
    with pytest.raises(IntegrityError, match="2 ids, 1 counts"):
        VectorWriter(tmp_path / "v", 3, "float32", {"model": "m"})


def test_bytes_after_the_last_commit_are_dropped(tmp_path: Path) -> None:
    with VectorWriter(tmp_path / "v", 3, "float32", {}) as writer:
        writer.append(["a"], np.ones((1, 3)))
    for name in ("values.npy", "counts.part", "ids.txt"):
        with (tmp_path / "v" / name).open("ab") as handle:
            handle.write(b'"half a line')
    with VectorWriter(tmp_path / "v", 3, "float32", {}) as writer:
        writer.append(["b"], np.full((1, 3), 2))
        same(writer.finish(), Vectors.dense(np.array([[1.0] * 3, [2.0] * 3], np.float32), ["a", "b"]))


WORK = """
import sys
import numpy as np
from lodesmith.core.vectors import VectorWriter

with VectorWriter(sys.argv[1], 4, "float32", {"model": "m"}) as writer:
    while True:
        n = writer.count
        writer.append([f"i{n}", f"i{n + 1}"], np.full((3, 4), n), np.array([0, 1, 3]), {"count": n + 2})
        if n % 20 == 0:
            writer.finish()
"""


def test_kill_at_any_point_of_appending_loses_and_doubles_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    committed = 0
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path / "v")])
        while _count(tmp_path / "v") <= committed and process.poll() is None:
            time.sleep(0.001)
        time.sleep(float(rng.random()) * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with VectorWriter(tmp_path / "v", 4, "float32", {"model": "m"}) as writer:
            assert writer.count > committed
            assert writer.note == {"count": writer.count}
            committed = writer.count
    with VectorWriter(tmp_path / "v", 4, "float32", {"model": "m"}) as writer:
        vectors = writer.finish()
    assert vectors.ids == tuple(f"i{n}" for n in range(committed))
    first = np.arange(0, committed, 2)
    np.testing.assert_array_equal(vectors.values, np.repeat(first, 3)[:, None] * np.ones((1, 4)))
    Vectors.load(tmp_path / "v", verify=True)


def _count(folder: Path) -> int:
    journal = folder / "journal.json"
    return int(read_json(journal).get("note", {}).get("count", 0)) if journal.exists() else 0
