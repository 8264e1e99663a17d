"""MaxSim: the exact score of pairs and the exact top k, against a double loop in numpy and sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.vectors import Vectors
from lodesmith.similarity import _maxsim_rows, _maxsim_scan
from lodesmith.similarity.dot import dot_rows
from lodesmith.similarity.maxsim import maxsim, maxsim_rows, maxsim_top

Array = NDArray[np.float32]


def items(counts: Sequence[int], seed: int = 0, d: int = 16, sign: float = 0.0, prefix: str = "") -> Vectors:
    """Unit vectors; with a sign, all components have it."""
    values = np.random.default_rng(seed).standard_normal((sum(counts), d)).astype(np.float32)
    values = sign * np.abs(values) if sign else values
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Vectors(values, offsets, tuple(f"{prefix}{i}" for i in range(len(counts))))


def halved(values: NDArray[np.float64]) -> float:
    """The family's order of addition."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        values = np.append(values[: len(values) - half] + values[half:], values[len(values) - half : half])
    return float(values[0]) if len(values) else 0.0


def oracle(queries: Vectors, documents: Vectors) -> Array:
    """Σ_i max_j q_i·d_j by loops: [n, m]."""
    scores = np.zeros((len(queries), len(documents)), np.float32)
    for a in range(len(queries)):
        asked = queries.values[queries.offsets[a] : queries.offsets[a + 1]].astype(np.float64)
        for b in range(len(documents)):
            rows = documents.values[documents.offsets[b] : documents.offsets[b + 1]].astype(np.float64)
            scores[a, b] = halved(np.array([max(halved(q * r) for r in rows) for q in asked]))
    return scores


def grid(queries: Vectors, documents: Vectors) -> NDArray[np.int64]:
    """All pairs."""
    return np.stack(np.divmod(np.arange(len(queries) * len(documents)), len(documents)), axis=1)


def ranking(scores: Array, ids: Sequence[str], k: int) -> list[tuple[str, float]]:
    """Scores descending, ties by id, descending."""
    return [(key, score) for score, key in sorted(zip(scores.tolist(), ids, strict=True), reverse=True)[:k]]


@pytest.mark.parametrize("certain", [True, False])
def test_scores_are_those_of_the_definition_bit_by_bit(certain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not certain:  # no sum is trusted: the kernel scores every pair
        monkeypatch.setattr(_maxsim_rows, "_fast", lambda q, *rest: np.full(len(rest[1]), np.nan))
    queries, documents = items([3, 0, 7, 1], 1), items([5, 1, 30, 2, 2], 2)
    found = maxsim_rows(queries, documents, grid(queries, documents)).reshape(4, 5)
    np.testing.assert_array_equal(found, oracle(queries, documents))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), threads=st.sampled_from([1, 2]), sign=st.sampled_from([0.0, -1.0]))
def test_a_pair_has_the_same_bits_alone_among_others_and_in_any_order(
    data: st.DataObject, threads: int, sign: float
) -> None:
    counts = st.lists(st.integers(1, 40), min_size=1, max_size=12)
    queries = items(data.draw(counts), data.draw(st.integers(0, 99)), d=data.draw(st.integers(1, 70)))
    documents = items(data.draw(counts), 5, queries.dimension, sign)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = maxsim_rows(queries, documents, grid(queries, documents))
        order = np.random.default_rng(0).permutation(len(together))
        shuffled = maxsim_rows(queries, documents, grid(queries, documents)[order])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(shuffled.view(np.int32), together[order].view(np.int32))
    a, b = grid(queries, documents)[order[0]]
    alone = maxsim_rows(queries.take([a]), documents.take([b]))
    assert alone.view(np.int32) == together[order[0]].view(np.int32)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    k=st.integers(1, 12),
    precision=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 99),
    block=st.sampled_from([64, 1 << 12]),
)
def test_the_top_and_its_order_are_exact(counts: list[int], k: int, precision: str, seed: int, block: int) -> None:
    queries, documents = items([4, 1, 0, 9], seed, prefix="q"), items(counts, seed + 1)
    # Copies tie exactly, and one component less is almost a tie.
    values = np.concatenate([documents.values, documents.values])
    values[-1, 0] = np.nextafter(values[-1, 0], np.float32(2))
    offsets = np.concatenate([documents.offsets, documents.offsets[1:] + documents.offsets[-1]])
    documents = Vectors(values, offsets, tuple(str(i) for i in range(2 * len(counts))))
    truth = oracle(queries, documents)
    with pytest.MonkeyPatch.context() as patch:
        for module in (_maxsim_rows, _maxsim_scan):
            patch.setattr(module, "BLOCK", block)
            patch.setattr(module, "PIECE", 50)
        run = maxsim_top(queries, documents, k, precision=precision)
    assert len(run) == 4
    for number, name in enumerate(queries.ids):
        assert run[name] == ranking(truth[number], documents.ids, k)


