"""InfoNCE against a numpy oracle and finite differences, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.losses.infonce import infonce


def one_way(scores: NDArray[np.float64], labels: NDArray[np.int64], mask: NDArray[np.bool_]) -> float:
    """Row by row, from the definition, with the candidates written out."""
    losses = []
    for row, label in enumerate(labels):
        candidates = [scores[row, j] for j in range(scores.shape[1]) if j == label or not mask[row, j]]
        losses.append(np.log(np.sum(np.exp(candidates))) - scores[row, label])
    return float(np.mean(losses))


def oracle(scores: NDArray[np.float64], labels: NDArray[np.int64], mask: NDArray[np.bool_], symmetric: bool) -> float:
    forward = one_way(scores, labels, mask)
    if not symmetric:
        return forward
    same = labels[:, None] == labels[None, :]
    back = one_way(scores.T[labels], np.arange(len(labels)), mask.T[labels] | same)
    return (forward + back) / 2


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 9), (1, 1), (1, 3)])
def test_it_is_the_definition(n: int, m: int, symmetric: bool) -> None:
    rng = np.random.default_rng(n * m)
    for _ in range(20):
        scores = rng.standard_normal((n, m))
        labels = rng.integers(0, m, n)
        mask = rng.random((n, m)) < 0.4
        found = infonce(torch.tensor(scores), torch.tensor(labels), torch.tensor(mask), 0.1, symmetric)
        assert found.item() == pytest.approx(oracle(scores / 0.1, labels, mask, symmetric), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_its_gradient_is_that_of_finite_differences(symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 3, 5])
    mask = torch.rand(4, 6, generator=generator) < 0.3
    assert torch.autograd.gradcheck(lambda s: infonce(s, labels, mask, 0.5, symmetric), (scores,))


def test_masked_candidates_do_not_count_whatever_their_score() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    mask = torch.tensor([[False, False, True]])
    expected = infonce(scores[:, :2])
    for value in (3.0, 1e30, float("inf"), float("nan")):
        scores[0, 2] = value
        assert infonce(scores, None, mask) == expected


def test_a_row_without_negatives_gives_zero_and_a_zero_gradient() -> None:
    scores = torch.tensor([[0.3, 0.9], [0.1, 0.2]], requires_grad=True)
    loss = infonce(scores, None, torch.ones(2, 2, dtype=torch.bool), 0.01, symmetric=True)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(2, 2))
    assert infonce(torch.tensor([[5.0]])).item() == 0.0
    empty = torch.zeros(0, 3, requires_grad=True)
    infonce(empty).backward()
    assert empty.grad is not None


def test_equal_scores_give_log_of_the_candidates() -> None:
    assert infonce(torch.zeros(8, 8), temperature=0.02).item() == pytest.approx(np.log(8))


def test_rows_of_one_column_are_no_negatives_of_each_other_in_the_other_direction() -> None:
    scores = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0])
    forward = infonce(scores, labels)
    assert infonce(scores, labels, symmetric=True).item() == pytest.approx(forward.item() / 2)


def test_half_precision_is_computed_in_float32() -> None:
    scores = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = infonce(scores, temperature=0.02)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(infonce(scores.double(), temperature=0.02).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3),), "must be \\[n, m\\]"),
        ((torch.zeros(3, 2),), "3 rows but 2 columns"),
        ((torch.zeros(3, 3), torch.zeros(2, dtype=torch.int64)), "labels must be"),
        ((torch.zeros(2, 2), None, torch.zeros(2, 3, dtype=torch.bool)), "mask must be bool"),
        ((torch.zeros(2, 2), None, torch.zeros(2, 2)), "mask must be bool"),
        ((torch.zeros(2, 2), None, None, 0.0), "temperature must be above 0"),
        ((torch.zeros(2, 2), None, None, float("nan")), "temperature must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        infonce(*arguments)
