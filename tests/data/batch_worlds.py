"""Texts, pairs and batches for the tests of text batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.data.text_batches import TextBatches


def texts(count: int, longest: int, seed: int = 0) -> list[str]:
    """Different texts of 1 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    return [" ".join(map(str, [number, *rng.integers(0, 99, rng.integers(0, longest))])) for number in range(count)]


def random_pairs(count: int = 600, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 400, count), rng.integers(0, 300, count)], 1)


def ids(batch: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(batch["query_ids"].tolist(), batch["document_ids"].tolist(), strict=True))


def epoch(batches: TextBatches) -> list[list[tuple[int, int]]]:
    return [ids(batch) for batch in batches]


def conflict(a: tuple[int, int], b: tuple[int, int], known: set[tuple[int, int]]) -> bool:
    return (a[0], b[1]) in known or (b[0], a[1]) in known
