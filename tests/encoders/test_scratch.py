"""Large copies of stored vectors lie in files, small ones in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lodesmith.encoders.corpus import VectorCache, cache
from lodesmith.encoders.corpus.scratch import scratch
from lodesmith.testing import HashEncoder


@pytest.mark.parametrize(("most", "in_memory"), [(48, True), (47, False)])
def test_only_what_is_larger_gets_a_file(tmp_path: Path, most: int, in_memory: bool) -> None:
    made = scratch((4, 3), np.float32, tmp_path, most)
    assert isinstance(made, np.memmap) != in_memory
    made[:] = np.arange(12).reshape(4, 3)
    assert made.sum() == 66
    assert not list(tmp_path.iterdir())


def test_scattered_items_are_gathered_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "scratch", partial(scratch, most=0))
    monkeypatch.setattr(cache, "_PORTION", 3)
    texts = [f"text {number % 7}" for number in range(20)]
    found = VectorCache(tmp_path).vectors(HashEncoder(), [(str(at), text) for at, text in enumerate(texts)])
    assert isinstance(found.values, np.memmap)
    assert np.array_equal(found.values, HashEncoder().encode(texts).values)
    assert found.ids == tuple(map(str, range(20)))
