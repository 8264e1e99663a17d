"""Index folders: old or new, never a mixture; damage, strangers and full disks are typed errors."""

from __future__ import annotations

import builtins
import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodesmith.core.errors import BusyError, ConfigError, InputError, IntegrityError, LodesmithError
from lodesmith.core.files import locked
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import _generations, folder

D = 12
QUERIES = Vectors.dense(np.random.default_rng(99).standard_normal((5, D)).astype(np.float32), list("abcde"))


def some(n: int, seed: int = 0, prefix: str = "d") -> Vectors:
    rng = np.random.default_rng(seed)
    return Vectors.dense(rng.standard_normal((n, D)).astype(np.float32), [f"{prefix}{i}" for i in range(n)])


def found(place: Path, k: int = 20) -> Run:
    return folder.open_index(place).search(QUERIES, k)


def left(place: Path) -> set[str]:
    return {p.relative_to(place).as_posix() for p in [*place.glob("generation-*"), *place.glob("vectors/*")]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder.create(tmp_path / "index", "flat", some(60), metric="cosine", model="fp-one", info={"model": "tiny"})
    return tmp_path / "index"


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


ACTIONS: dict[str, Callable[[Path], Any]] = {
    "add": lambda place: folder.add(place, some(40, 3, "n")),
    "delete": lambda place: folder.delete(place, ["d1", "d2"]),
    "compact": folder.compact,
    "create": lambda place: folder.create(place, "flat", some(11, 3, "n"), metric="dot"),
}


class Disk:
    """Fails with "no space left" at the n-th write, flush, open for writing or rename."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
        self.calls, self.fail_at = 0, fail_at
        for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir")):
            self._wrap(monkeypatch, module, name)
        for name in ("open", "replace", "write_bytes", "touch"):
            self._wrap(monkeypatch, Path, name, only_writing=name == "open")
        self._wrap(monkeypatch, builtins, "open", only_writing=True)
        self._wrap(monkeypatch, np, "save")

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, only_writing: bool = False) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            mode = named.get("mode") or next((a for a in arguments[1:2] if isinstance(a, str)), "r")
            if not only_writing or set(mode) & set("wax+"):
                self.calls += 1
                if self.calls == self.fail_at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_a_full_disk_at_any_write_leaves_the_old_or_the_new(
    action: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.delete(place, ["d9"])
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    old = found(place, 100)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    ACTIONS[action](copy)
    new = found(copy, 100)
    failures = 0
    for fail_at in range(1, 200):
        trial = tmp_path / f"trial{fail_at}"
        shutil.copytree(place, trial)
        with monkeypatch.context() as patch:
            disk = Disk(patch, fail_at)
            with suppress(InputError):
                ACTIONS[action](trial)
                failures -= 1
            failures += 1
        assert found(trial, 100) in (old, new)
        folder.verify(trial)
        if disk.calls < fail_at:
            break
        ACTIONS[action](trial)  # and it can be done again
        assert found(trial, 100) == new
        shutil.rmtree(trial)
    assert failures > 8


FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def write_forever(place: Path, acknowledge: Callable[[int], Any]) -> None:
    for step in range(1, 10_000):
        folder.add(place, some(30, step, "g"))
        acknowledge(step)
        if step % 2 == 0:
            folder.compact(place)


def in_child(work: Callable[[], Any]) -> int:
    """Run something in a forked process; returns its id. The child uses no thread and ends without clean-up."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def killed_writer(place: Path, seconds: float) -> int:
    """Run a writer, SIGKILL it after a while; returns the last step that it has acknowledged."""
    ours, theirs = os.pipe()
    child = in_child(lambda: write_forever(place, lambda step: os.write(theirs, bytes([step]))))
    os.close(theirs)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with os.fdopen(ours, "rb") as pipe:
        return max(pipe.read(), default=0)


def check_after_kill(place: Path, done: int) -> None:
    """What was acknowledged is there; the write that was under way is there wholly or not at all."""
    folder.verify(place)
    index = folder.open_index(place, verify=True)
    run = index.search(QUERIES, 1000)
    states = []
    for step in (done, done + 1):
        expected = folder.make_index("flat", "cosine")
        expected.add(some(60))
        if step:
            expected.add(some(30, step, "g"))
        states.append(expected.search(QUERIES, 1000))
    assert run in states
    folder.delete(place, ["none"])
    assert len(left(place)) == 1 + len(_generations.segments_of(place, folder.read_manifest(place)))


def kill_many(place: Path, kills: int, longest: float) -> None:
    pick = random.Random(4)
    for _ in range(kills):
        folder.create(place, "flat", some(60), metric="cosine")
        check_after_kill(place, killed_writer(place, pick.uniform(0, longest)))


@FORKS
def test_kill_nine_leaves_the_old_or_the_new(place: Path) -> None:
    kill_many(place, 4, 0.3)


@pytest.mark.slow
@FORKS
def test_kill_nine_many_times(place: Path) -> None:
    kill_many(place, 25, 0.6)


def killed_at_flush(action: str, place: Path, number: int) -> bool:
    """Do something in a process that SIGKILLs itself before its n-th flush; returns whether it came to that."""
    calls, flush = 0, os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    def work() -> None:
        os.fsync = fsync
        ACTIONS[action](place)

    status = os.waitpid(in_child(work), 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.parametrize("action", sorted(ACTIONS))
@FORKS
def test_kill_nine_before_every_flush(action: str, place: Path, tmp_path: Path) -> None:
    """SIGKILL at each flush in turn, until the action gets through."""
    folder.delete(place, ["d9"])
    old = found(place, 100)
    shutil.copytree(place, tmp_path / "copy")
    ACTIONS[action](tmp_path / "copy")
    new = found(tmp_path / "copy", 100)
    for number in range(1, 60):
        trial = tmp_path / f"trial{number}"
        shutil.copytree(place, trial)
        killed = killed_at_flush(action, trial, number)
        assert found(trial, 100) in (old, new)
        folder.verify(trial)
        ACTIONS[action](trial)
        assert found(trial, 100) == new
        if not killed:
            break
    assert number > 3


def test_the_manifest_is_plain_json(place: Path) -> None:
    assert json.loads((place / "manifest.json").read_text())["format"] == folder.read_manifest(place)["format"]
