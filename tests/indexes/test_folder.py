"""Index folders: what they hold, who may write, and that damage and strangers are typed errors."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_samples import QUERIES, D, found, left, some

from lodesmith.core.errors import BusyError, ConfigError, InputError, IntegrityError, LodesmithError
from lodesmith.core.files import locked
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import folder


def test_the_manifest_says_what_it_is(place: Path) -> None:
    manifest = folder.read_manifest(place)
    expected = {"index": "flat", "model": "fp-one", "dimension": D, "metric": "cosine", "generation": 1, "items": 60}
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["info"] == {"model": "tiny"}
    files = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json", ".lock"}
    assert folder.verify(place) == len(manifest["files"])


def test_a_reopened_index_gives_the_same_through_a_life(place: Path) -> None:
    reference = folder.open_index(place)
    reference.add(some(30, 1, "e"))
    assert folder.add(place, some(30, 1, "e")) == 90
    reference.add(some(10, 2))
    assert folder.add(place, some(10, 2)) == 90
    assert folder.delete(place, ["d3", "e4", "unknown"]) == 2
    assert reference.delete(["d3", "e4", "unknown"]) == 2
    assert folder.delete(place, ["d3"]) == 0
    assert found(place, 100) == reference.search(QUERIES, 100)
    assert folder.compact(place)["items"] == 88
    assert found(place, 100) == reference.search(QUERIES, 100)
    assert len(left(place)) == 2
    assert folder.add(place, Vectors.dense(some(4).values[3:], ["d3"])) == 89


def test_a_change_of_nothing_makes_no_generation(place: Path) -> None:
    folder.delete(place, ["unknown"])
    folder.add(place, some(0))
    folder.compact(place)
    assert folder.read_manifest(place)["generation"] == 1


def test_everything_deleted_and_filled_again(place: Path) -> None:
    assert folder.delete(place, [f"d{i}" for i in range(60)]) == 60
    assert all(ranking == [] for ranking in found(place).values())
    folder.compact(place)
    assert all(ranking == [] for ranking in found(place).values())
    folder.add(place, some(5))
    assert len(found(place)["a"]) == 5


def test_an_empty_index(tmp_path: Path) -> None:
    folder.create(tmp_path / "i", "flat", some(0), metric="dot")
    assert found(tmp_path / "i")["a"] == []
    folder.compact(tmp_path / "i")
    with pytest.raises(InputError, match=f"3 dimensions, the index has {D}"):
        folder.add(tmp_path / "i", Vectors.dense(np.ones((1, 3), np.float32), ["x"]))


def test_ragged_items_and_half_precision(tmp_path: Path) -> None:
    dense = some(50)
    offsets = np.array([0, 1, 5, 30, 50])
    vectors = Vectors(dense.values.astype(np.float16), offsets, ("one", "tab\there", "“three”", "\u2028"))
    folder.create(tmp_path / "i", "flat", vectors, metric="dot")
    before = found(tmp_path / "i")
    folder.delete(tmp_path / "i", ["one"])
    folder.compact(tmp_path / "i")
    assert dict(found(tmp_path / "i")) == {q: [pair for pair in before[q] if pair[0] != "one"] for q in before}


def test_created_again_it_is_the_next_generation(place: Path) -> None:
    manifest = folder.create(place, "flat", some(7, 5, "n"), metric="dot", model="fp-two")
    assert (manifest["generation"], manifest["items"], manifest["metric"]) == (2, 7, "dot")
    assert len(found(place)["a"]) == 7
    assert left(place) == {"generation-000002", "vectors/000002"}


def test_strangers_are_refused_with_both_names(place: Path) -> None:
    with pytest.raises(IntegrityError, match="model 'fp-one', not 'fp-two'"):
        folder.open_index(place, model="fp-two")
    with pytest.raises(IntegrityError, match="metric 'cosine', not 'dot'"):
        folder.open_index(place, metric="dot")
    with pytest.raises(IntegrityError, match="dimension 12, not 384"):
        folder.open_index(place, dimension=384)
    with pytest.raises(IntegrityError, match="model 'fp-one', not 'fp-two'"):
        folder.add(place, some(3), model="fp-two")
    with pytest.raises(IntegrityError, match="metric 'cosine', not 'dot'"):
        folder.add(place, some(3), metric="dot")
    with pytest.raises(InputError, match="3 dimensions, the index has 12"):
        folder.add(place, Vectors.dense(np.ones((1, 3), np.float32), ["x"]))
    with pytest.raises(InputError, match="NaN"):
        folder.add(place, Vectors.dense(np.full((1, D), np.nan, np.float32), ["x"]))
    assert folder.open_index(place, model="fp-one", metric="cosine", dimension=D, verify=True)
    assert folder.read_manifest(place)["generation"] == 1


def test_what_is_no_index(tmp_path: Path) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: folder.open_index(tmp_path),
        lambda: folder.add(tmp_path, some(1)),
        lambda: folder.delete(tmp_path, ["x"]),
        lambda: folder.verify(tmp_path / "missing"),
        lambda: folder.compact(tmp_path),
    ]
    for call in calls:
        with pytest.raises(InputError, match="not an index folder"):
            call()
    assert list(tmp_path.iterdir()) == []
    for name in ("folder", "hsnw"):
        with pytest.raises(ConfigError, match=name):
            folder.create(tmp_path / "i", name, some(1), metric="dot")


def damaged(path: Path) -> Iterator[bytes]:
    whole = path.read_bytes()
    yield b""
    yield whole[: len(whole) // 2]
    yield b"\x00garbage\xff" * 9
    for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
        yield whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]


def test_every_damage_to_every_file_is_found(place: Path) -> None:
    folder.delete(place, ["d1"])
    good = found(place)
    for path in sorted(p for p in place.rglob("*") if p.is_file() and p.name != ".lock"):
        whole = path.read_bytes()
        for bad in damaged(path):
            path.write_bytes(bad)
            with pytest.raises(IntegrityError):
                folder.open_index(place)
            with pytest.raises(IntegrityError):
                folder.verify(place)
        path.unlink()
        with pytest.raises(LodesmithError):
            folder.verify(place)
        with pytest.raises(LodesmithError):
            folder.open_index(place)
        path.write_bytes(whole)
    assert found(place) == good


def test_a_large_index_is_opened_without_reading_all_of_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.delete(place, ["d0"])
    values = place / "vectors" / "000001" / "values.npy"
    whole = values.read_bytes()
    values.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.setattr(folder, "_SMALL", 0)
    assert folder.open_index(place)
    with pytest.raises(IntegrityError):
        folder.open_index(place, verify=True)
    values.write_bytes(whole[:-9])
    with pytest.raises(IntegrityError):
        folder.open_index(place)
    with pytest.raises(IntegrityError):
        folder.compact(place)


def test_a_damaged_index_can_be_built_again(place: Path) -> None:
    (place / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError):
        folder.add(place, some(3))
    folder.create(place, "flat", some(9), metric="dot")
    assert len(found(place)["a"]) == 9
    assert len(left(place)) == 2


def test_two_writers(place: Path) -> None:
    with locked(place):
        for call in (lambda: folder.add(place, some(3, 1)), lambda: folder.delete(place, ["d0"])):
            with pytest.raises(BusyError):
                call()
        assert len(found(place)["a"]) == 20
    folder.add(place, some(3, 1))


def test_a_stale_lock_and_leftovers_do_no_harm(place: Path) -> None:
    good = found(place)
    (place / ".lock").write_text("4194305")
    shutil.copytree(place / "vectors" / "000001", place / "vectors" / "000002")
    (place / "generation-000002").mkdir()
    (place / "generation-000002" / "items.json").write_text("half")
    (place / ".manifest.json.x.tmp").write_text("half")
    assert found(place) == good
    folder.delete(place, ["d0"])
    assert left(place) == {"generation-000002", "vectors/000001"}
    assert not list(place.glob(".manifest*"))


def test_a_reader_keeps_its_generation(place: Path) -> None:
    good = found(place)
    reader = folder.open_index(place)
    folder.create(place, "flat", some(5, 7, "n"), metric="cosine")
    assert reader.search(QUERIES, 20) == good
    assert found(place) != good


def test_a_reader_that_a_swap_overtakes_takes_the_new_generation(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = folder._load

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(folder, "_load", original)
        folder.create(place, "flat", some(5, 7, "n"), metric="cosine")
        return original(*arguments)

    monkeypatch.setattr(folder, "_load", late)
    assert len(found(place)["a"]) == 5


def test_readers_while_a_writer_works(place: Path) -> None:
    """Every search sees a whole generation: all items of it, and only those."""
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            names = {name for name, _ in found(place, 1000)["a"]}
            size = len(names)
            seen.add(size)
            if names != {f"d{i}" for i in range(60)} | {f"g{i}" for i in range(size - 60)} or (size - 60) % 5:
                wrong.append(size)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 9):
        folder.add(place, some(5 * step, step, "g"))
        if step % 3 == 0:
            folder.compact(place)
    stop.set()
    reader.join()
    assert not wrong
    assert seen


def test_the_manifest_is_plain_json(place: Path) -> None:
    assert json.loads((place / "manifest.json").read_text())["format"] == folder.read_manifest(place)["format"]
