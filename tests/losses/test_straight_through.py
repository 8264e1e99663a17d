"""Top k taken for good with a soft gradient: by hand, against finite differences and the authors' published formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.losses.straight_through import straight_through_top_k

KEPT = -math.log(1e-8)
"""By how much the published formula lowers the logit of what is taken: 18.42."""
SCORES = [0.90, 0.55, 0.52, 0.30]


def softly(scores: np.ndarray, order: list[int], slot: int, temperature: float, lowered: float) -> np.ndarray:
    """The definition of one slot's soft part: what the slots before have taken is lowered by `lowered`."""
    logits = scores / temperature
    logits[order[:slot]] -= lowered
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def jacobian(scores: torch.Tensor, k: int, temperature: float, valid: torch.Tensor | None = None) -> torch.Tensor:
    """What autograd gives: [n, k, m, n, m]."""
    found = torch.autograd.functional.jacobian(lambda s: straight_through_top_k(s, k, temperature, valid)[0], scores)
    assert isinstance(found, torch.Tensor)
    return found


def test_the_forward_value_is_one_hot_to_the_bit() -> None:
    scores = torch.rand(50, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights, chosen = straight_through_top_k(scores.requires_grad_(), 20)
    expected = torch.nn.functional.one_hot(scores.detach().argsort(dim=1, descending=True, stable=True), 20).float()
    assert torch.equal(weights, expected)
    assert torch.equal(chosen, expected.argmax(2))
    assert (chosen.dtype, weights.dtype) == (torch.int64, torch.float32)


def test_equal_scores_go_by_position() -> None:
    scores = torch.tensor([[0.5, 0.7, 0.5, 0.7, 0.5] * 9])
    _, chosen = straight_through_top_k(scores, 45)
    first, second = ([i for i in range(45) if scores[0, i] == value] for value in scores.unique().flip(0))
    assert chosen[0].tolist() == first + second


@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.0])
def test_its_gradient_is_that_of_the_soft_part_by_finite_differences(temperature: float) -> None:
    rng = np.random.default_rng(3)
    scores, step = rng.uniform(-0.2, 0.2, (3, 5)), 1e-6
    valid = np.ones((3, 5), bool)
    valid[1, 2] = valid[2, 0] = False
    found = jacobian(torch.tensor(scores), 3, temperature, torch.tensor(valid)).numpy()
    expected = np.zeros_like(found)
    for row in range(3):
        open_ = np.where(valid[row], scores[row], -np.inf)
        order = np.argsort(-open_, kind="stable").tolist()
        for column in np.flatnonzero(valid[row]):
            for slot in range(3):
                up, down = open_.copy(), open_.copy()
                up[column], down[column] = up[column] + step, down[column] - step
                sides = (softly(side, order, slot, temperature, np.inf) for side in (up, down))
                expected[row, slot, :, row, column] = np.subtract(*sides) / (2 * step)
    np.testing.assert_allclose(found, expected, atol=1e-6 / temperature)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0.1


def test_where_one_candidate_is_left_it_has_all_weight_and_no_gradient() -> None:
    scores = torch.tensor([[0.3, 0.2]], requires_grad=True)
    weights, chosen = straight_through_top_k(scores, 2, 1.0)
    assert chosen.tolist() == [[0, 1]]
    (gradient,) = torch.autograd.grad(weights[0, 1] @ torch.tensor([3.0, -5.0]), scores)
    assert gradient.tolist() == [[0, 0]]


def test_the_published_formula_keeps_weight_where_it_is_taken() -> None:
    """Its second slot, for a first that is far ahead: a quarter of the weight lies on what is taken already."""
    published = softly(np.array(SCORES), [0, 1, 2, 3], 1, 0.02, KEPT)
    ours = softly(np.array(SCORES), [0, 1, 2, 3], 1, 0.02, np.inf)
    assert published.round(3).tolist() == [0.246, 0.617, 0.138, 0]
    assert ours.round(3).tolist() == [0, 0.818, 0.182, 0]
    # What we differentiate is ours: the Jacobian of a softmax is (diag p − p pᵀ) / τ.
    found = jacobian(torch.tensor([SCORES], dtype=torch.float64), 2, 0.02)[0, 1, :, 0].numpy()
    np.testing.assert_allclose(found, (np.diag(ours) - np.outer(ours, ours)) / 0.02, atol=1e-9)
    assert not found[0].any()


