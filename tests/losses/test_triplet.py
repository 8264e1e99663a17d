"""The triplet loss against a numpy oracle and finite differences, and at its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.losses.triplet import hinges, triplet

Floats = NDArray[np.float64]


def chosen(row: Floats, positive: int, columns: list[int], negatives: str) -> list[int]:
    """The columns of a row that make a triplet, from the definition."""
    if negatives == "all" or not columns:
        return columns
    if negatives == "hard":
        return [max(columns, key=lambda j: row[j])]
    farther = [j for j in columns if row[j] < row[positive]]
    return [max(farther, key=lambda j: row[j])] if farther else [min(columns, key=lambda j: row[j])]


def oracle(
    scores: Floats, labels: list[int], mask: NDArray[np.bool_], margin: float, negatives: str, active_only: bool
) -> float:
    losses = []
    for row, own, left_out in zip(scores, labels, mask, strict=True):
        columns = [j for j in range(len(row)) if j != own and not left_out[j]]
        losses += [max(0.0, margin - row[own] + row[j]) for j in chosen(row, own, columns, negatives)]
    if active_only:
        losses = [loss for loss in losses if loss > 0]
    return float(np.mean(losses)) if losses else 0.0


@st.composite
def cases(draw: Any) -> tuple[Floats, list[int], NDArray[np.bool_]]:
    """Scores with many ties, positives anywhere, any mask."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    values = st.lists(st.integers(-4, 4), min_size=n * m, max_size=n * m)
    scores = np.array(draw(values)).reshape(n, m) / 4
    labels = draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n))
    mask = np.array(draw(st.lists(st.booleans(), min_size=n * m, max_size=n * m))).reshape(n, m)
    return scores, labels, mask


@given(cases(), st.sampled_from(["all", "hard", "semi_hard"]), st.booleans(), st.sampled_from([0.2, 0.5, 3.0]))
def test_it_is_the_definition(case: Any, negatives: Any, active_only: bool, margin: float) -> None:
    scores, labels, mask = case
    found = triplet(torch.tensor(scores), torch.tensor(labels), torch.tensor(mask), margin, negatives, active_only)
    assert found.item() == pytest.approx(oracle(scores, labels, mask, margin, negatives, active_only), abs=1e-12)


@pytest.mark.parametrize("negatives", ["all", "hard", "semi_hard"])
def test_its_gradient_is_that_of_finite_differences(negatives: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 3, 5])
    mask = torch.rand(4, 6, generator=generator) < 0.3
    assert torch.autograd.gradcheck(lambda s: triplet(s, labels, mask, 0.7, negatives), (scores,))


@pytest.mark.parametrize("negatives", ["all", "hard", "semi_hard"])
def test_equal_scores_give_exactly_the_margin_whatever_is_masked(negatives: Any) -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0] = mask[2, 3:] = True  # the first row has no negative at all
    assert triplet(torch.full((6, 6), 0.7), None, mask, 0.25, negatives).item() == 0.25


def test_one_of_two_equal_negatives_gets_the_whole_gradient() -> None:
    scores = torch.tensor([[0.5, 0.6, 0.6]], requires_grad=True)
    triplet(scores, None, None, 0.2, "hard").backward()
    assert scores.grad.tolist() == [[-1.0, 1.0, 0.0]]


def test_a_negative_equal_to_the_positive_is_found() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1]])
    assert triplet(scores, None, None, 0.2, "hard").item() == pytest.approx(0.2)
    assert triplet(scores, None, None, 0.2, "semi_hard").item() == 0.0  # the one farther than the positive


def test_masked_candidates_do_not_count_whatever_their_score() -> None:
    mask = torch.tensor([[False, False, True]])
    for value in (3.0, float("inf"), float("nan")):
        for negatives in ("all", "hard", "semi_hard"):
            scores = torch.tensor([[1.0, 0.9, value]], requires_grad=True)
            loss = triplet(scores, None, mask, 0.2, negatives)  # type: ignore[arg-type]
            loss.backward()
            assert loss.item() == pytest.approx(0.1)
            assert scores.grad.tolist() == [[-1.0, 1.0, 0.0]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (3, 3)])
@pytest.mark.parametrize("negatives", ["all", "hard", "semi_hard"])
def test_without_negatives_the_loss_and_its_gradient_are_zero(shape: tuple[int, int], negatives: Any) -> None:
    scores = torch.ones(shape, requires_grad=True)
    loss = triplet(scores, None, torch.ones(shape, dtype=torch.bool), 0.2, negatives)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_the_triplets_one_by_one() -> None:
    values, counted = hinges(torch.tensor([[1.0, 0.9, 0.1]]), None, None, 0.2)
    assert values.tolist()[0] == pytest.approx([0.0, 0.1, 0.0])
    assert counted.tolist() == [[False, True, True]]


def test_half_precision_is_computed_in_float32() -> None:
    scores = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = triplet(scores)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(triplet(scores.double()).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3),), "must be \\[n, m\\]"),
        ((torch.zeros(3, 2),), "3 rows but 2 columns"),
        ((torch.zeros(3, 3), torch.zeros(2, dtype=torch.int64)), "labels must be"),
        ((torch.zeros(2, 2), None, torch.zeros(2, 3, dtype=torch.bool)), "mask must be bool"),
        ((torch.zeros(2, 2), None, torch.zeros(2, 2)), "mask must be bool"),
        ((torch.zeros(2, 2), None, None, 0.0), "margin must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        triplet(*arguments)
