"""The positive against the hardest negative."""

from __future__ import annotations

import math

import pytest
import torch

from lodesmith.core.errors import InputError
from lodesmith.losses.pairwise import pairwise

SCORES = torch.tensor([[2.0, 1.0, 3.0], [0.0, 4.0, 1.0]])


def value(loss: torch.Tensor) -> float:
    return loss.detach().item()


def test_it_is_the_softplus_of_the_gap_to_the_hardest_negative() -> None:
    labels = torch.tensor([0, 1])
    wanted = (math.log1p(math.exp((3 - 2) / 0.5)) + math.log1p(math.exp((1 - 4) / 0.5))) / 2
    assert value(pairwise(SCORES, labels, temperature=0.5)) == pytest.approx(wanted)


def test_what_is_masked_is_no_negative_and_rows_without_one_are_not_counted() -> None:
    labels, mask = torch.tensor([0, 1]), torch.tensor([[False, False, True], [True, False, True]])
    assert value(pairwise(SCORES, labels, mask)) == pytest.approx(math.log1p(math.exp(1 - 2)))
    nothing = pairwise(SCORES, labels, torch.ones_like(mask))
    assert value(nothing) == 0


def test_a_tie_with_the_positive_is_found_by_its_place_not_by_its_value() -> None:
    scores = torch.tensor([[1.0, 1.0]], requires_grad=True)
    loss = pairwise(scores, torch.tensor([0]))
    loss.backward()
    assert value(loss) == pytest.approx(math.log(2))
    assert scores.grad is not None
    assert scores.grad.tolist() == [[pytest.approx(-0.5), pytest.approx(0.5)]]


def test_no_rows_or_no_negatives_at_all_give_nought() -> None:
    assert value(pairwise(torch.zeros(0, 3))) == 0
    assert value(pairwise(torch.zeros(1, 1))) == 0


def test_masked_scores_may_be_anything() -> None:
    scores = torch.tensor([[1.0, float("nan"), 0.5]], requires_grad=True)
    loss = pairwise(scores, torch.tensor([0]), torch.tensor([[False, True, False]]))
    loss.backward()
    assert scores.grad is not None
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(scores.grad).all())


def test_a_temperature_must_be_above_nought() -> None:
    with pytest.raises(InputError, match="temperature"):
        pairwise(SCORES, torch.tensor([0, 1]), temperature=0.0)
