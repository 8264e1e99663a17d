"""Similarities: the matrices that training differentiates, and the exact scores of row pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.similarity._rows import halving_sum
from lodesmith.similarity.cosine import cosine, cosine_rows
from lodesmith.similarity.dot import dot, dot_rows
from lodesmith.similarity.euclidean import euclidean, euclidean_rows

ROWS = {"dot": dot_rows, "cosine": cosine_rows, "euclidean": euclidean_rows}
MATRICES = {"dot": dot, "cosine": cosine, "euclidean": euclidean}


def plain(name: str, q: np.ndarray, d: np.ndarray) -> float:
    """The definition, in float64."""
    q, d = q.astype(np.float64), d.astype(np.float64)
    if name == "euclidean":
        return -float(((q - d) ** 2).sum())
    lengths = np.linalg.norm(q) * np.linalg.norm(d)
    return float(q @ d) if name == "dot" else float(q @ d / lengths) if lengths else 0.0


@pytest.mark.parametrize("name", sorted(ROWS))
def test_both_forms_follow_the_definition(name: str) -> None:
    rng = np.random.default_rng(1)
    q, d = rng.standard_normal((5, 37)).astype(np.float32), rng.standard_normal((7, 37)).astype(np.float32)
    expected = np.array([[plain(name, a, b) for b in d] for a in q])
    np.testing.assert_allclose(MATRICES[name](torch.from_numpy(q), torch.from_numpy(d)).numpy(), expected, atol=2e-5)
    pairs = ROWS[name](np.repeat(q, 7, axis=0), np.tile(d, (5, 1)))
    assert pairs.dtype == np.float32
    np.testing.assert_array_equal(pairs, expected.astype(np.float32).reshape(-1))


@pytest.mark.parametrize("name", sorted(ROWS))
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 200), seed=st.integers(0, 99), threads=st.sampled_from([1, 2]))
def test_a_pair_has_the_same_bits_in_any_batch(name: str, n: int, d: int, seed: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    q, p = rng.standard_normal((n, d)).astype(np.float32), rng.standard_normal((n, d)).astype(np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    together = ROWS[name](q, p)
    torch.set_num_threads(before)
    cut = int(rng.integers(0, n + 1))
    parts = [ROWS[name](q[part], p[part]) for part in (slice(0, cut), slice(cut, n))]
    np.testing.assert_array_equal(together.view(np.int32), np.concatenate(parts).view(np.int32))
    order = rng.permutation(n)
    np.testing.assert_array_equal(ROWS[name](q[order], p[order]), together[order])


@given(st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_sum_is_halving(width: int) -> None:
    row = np.random.default_rng(width).standard_normal(width) * 10.0 ** np.arange(width)[::-1].clip(0, 15)
    rest = row.copy()
    while len(rest) > 1:
        half = (len(rest) + 1) // 2
        rest[: len(rest) - half] += rest[half:]
        rest = rest[:half]
    assert halving_sum(torch.from_numpy(row.copy()[None]))[0].item() == rest[0]


def test_close_vectors_far_from_the_origin_keep_their_distance() -> None:
    base = np.full((1, 8), 4096.0, np.float32)
    near = base + np.float32(2.0**-10)
    assert euclidean_rows(base, near)[0] == -8 * 2.0**-20
    matrix = euclidean(torch.from_numpy(base), torch.from_numpy(np.concatenate([base, near])))
    np.testing.assert_allclose(matrix.numpy()[0], [0, -8 * 2.0**-20], rtol=1e-3, atol=1e-12)


def test_cosine_of_zero_tiny_and_huge_vectors() -> None:
    rows = np.array([[0, 0], [1e-40, 0], [1e-25, 1e-25], [3e38, 3e38]], np.float32)
    ones = np.ones_like(rows)
    expected = [0, np.sqrt(0.5), 1, 1]
    np.testing.assert_allclose(cosine_rows(rows, ones), expected, rtol=1e-6)
    np.testing.assert_allclose(cosine(torch.from_numpy(rows), torch.ones(1, 2))[:, 0].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(MATRICES))
def test_gradients_are_right_and_finite_at_zero_distance(name: str) -> None:
    q = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    d = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x: MATRICES[name](x, d), (q,))
    same = torch.ones(1, 5, requires_grad=True)
    MATRICES[name](same, torch.ones(1, 5)).sum().backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_pairs_of_different_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[2, 3\] and \[2, 4\]"):
        dot_rows(np.zeros((2, 3)), np.zeros((2, 4)))
