"""What every index promises, over each one that the folder holds."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.protocols import Index, Metric
from lodesmith.core.registry import find, names
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors

INDEXES = [name for name in names("indexes") if inspect.isclass(find("indexes", name))]


def make(name: str, metric: str) -> Any:
    return find("indexes", name)(metric=metric)


def vectors(n: int, seed: int, prefix: str = "") -> Vectors:
    values = np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)
    return Vectors.dense(values, [f"{prefix}{i}" for i in range(n)])


def test_the_folder_holds_these_indexes() -> None:
    assert INDEXES == ["flat", "hnsw", "ivf", "ivfpq", "multivector"]


@pytest.fixture(params=INDEXES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=get_args(Metric))
def index(request: pytest.FixtureRequest, name: str) -> Any:
    if request.param not in getattr(find("indexes", name), "metrics", [request.param]):
        pytest.skip("another metric than this index has")
    filled = make(name, request.param)
    filled.add(vectors(200, 0))
    return filled


def test_it_is_an_index(index: Any) -> None:
    assert isinstance(index, Index)
    run = index.search(vectors(3, 1, "q"), 5)
    assert isinstance(run, Run)
    assert list(run) == ["q0", "q1", "q2"]
    assert all(len(run[q]) == 5 for q in run)


def test_an_item_finds_itself(index: Any) -> None:
    if index.metric in ("dot", "maxsim"):
        pytest.skip("a longer vector may have the greater product")
    run = index.search(vectors(200, 0), 1)
    assert all(run[name][0][0] == name for name in run)


def test_add_replaces_by_id(index: Any) -> None:
    queries = vectors(1, 1, "q")
    query = np.asarray(queries.values[0])
    index.add(Vectors.dense(np.stack([1000 * query if index.metric in ("dot", "maxsim") else query]), ["7"]))
    ranking = index.search(queries, 300)["q0"]
    assert ranking[0][0] == "7"
    assert len(ranking) == len({name for name, _ in ranking}) == 200


def test_delete_takes_out_and_counts(index: Any) -> None:
    queries = vectors(2, 1, "q")
    before = index.search(queries, 200)
    assert index.delete(["3", "4", "unknown"]) == 2
    assert index.delete(["3"]) == 0
    after = index.search(queries, 200)
    for query in before:
        assert after[query] == [pair for pair in before[query] if pair[0] not in {"3", "4"}]


def test_ties_go_by_id_descending(name: str) -> None:
    index = find("indexes", name)()
    index.add(Vectors.dense(np.ones((30, 16), np.float32), [str(i) for i in range(30)]))
    ranking = index.search(Vectors.dense(np.ones((1, 16), np.float32), ["q"]), 4)["q"]
    assert [document for document, _ in ranking] == ["9", "8", "7", "6"]


def test_saved_and_loaded_it_gives_the_same(index: Any, name: str, tmp_path: Path) -> None:
    index.delete(["5"])
    index.save(tmp_path)
    again = make(name, index.metric)
    again.load(tmp_path)
    queries = vectors(5, 2, "q")
    assert again.search(queries, 20) == index.search(queries, 20)


def test_a_query_gets_the_same_alone_and_in_company(index: Any) -> None:
    queries = vectors(9, 3, "q")
    together = index.search(queries, 10)
    for i, query in enumerate(queries.ids):
        assert index.search(queries.take([i]), 10)[query] == together[query]


def test_more_than_there_are(index: Any) -> None:
    assert len(index.search(vectors(1, 1), 10_000)["0"]) == 200


def test_another_dimension_is_refused_with_both_numbers(index: Any) -> None:
    with pytest.raises(InputError, match=r"8 dimensions.*16"):
        index.search(Vectors.dense(np.ones((1, 8), np.float32), ["q"]), 1)
    with pytest.raises(InputError, match=r"8 dimensions.*16"):
        index.add(Vectors.dense(np.ones((1, 8), np.float32), ["x"]))


def test_not_a_number_is_refused(index: Any) -> None:
    with pytest.raises(InputError, match="NaN"):
        index.add(Vectors.dense(np.full((1, 16), np.nan, np.float32), ["x"]))
    assert len(index.search(vectors(1, 1), 300)["0"]) == 200
