"""Aligned: the cosine of flattened items, as a matrix to differentiate and as the exact score of pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError, NotFiniteError
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.similarity import aligned as module
from lodesmith.similarity.aligned import aligned, aligned_rows, flattened, unflattened
from lodesmith.similarity.cosine import cosine, cosine_rows
from lodesmith.similarity.maxsim import Ragged

RNG = np.random.default_rng(0)


def items(n: int, t: int, d: int, seed: int = 0, prefix: str = "i") -> Vectors:
    values = np.random.default_rng(seed).standard_normal((n * t, d)).astype(np.float32)
    return Vectors(values, np.arange(n + 1) * t, tuple(f"{prefix}{i}" for i in range(n)), {"model": "m"})


def tensor(vectors: Vectors) -> torch.Tensor:
    return torch.from_numpy(vectors.values).view(len(vectors), -1, vectors.dimension)


def grid(n: int, m: int) -> np.ndarray:
    return np.stack([np.repeat(np.arange(n), m), np.tile(np.arange(m), n)], axis=1)


def by_hand(queries: Vectors, documents: Vectors) -> np.ndarray:
    """Σ_i q_i·d_i over the lengths of the matrices, in float64."""
    q, d = (side.values.astype(np.float64).reshape(len(side), -1, side.dimension) for side in (queries, documents))
    products = np.einsum("ntd,mtd->nm", q, d)
    return products / np.sqrt((q**2).sum((1, 2)))[:, None] / np.sqrt((d**2).sum((1, 2)))


@pytest.mark.parametrize(("t", "d"), [(1, 7), (4, 9), (16, 3)])
def test_both_forms_follow_the_definition(t: int, d: int) -> None:
    queries, documents = items(5, t, d, 1), items(6, t, d, 2)
    expected = by_hand(queries, documents)
    np.testing.assert_allclose(aligned(tensor(queries), tensor(documents)).numpy(), expected, atol=1e-6)
    found = aligned_rows(queries, documents, grid(5, 6))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(5, 6), expected.astype(np.float32))
    np.testing.assert_array_equal(aligned_rows(queries, documents.take(range(5))), found.reshape(5, 6).diagonal())
    assert find("similarity", "aligned") is aligned


def test_the_order_of_the_vectors_counts() -> None:
    one = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert aligned(one, one.flip(1)).item() == 0
    assert aligned(one, one).item() == pytest.approx(1)


@given(n=st.integers(1, 6), d=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_with_one_vector_an_item_it_is_the_cosine(n: int, d: int, seed: int) -> None:
    queries, documents = items(n, 1, d, seed), items(n, 1, d, seed + 1)
    np.testing.assert_array_equal(aligned_rows(queries, documents), cosine_rows(queries.values, documents.values))
    np.testing.assert_array_equal(aligned_rows(queries.values, documents.values), aligned_rows(queries, documents))
    flat = [torch.from_numpy(side.values) for side in (queries, documents)]
    expected = cosine(*flat)
    for shape in (flat, [side[:, None] for side in flat], [Ragged.of(side) for side in flat]):
        assert torch.equal(aligned(*shape), expected)


@given(
    n=st.integers(1, 9),
    t=st.integers(1, 9),
    d=st.integers(1, 30),
    seed=st.integers(0, 99),
    components=st.integers(1, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_score_does_not_depend_on_the_batch(n: int, t: int, d: int, seed: int, components: int) -> None:
    queries, documents = items(n, t, d, seed), items(n + 2, t, d, seed + 1)
    pairs = grid(n, n + 2)
    together = aligned_rows(queries, documents, pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COMPONENTS", components)
        np.testing.assert_array_equal(aligned_rows(queries, documents, pairs).view(np.int32), together.view(np.int32))
    order = np.random.default_rng(seed).permutation(len(pairs))
    np.testing.assert_array_equal(aligned_rows(queries, documents, pairs[order]), together[order])
    a, b = pairs[seed % len(pairs)]
    alone = aligned_rows(queries.take([a]), documents.take([b]))
    assert alone.view(np.int32)[0] == together.reshape(n, -1)[a, b].view(np.int32)
    matrix = aligned(tensor(queries), tensor(documents))
    np.testing.assert_allclose(
        aligned(tensor(queries)[a : a + 1], tensor(documents)[b : b + 1]), matrix[a, b], atol=1e-6
    )


def test_gradients_are_right() -> None:
    made = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 5, dtype=torch.float64, generator=made, requires_grad=True)
    d = torch.randn(2, 4, 5, dtype=torch.float64, generator=made, requires_grad=True)
    assert torch.autograd.gradcheck(aligned, (q, d))
    assert torch.autograd.gradcheck(
        lambda values: aligned(Ragged(values, torch.tensor([0, 4, 8, 12])), d),
        (q.detach().view(12, 5).requires_grad_(),),
    )


def test_little_precision_of_the_vectors_or_of_autocast_takes_none_from_the_scores() -> None:
    queries, documents = tensor(items(4, 3, 8, 1)), tensor(items(5, 3, 8, 2))
    narrow = [side.bfloat16() for side in (queries, documents)]
    expected = aligned(*(side.float() for side in narrow))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(aligned(*narrow), expected)
        assert torch.equal(aligned(queries, documents), by_torch(queries, documents))
    assert expected.dtype == torch.float32


def by_torch(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return cosine(queries.flatten(1), documents.flatten(1))


def test_zeros_and_what_is_not_finite() -> None:
    queries, documents = items(2, 3, 4), items(2, 3, 4, 1)
    queries.values[:3] = 0
    assert aligned_rows(queries, documents)[0] == 0
    assert aligned(tensor(queries), tensor(documents))[0].tolist() == [0, 0]
    for bad in (np.nan, np.inf):
        documents.values[4, 1] = bad
        assert aligned_rows(queries, documents, np.array([[0, 0]]))[0] == 0
        with pytest.raises(NotFiniteError):
            aligned_rows(queries, documents)


def test_half_precision_is_exact_and_empty_sides_are_allowed() -> None:
    queries, documents = items(3, 2, 5), items(3, 2, 5, 1)
    half = Vectors(documents.values.astype(np.float16), documents.offsets, documents.ids)
    single = Vectors(half.values.astype(np.float32), documents.offsets, documents.ids)
    np.testing.assert_array_equal(aligned_rows(queries, half), aligned_rows(queries, single))
    none = queries.take([])
    assert aligned_rows(none, documents, np.zeros((0, 2), np.int64)).shape == (0,)
    assert aligned_rows(none, none).shape == (0,)
    assert aligned(Ragged.of(tensor(queries)), Ragged(torch.zeros(0, 5), torch.tensor([0]))).shape == (3, 0)


def test_items_of_different_numbers_of_vectors_are_refused_with_both() -> None:
    with pytest.raises(InputError, match="query 0 has 4 vectors, and document 0 has 2"):
        aligned(torch.zeros(2, 4, 3), torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match="query 0 has 2 vectors, and document 0 has 4"):  # as many components
        aligned(torch.zeros(1, 2, 6), torch.zeros(1, 4, 6))
    ragged = Ragged(torch.zeros(5, 3), torch.tensor([0, 2, 5]))
    with pytest.raises(InputError, match="query 0 has 2 vectors, and query 1 has 3"):
        aligned(ragged, torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match="document 0 has 2 vectors, and document 1 has 3"):
        aligned(torch.zeros(0, 2, 3), ragged)
    with pytest.raises(InputError, match="no vectors"):
        aligned(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3))
    with pytest.raises(InputError, match="3 dimensions cannot be compared with documents of 4"):
        aligned(torch.zeros(2, 2, 3), torch.zeros(2, 2, 4))
    queries, documents = items(2, 4, 3), items(2, 2, 3)
    with pytest.raises(InputError, match="'i0' has 2 vectors, and 4 are compared"):
        aligned_rows(queries, documents)
    with pytest.raises(InputError, match="3 dimensions cannot be compared with documents of 4"):
        aligned_rows(queries, items(2, 4, 4))
    with pytest.raises(InputError, match="outside 2 queries"):
        aligned_rows(queries, queries, np.array([[0, 2]]))
    with pytest.raises(InputError, match="no pairs"):
        aligned_rows(queries, items(3, 4, 3))
    empty = Vectors(np.zeros((0, 3), np.float32), np.zeros(3, np.int64), ("a", "b"))
    with pytest.raises(InputError, match="'a' has 0 vectors"):
        aligned_rows(empty, empty)


def test_flattened_and_back_without_a_copy() -> None:
    whole = items(4, 3, 5)
    flat = flattened(whole)
    assert (flat.dimension, flat.is_dense, flat.ids, flat.info) == (15, True, whole.ids, whole.info)
    assert np.shares_memory(flat.values, whole.values)
    again = unflattened(flat, 3)
    np.testing.assert_array_equal(again.values, whole.values)
    np.testing.assert_array_equal(again.offsets, whole.offsets)
    assert flattened(whole.take([]), 3).values.shape == (0, 15)
    assert len(unflattened(flattened(whole.take([]), 3), 3)) == 0
    with pytest.raises(InputError, match="15 components an item are not 4 vectors"):
        unflattened(flat, 4)
    with pytest.raises(InputError, match="'i0' has 3 vectors, and 2 are compared"):
        flattened(whole, 2)