@pytest.mark.parametrize("width", [8, 400])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_error_is_larger_than_its_bound(width: int, precision: str) -> None:
    queries, documents = items([width // 4] * 4, 1, 64), items([3, 50, 20, 200], 2, 64)
    asked = _maxsim_rows.Asked.of(queries)
    asked = asked.narrow() if precision == "bfloat16" else asked
    task = _maxsim_scan.Task(0, 4, np.arange(4))
    scores, error = _maxsim_scan.bounded(asked, task, documents)
    off = np.abs(scores - oracle(queries, documents))
    assert (off <= error).all()
    assert off.max() > 0
    assert error.max() < width / 4 * (2e-2 if precision == "bfloat16" else 1e-4)


def test_the_contest_drops_what_cannot_win_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_maxsim_scan, "_PENDING", 10)
    queries, documents = items([8] * 3, 1, 64), items([20] * 200, 2, 64)
    asked = _maxsim_rows.Asked.of(queries)
    left = _maxsim_scan.narrowed(asked, documents, _maxsim_scan.everything(queries, documents), 5)
    assert 15 <= len(left) < 30
    best = np.argsort(-oracle(queries, documents), axis=1)[:, :5]
    assert {(q, d) for q in range(3) for d in best[q].tolist()} <= set(map(tuple, left.tolist()))


def test_candidates_alone_compete() -> None:
    queries, documents = items([4, 6], 1, prefix="q"), items([3, 9, 1, 20, 2, 2], 2)
    lists = [np.array([5, 1, 3, 3]), np.array([], np.int64)]
    run = maxsim_top(queries, documents, 2, candidates=lists, precision="bfloat16")
    truth = oracle(queries, documents)[0]
    assert run["q0"] == ranking(truth[[1, 3, 5]], ["1", "3", "5"], 2)
    assert run["q1"] == []


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), d=st.integers(1, 60), seed=st.integers(0, 99))
def test_with_one_vector_an_item_it_is_dot(n: int, d: int, seed: int) -> None:
    queries, documents = items([1] * n, seed, d), items([1] * n, seed + 1, d)
    expected = dot_rows(queries.values, documents.values)
    np.testing.assert_array_equal(maxsim_rows(queries.values, documents.values), expected)
    # Beside an item of two vectors nothing takes the short way.
    ragged = items([1] * n + [2], seed + 1, d)
    ragged = Vectors(np.concatenate([documents.values, ragged.values[n:]]), ragged.offsets, ragged.ids)
    pairs = np.stack([np.arange(n)] * 2, axis=1)
    np.testing.assert_array_equal(maxsim_rows(queries, ragged, pairs), expected)
    matrix = maxsim(torch.from_numpy(queries.values), torch.from_numpy(documents.values)).numpy()
    np.testing.assert_allclose(matrix, queries.values @ documents.values.T, atol=1e-5)


def test_where_every_similarity_is_negative_padding_would_win() -> None:
    queries, documents = items([2, 3], 1, sign=1.0, prefix="q"), items([1, 40], 2, sign=-1.0)
    truth = oracle(queries, documents)
    assert (truth < -0.1).all()
    np.testing.assert_array_equal(maxsim_rows(queries, documents), np.diag(truth))
    for number, name in enumerate(queries.ids):
        assert maxsim_top(queries, documents, 2)[name] == ranking(truth[number], documents.ids, 2)


