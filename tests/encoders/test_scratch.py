"""Large copies of stored vectors lie in files, small ones in memory."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import InputError
from lodesmith.encoders.corpus import VectorCache, cache
from lodesmith.encoders.corpus.scratch import scratch
from lodesmith.testing import HashEncoder


@pytest.mark.parametrize(("most", "in_memory"), [(48, True), (47, False)])
def test_only_what_is_larger_gets_a_file(tmp_path: Path, most: int, in_memory: bool) -> None:
    made = scratch((4, 3), np.float32, tmp_path / "new" / "folder", most)
    assert isinstance(made, np.memmap) != in_memory
    made[:] = np.arange(12).reshape(4, 3)
    assert made.sum() == 66
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve")
def test_a_disk_without_room_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    """Writing to a map of a file with holes ends the process by a signal where the disk is full."""
    bytes_ = 1 << 60
    with pytest.raises(
        InputError, match=r"no room for 1,152,921,504,606,846,976 bytes of vectors .* are free"
    ) as caught:
        scratch((bytes_ // 4,), np.float32, tmp_path)
    assert caught.value.path == tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve")
def test_the_room_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, reserve = [], os.posix_fallocate

    def watched(file: int, start: int, length: int) -> None:
        reserve(file, start, length)
        taken.append(os.fstat(file).st_blocks * 512)

    monkeypatch.setattr(os, "posix_fallocate", watched)
    made = scratch((1 << 20,), np.float32, tmp_path, most=0)
    assert isinstance(made, np.memmap)
    assert taken[0] >= made.nbytes == 4 << 20


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_is_used_as_it_is(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    made = scratch((4,), np.float32, tmp_path, most=0)
    made[:] = 1
    assert made.sum() == 4


def test_scattered_items_are_gathered_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "scratch", partial(scratch, most=0))
    monkeypatch.setattr(cache, "_PORTION", 3)
    texts = [f"text {number % 7}" for number in range(20)]
    found = VectorCache(tmp_path).vectors(HashEncoder(), [(str(at), text) for at, text in enumerate(texts)])
    assert isinstance(found.values, np.memmap)
    assert np.array_equal(found.values, HashEncoder().encode(texts).values)
    assert found.ids == tuple(map(str, range(20)))
