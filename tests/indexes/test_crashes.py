"""Index folders when the disk is full and when the writer is killed: the old or the new, never a mixture."""

from __future__ import annotations

import builtins
import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_samples import QUERIES, found, left, some

from lodesmith.core.errors import InputError
from lodesmith.indexes import _generations, folder

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