def test_the_peer_agrees_and_where_it_does_not() -> None:
    from sentence_transformers.util.similarity import maxsim as peer

    queries, documents = items([4] * 3, 1), items([9] * 5, 2)
    q, d = (torch.from_numpy(x.values.reshape(len(x), -1, 16)) for x in (queries, documents))
    ours = maxsim_rows(queries, documents, grid(queries, documents)).reshape(3, 5)
    np.testing.assert_allclose(ours, peer(q, d).numpy(), atol=1e-5)
    np.testing.assert_allclose(maxsim(q, d).numpy(), peer(q, d).numpy(), atol=1e-5)
    # A tensor's rows of zeros are padding to it, even where they are tokens, such as the mean of opposite vectors.
    asked, rows = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    assert maxsim(asked, rows).item() == 0
    assert peer(asked, rows).item() == -1
    # A document without tokens gets a made-up score there; here it is refused.
    nothing = [torch.zeros(0, 2)]
    assert peer([asked[0]], nothing).item() == -1e9


def test_padding_with_zeros_as_other_scorers_do_changes_a_score_with_its_batch() -> None:
    from sentence_transformers.util.similarity import maxsim as peer

    asked, short = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-0.5, 0.5]]])
    padded = torch.cat([short, torch.zeros(1, 1, 2)], dim=1)
    everything_counts = torch.ones(1, 2)
    assert peer(asked, short).item() == -0.5
    assert peer(asked, padded, b_mask=everything_counts).item() == 0  # what a scorer without a mask would say
    assert maxsim(asked, short).item() == -0.5


def test_huge_and_tiny_numbers_are_compared_exactly() -> None:
    base = items([3, 4, 5, 2], 3)
    for scale in (1e-25, 1e-12, 1e12):
        scaled = Vectors((base.values * np.float32(scale)).astype(np.float32), base.offsets, base.ids)
        truth = oracle(base, scaled)
        run = maxsim_top(base, scaled, 2, precision="float32")
        assert run["0"] == ranking(truth[0], base.ids, 2), scale
    large = Vectors(base.values * np.float32(1e25), base.offsets, base.ids)
    with np.errstate(over="ignore"):
        assert np.isposinf(maxsim_rows(large, large)).all()  # beyond float32, as the other similarities have it


def test_half_precision_and_read_only_values_are_taken_as_they_are() -> None:
    queries, documents = items([2, 3], 1), items([4, 1, 6], 2)
    half = Vectors(documents.values.astype(np.float16), documents.offsets, documents.ids)
    half.values.flags.writeable = False
    expected = oracle(queries, Vectors(half.values.astype(np.float32), half.offsets, half.ids))
    np.testing.assert_array_equal(maxsim_rows(queries, half, grid(queries, half)).reshape(2, 3), expected)
    assert maxsim_top(queries, half, 1)["1"] == ranking(expected[1], half.ids, 1)


def test_what_has_no_score_is_refused() -> None:
    queries, documents = items([2]), items([2, 3])
    with pytest.raises(InputError, match="document '1' has no token"):
        maxsim_top(queries, items([2, 0]), 1)
    with pytest.raises(InputError, match="16 dimensions cannot be compared with documents of 4"):
        maxsim_rows(queries, items([2], d=4))
    with pytest.raises(InputError, match="1 queries and 2 documents are no pairs"):
        maxsim_rows(queries, documents)
    with pytest.raises(InputError, match="outside 1 queries and 2 documents"):
        maxsim_rows(queries, documents, np.array([[0, 2]]))
    with pytest.raises(InputError, match="2 lists of candidates for 1 queries"):
        maxsim_top(queries, documents, 1, candidates=[np.array([0])] * 2)
    with pytest.raises(ConfigError, match="k = 0"):
        maxsim_top(queries, documents, 0)
    for damaged in (np.nan, np.inf):
        for side in (queries, documents):
            values = side.values.copy()
            values[1, 3] = damaged
            bad = Vectors(values, side.offsets, side.ids)
            with pytest.raises(NotFiniteError):
                maxsim_top(*((bad, documents) if side is queries else (queries, bad)), 1)


def test_nothing_to_compare_gives_nothing() -> None:
    empty, documents = items([]), items([2, 3])
    assert len(maxsim_top(empty, documents, 3)) == 0
    assert maxsim_top(documents, empty, 3)["1"] == []
    assert maxsim_rows(documents, documents, np.zeros((0, 2), np.int64)).shape == (0,)
