"""Search over codes: exact by the codec's scores, whatever comes together."""

from __future__ import annotations

import numpy as np
import pytest

from lodesmith.codecs._codec import make
from lodesmith.codecs._rows import unit
from lodesmith.core.errors import InputError, NotFiniteError
from lodesmith.core.protocols import Metric
from lodesmith.core.vectors import Vectors
from lodesmith.indexes.flat import Flat
from lodesmith.retrieval.coded import Coded, _keys, _scores

D = 16


def vectors(n: int, seed: int = 0, prefix: str = "d") -> Vectors:
    values = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    return Vectors.dense(values, [f"{prefix}{i}" for i in range(n)])


@pytest.fixture(params=["int8", "binary", "binary:rescore=0", "binary:keep=int8", "matryoshka:m=5", "pq:m=4"])
def spelling(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean"])
def test_a_lossless_codec_finds_what_the_exact_index_finds(metric: Metric) -> None:
    documents, queries, flat = vectors(300), vectors(20, 1, "q"), Flat(metric)
    flat.add(documents)
    exact = flat.search(queries, 10)
    found = Coded(make(f"matryoshka:m={D}"), documents, metric).search(queries, 10)
    for query in exact:
        assert [key for key, _ in found[query]] == [key for key, _ in exact[query]]
        np.testing.assert_allclose([s for _, s in found[query]], [s for _, s in exact[query]], atol=1e-5)


@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean"])
def test_a_ranking_depends_on_no_other_query_and_on_no_block(spelling: str, metric: Metric) -> None:
    documents, queries = vectors(300), vectors(9, 1, "q")
    whole = Coded(make(spelling), documents, metric).search(queries, 7)
    for block in (1, 13, 299):
        assert Coded(make(spelling), documents, metric, block=block).search(queries, 7) == whole
    alone = Coded(make(spelling), documents, metric)
    for at, query in enumerate(queries.ids):
        assert alone.search(queries.take([at]), 7)[query] == whole[query]


@pytest.mark.parametrize("spelling", ["int8", "binary:rescore=0"])
def test_results_are_the_best_of_all_scores_with_ties_by_id_descending(spelling: str) -> None:
    documents, queries = vectors(120), vectors(4, 1, "q")
    documents = documents.take(list(range(120)) * 2)
    documents = Vectors.dense(documents.values, [f"d{i * 37 % 240}" for i in range(240)])  # each row twice
    coded = Coded(make(spelling), documents, "dot", block=50)
    scores = coded.codec.scores(queries.values, coded.codes)
    for at, query in enumerate(queries.ids):
        pairs = sorted(zip(scores[at].tolist(), documents.ids, strict=True), reverse=True)[:11]
        assert coded.search(queries, 11)[query] == [(key, score) for score, key in pairs]


def test_the_second_pass_ranks_so_many_of_the_first() -> None:
    documents, queries = vectors(200), vectors(5, 1, "q")
    coded = Coded(make("binary:rescore=3,keep=float16"), documents, "dot")
    first, second = (f(queries.values, coded.codes) for f in (coded.codec.first, coded.codec.scores))
    for at, query in enumerate(queries.ids):
        named = sorted(range(200), key=lambda i: (first[at, i], documents.ids[i]), reverse=True)[:12]
        best = sorted(named, key=lambda i: (second[at, i], documents.ids[i]), reverse=True)[:4]
        assert coded.search(queries, 4)[query] == [(documents.ids[i], second[at, i]) for i in best]


def test_an_item_of_several_rows_scores_as_its_best(spelling: str) -> None:
    rows = vectors(300).values
    ragged = Vectors(rows, np.array([0, *range(3, 300, 3), 300]), tuple(f"d{i}" for i in range(100)))
    coded = Coded(make(spelling), ragged, "cosine", block=7)
    queries = vectors(3, 1, "q")
    if not coded.codec.rescore:
        scores = coded.codec.scores(unit(queries.values), coded.codes).reshape(3, 100, 3).max(axis=2)
        assert coded.search(queries, 1)["q0"][0][1] == scores[0].max()
    assert len(coded.search(queries, 500)["q2"]) == len(coded) == 100


@pytest.mark.parametrize("spelling", ["int8", "binary", "float16", "matryoshka:m=3,then=binary"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_document(spelling: str, count: int) -> None:
    run = Coded(make(spelling), vectors(count), "cosine").search(vectors(2, 1, "q"), 5)
    assert [len(run[query]) for query in ("q0", "q1")] == [count, count]


def test_no_queries_give_an_empty_run(spelling: str) -> None:
    assert len(Coded(make(spelling), vectors(300), "dot").search(vectors(0, 1, "q"), 5)) == 0


def test_bytes_are_those_of_all_codes_and_what_they_share(spelling: str) -> None:
    coded = Coded(make(spelling), vectors(300), "dot")
    assert coded.bytes == 300 * coded.codec.bytes + coded.codec.shared_bytes


def test_cosine_forgets_lengths() -> None:
    documents, queries = vectors(50), vectors(3, 1, "q")
    scaled = Vectors.dense(documents.values * np.float32(4), documents.ids)
    first, second = (Coded(make("int8"), each, "cosine").search(queries, 50) for each in (documents, scaled))
    assert first == second


def test_what_cannot_be_searched_is_refused(spelling: str) -> None:
    coded = Coded(make(spelling), vectors(300), "dot")
    with pytest.raises(InputError, match="k is 0"):
        coded.search(vectors(1, 1), 0)
    with pytest.raises(InputError, match="dimensions"):
        coded.search(Vectors.dense(np.zeros((1, D + 1), np.float32), ["q"]), 1)
    with pytest.raises(NotFiniteError, match="row 1"):
        coded.search(Vectors.dense(np.array([[1.0] * D, [np.nan] * D], np.float32), ["a", "b"]), 1)
    with pytest.raises(InputError, match="one vector each"):
        coded.search(Vectors(np.zeros((2, D), np.float32), np.array([0, 2]), ("q",)), 1)


def test_keys_rise_with_scores_and_give_them_back() -> None:
    scores = np.array([[-np.float32(3e38), -1.5, -1e-45, -0.0, 0.0, 1e-45, 0.25, 3e38]], np.float32)
    keys = _keys(scores, np.zeros(8, np.uint64))
    assert (np.diff(keys.astype(np.float64)[0]) >= 0).all()
    assert keys[0, 3] == keys[0, 4]
    assert len(set(keys[0].tolist())) == 7
    assert (_scores(keys) == scores).all()