@given(seed=st.integers(0, 10_000), width=st.floats(0.01, 1.5), slot=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_how_far_the_two_formulas_are_apart(seed: int, width: float, slot: int) -> None:
    """Let b be the best that is left. The published formula gives to what is taken

        lost = r / (r + z),  r = Σ_taken e^((s − s_b)/τ − 18.42),  z = Σ_left e^((s − s_b)/τ) ≥ 1,

    and the rest as ours has it: p = (1 − lost) · ours on what is left. So they agree to ε while the best that is taken
    is less than τ · (18.42 − ln(1/ε) − ln(slot)) ahead of b.
    """
    temperature = 0.02
    scores = np.random.default_rng(seed).uniform(0, width, 8)
    order = np.argsort(-scores).tolist()
    ours, published = (softly(scores.copy(), order, slot, temperature, by) for by in (np.inf, KEPT))
    ahead = (scores - scores[order[slot]]) / temperature
    r, z = np.exp(ahead[order[:slot]] - KEPT).sum(), np.exp(ahead[order[slot:]]).sum()
    lost = r / (r + z)
    expected = (1 - lost) * ours
    expected[order[:slot]] = lost * np.exp(ahead[order[:slot]] - KEPT) / r
    np.testing.assert_allclose(published, expected, rtol=1e-9, atol=1e-15)
    for error in (1e-2, 1e-4):
        if ahead[order[0]] < KEPT - math.log(slot / error):
            assert np.abs(published - ours).max() < error


def test_where_they_begin_to_differ() -> None:
    """Of two candidates g apart the second slot keeps σ(g/τ − 18.42) on the first: half at g = 18.42 τ = .368."""
    gaps = {1e-4: 0.184, 1e-3: 0.230, 1e-2: 0.277, 0.5: 0.368, 0.99: 0.460}
    for share, gap in gaps.items():
        exact = 0.02 * (KEPT + math.log(share / (1 - share)))
        assert exact == pytest.approx(gap, abs=5e-4)
        kept = softly(np.array([0.5 + exact, 0.5]), [0, 1], 1, 0.02, KEPT)[0]
        assert kept == pytest.approx(share, rel=1e-9)
        weights, chosen = straight_through_top_k(torch.tensor([[0.5 + exact, 0.5]]), 2)
        assert (weights[0, 1].tolist(), chosen.tolist()) == ([0, 1], [[0, 1]])


@given(seed=st.integers(0, 10_000), k=st.integers(1, 4), extra=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_rows_and_what_is_no_candidate_do_not_matter(seed: int, k: int, extra: int) -> None:
    made = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 6, generator=made, dtype=torch.float64)
    ways = torch.randn(3, k, 6, generator=made, dtype=torch.float64)

    def gradient(given: torch.Tensor, way: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        given = given.clone().requires_grad_()
        weights, _ = straight_through_top_k(given, k, 0.5, valid)
        return torch.autograd.grad((weights * way).sum(), given)[0]

    whole = gradient(scores, ways, None)
    torch.testing.assert_close(gradient(scores[1:2], ways[1:2], None), whole[1:2])
    for filling in (9.0, math.nan, math.inf, -math.inf):
        padded, wide = (torch.nn.functional.pad(side, (0, extra), value=filling) for side in (scores, ways))
        valid = torch.arange(6 + extra)[None, :].expand(3, -1) < 6
        found = gradient(padded, wide.nan_to_num(1.0, 1.0, 1.0), valid)
        torch.testing.assert_close(found[:, :6], whole)
        assert not found[:, 6:].any()
        weights, chosen = straight_through_top_k(padded, k, 0.5, valid)
        assert int(chosen.max()) < 6
        assert not weights[:, :, 6:].any()


def test_half_precision_is_widened_and_no_rows_are_no_weights() -> None:
    weights, chosen = straight_through_top_k(torch.tensor([SCORES], dtype=torch.bfloat16), 2)
    assert weights.dtype == torch.float32
    assert chosen.tolist() == [[0, 1]]
    weights, chosen = straight_through_top_k(torch.zeros(0, 5), 3)
    assert (weights.shape, chosen.shape) == ((0, 3, 5), (0, 3))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"k": 0}, "at least 1 slot, not 0"),
        ({"k": 4}, "row 0 has 3 candidates, fewer than k = 4"),
        ({"k": 2, "valid": torch.tensor([[True, True, False], [True, False, False]])}, "row 1 has 1 candidates"),
        ({"scores": torch.zeros(0, 1)}, "1 candidates are fewer than k = 2"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"scores": torch.zeros(3)}, r"not torch.float32 \[3\]"),
        ({"scores": torch.zeros(2, 3).long()}, "torch.int64"),
        ({"valid": torch.ones(2, 3)}, r"valid must be bool \[2, 3\]"),
        ({"valid": torch.ones(2, 2).bool()}, r"valid must be bool \[2, 3\]"),
        ({"scores": torch.tensor([[0.0, 0, 0], [0, math.nan, 0]])}, "candidate 1 in row 1 is nan"),
        ({"scores": torch.tensor([[0.0, 0, -math.inf], [0, 0, 0]])}, "candidate 2 in row 0 is -inf"),
        ({"scores": torch.tensor([[3e38, 0, 0], [0, 0, 0]])}, "candidate 0 in row 0"),
    ],
)
def test_errors(given: dict[str, object], says: str) -> None:
    settings = {"scores": torch.tensor([[0.3, 0.2, 0.1]] * 2), "k": 2} | given
    with pytest.raises(InputError, match=says):
        straight_through_top_k(**settings)  # type: ignore[arg-type]
