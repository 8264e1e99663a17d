"""The exact index over token vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.vectors import Vectors
from lodesmith.indexes import folder
from lodesmith.indexes.flat import Flat
from lodesmith.indexes.hnsw import HNSW

D = 5


def items(count: int, seed: int, prefix: str) -> Vectors:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, count)
    values = rng.standard_normal((int(counts.sum()), D)).astype(np.float32)
    return Vectors(values, np.cumsum([0, *counts]), tuple(f"{prefix}{i}" for i in range(count)))


def by_hand(queries: Vectors, parts: dict[str, np.ndarray], k: int) -> dict[str, list[str]]:
    found = {}
    for at, query in enumerate(queries.ids):
        own = queries.values[queries.offsets[at] : queries.offsets[at + 1]].astype(np.float64)
        scores = {name: float((own @ rows.T).max(1).sum()) for name, rows in parts.items()}
        found[query] = sorted(scores, key=lambda name: (scores[name], name), reverse=True)[:k]
    return found


def of(vectors: Vectors) -> dict[str, np.ndarray]:
    return {
        name: vectors.values[a:b] for name, a, b in zip(vectors.ids, vectors.offsets, vectors.offsets[1:], strict=False)
    }


def test_search_add_replace_and_delete_are_those_of_a_full_comparison(tmp_path: Path) -> None:
    first, second, queries = items(60, 0, "a"), items(20, 1, "b"), items(7, 2, "q")
    index = Flat("maxsim")
    index.add(first)
    index.add(second)
    index.add(Vectors.joined([items(3, 5, "a")]))
    assert index.delete(["a7", "b3", "nobody"]) == 2
    held = of(first) | of(second) | of(items(3, 5, "a"))
    del held["a7"], held["b3"]
    run = index.search(queries, 10)
    wanted = by_hand(queries, held, 10)
    assert {name: [key for key, _ in run[name]] for name in queries.ids} == wanted
    assert len(index) == len(held) == len(index.ids)
    (tmp_path / "saved").mkdir()
    index.save(tmp_path / "saved")
    again = Flat("maxsim")
    again.load(tmp_path / "saved")
    assert dict(again.search(queries, 10)) == dict(run)


def test_an_index_folder_holds_token_vectors(tmp_path: Path) -> None:
    vectors, queries = items(30, 0, "a"), items(4, 2, "q")
    folder.create(tmp_path / "index", "flat", vectors, metric="maxsim", model="m")
    index = folder.open_index(tmp_path / "index", metric="maxsim")
    expected = Flat("maxsim")
    expected.add(vectors)
    assert dict(index.search(queries, 5)) == dict(expected.search(queries, 5))


def test_what_compares_single_vectors_refuses_several() -> None:
    with pytest.raises(ConfigError, match="maxsim"):
        HNSW("maxsim")
    index = Flat("dot")
    index.add(items(5, 0, "a"))
    with pytest.raises(InputError, match="maxsim"):
        index.search(items(2, 1, "q"), 3)
