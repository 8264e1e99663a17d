"""Small index folders for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import folder

D = 12
QUERIES = Vectors.dense(np.random.default_rng(99).standard_normal((5, D)).astype(np.float32), list("abcde"))


def some(n: int, seed: int = 0, prefix: str = "d") -> Vectors:
    rng = np.random.default_rng(seed)
    return Vectors.dense(rng.standard_normal((n, D)).astype(np.float32), [f"{prefix}{i}" for i in range(n)])


def found(place: Path, k: int = 20) -> Run:
    return folder.open_index(place).search(QUERIES, k)


def left(place: Path) -> set[str]:
    return {p.relative_to(place).as_posix() for p in [*place.glob("generation-*"), *place.glob("vectors/*")]}
