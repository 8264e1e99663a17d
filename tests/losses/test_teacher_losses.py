"""The losses against a teacher, against their definitions and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.registry import find
from lodesmith.losses.cosine import cosine
from lodesmith.losses.kl import kl
from lodesmith.losses.margin_mse import margin_mse
from lodesmith.losses.mse import mse
from lodesmith.losses.relational import relational
from lodesmith.losses.relative import relative

NAMES = ("mse", "cosine", "kl", "margin_mse", "relational", "relative")
ROWS = 4
MASK = torch.rand(ROWS, 6, generator=torch.Generator().manual_seed(9)) < 0.3
LABELS = torch.tensor([5, 2, 0, 2])


def sample(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "loss",
    [
        mse,
        lambda x, t: mse(x, t, over="mean"),
        cosine,
        kl,
        lambda x, t: kl(x, t, MASK, temperature=0.3),
        margin_mse,
        lambda x, t: margin_mse(x, t, LABELS, MASK),
        lambda x, t: relational(x, t, LABELS),
        lambda x, t: relative(x, t, LABELS, margin=0.4),
    ],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[..., torch.Tensor]) -> None:
    scores, teacher = sample(ROWS, 6).requires_grad_(), sample(ROWS, 6, 1)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), (scores,))


@pytest.mark.parametrize("d", [3, 64, 3584])
def test_a_mean_over_dimensions_vanishes_as_they_grow(d: int) -> None:
    vectors, targets = normalize(sample(5, d), dim=1), normalize(sample(5, d, 1), dim=1)
    apart = 2 * (1 - (vectors * targets).sum(1).mean()).item()
    assert mse(vectors, targets).item() == pytest.approx(apart, rel=1e-9)
    assert mse(vectors, targets, over="mean").item() == pytest.approx(apart / d, rel=1e-9)
    assert 2 * cosine(vectors, targets).item() == pytest.approx(apart, rel=1e-9)
    assert cosine(3 * vectors, targets).item() == pytest.approx(apart / 2, rel=1e-9)


def test_kl_takes_the_square_of_the_temperature() -> None:
    scores, teacher = sample(3, 5), sample(3, 5, 1)
    for heat in (0.5, 1.0, 4.0):
        wanted, found = (torch.softmax(side / heat, 1) for side in (teacher, scores))
        plain = (wanted * (wanted / found).log()).sum(1).mean()
        assert kl(scores, teacher, temperature=heat).item() == pytest.approx(heat**2 * plain.item(), rel=1e-9)


def test_kl_of_a_high_temperature_is_half_the_variance_of_the_difference() -> None:
    scores, teacher = sample(3, 5), sample(3, 5, 1)
    limit = (scores - teacher).var(1, correction=0).mean() / 2
    assert kl(scores, teacher, temperature=1e4).item() == pytest.approx(limit.item(), rel=1e-3)


def test_kl_leaves_out_what_is_masked() -> None:
    scores, teacher = sample(2, 5), sample(2, 5, 1)
    mask = torch.tensor([[False, True, False, False, True], [True, True, True, True, False]])
    expected = kl(scores[:1, [0, 2, 3]], teacher[:1, [0, 2, 3]]) / 2  # the second row has one candidate
    assert kl(scores, teacher, mask).item() == pytest.approx(expected.item(), rel=1e-12)
    wild = scores.masked_fill(mask, math.nan)
    assert kl(wild, teacher, mask).item() == pytest.approx(expected.item(), rel=1e-12)
    assert kl(scores, teacher, torch.ones_like(mask)).item() == 0.0
    assert kl(teacher, teacher).item() == 0.0


def test_margins_do_not_know_what_all_scores_of_a_row_share() -> None:
    scores, teacher = sample(ROWS, 6), sample(ROWS, 6, 1)
    found = margin_mse(scores, teacher, LABELS, MASK)
    shift = torch.tensor([[3.0], [-1.0], [0.0], [10.0]])
    torch.testing.assert_close(margin_mse(scores, teacher + shift, LABELS, MASK), found)
    torch.testing.assert_close(margin_mse(scores - shift, teacher, LABELS, MASK), found)
    assert margin_mse(scores, teacher + shift.T[:, :1] * torch.arange(6), LABELS, MASK).item() != found.item()


def test_margin_mse_is_its_definition() -> None:
    scores, teacher = sample(ROWS, 6), sample(ROWS, 6, 1)
    errors = []
    for i, label in enumerate(LABELS.tolist()):
        for j in set(range(6)) - {label}:
            if not MASK[i, j]:
                student, wanted = (float(side[i, label] - side[i, j]) for side in (scores, teacher))
                errors.append((student - wanted) ** 2)
    assert margin_mse(scores, teacher, LABELS, MASK).item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    wild = scores.masked_fill(MASK.scatter(1, LABELS[:, None], False), math.inf)
    assert margin_mse(wild, teacher, LABELS, MASK).item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    assert margin_mse(scores, teacher, LABELS, torch.ones_like(MASK)).item() == 0.0


def test_relational_is_the_mean_off_the_diagonal() -> None:
    vectors, targets = sample(5, 3), sample(5, 8, 1)
    scores, teacher = vectors @ vectors.T, targets @ targets.T
    apart = [(scores[i, j] - teacher[i, j]).item() ** 2 for i, j in permutations(range(5), 2)]
    assert relational(scores, teacher).item() == pytest.approx(sum(apart) / 20, rel=1e-12)
    # A share of the rows, as one of several processes has it.
    parts = [relational(scores[rows], teacher[rows], rows) for rows in (torch.tensor([0, 1]), torch.tensor([2, 3, 4]))]
    assert (2 * parts[0] + 3 * parts[1]).item() / 5 == pytest.approx(sum(apart) / 20, rel=1e-12)


def by_definition(scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, margin: float) -> float:
    total = 0.0
    n, m = scores.shape
    for i in range(n):
        for j, k in permutations(set(range(m)) - {int(labels[i])}, 2):
            if teacher[i, j] > teacher[i, k]:
                total += max(0.0, float(scores[i, k] - scores[i, j]) + margin)
    return total / (n * (m - 1) * (m - 2) / 2)


@pytest.mark.parametrize("margin", [0.0, 0.015, 0.7])
@pytest.mark.parametrize("m", [3, 4, 7, 9])
def test_relative_is_its_definition(m: int, margin: float) -> None:
    scores, teacher, labels = sample(3, m), sample(3, m, 1), torch.tensor([2, 0, 1])
    teacher[:, 1] = teacher[:, 0]  # equal for the teacher, and no pair
    teacher[2] = teacher[2].round()
    scores[:, 2] = scores[:, 0]
    expected = by_definition(scores, teacher, labels, margin)
    assert relative(scores, teacher, labels, margin).item() == pytest.approx(expected, rel=1e-12)
    scores.requires_grad_()
    given = torch.autograd.grad(relative(scores, teacher, labels, margin + 0.01), scores)[0]
    small = 1e-6
    for i, j in ((0, 0), (1, 1), (2, 2)):
        moved = scores.detach().clone()
        moved[i, j] += small
        slope = (
            by_definition(moved, teacher, labels, margin + 0.01)
            - by_definition(scores.detach(), teacher, labels, margin + 0.01)
        ) / small
        assert given[i, j].item() == pytest.approx(slope, abs=1e-5)


def test_a_student_that_ranks_as_its_teacher_by_the_margin_has_nothing_left() -> None:
    teacher = sample(6, 6)
    assert relative(3 * teacher, teacher, margin=1e-6).item() == 0.0
    assert relative(-teacher, teacher).item() > 0.1
    assert relative(sample(6, 6, 1), torch.zeros(6, 6)).item() == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    vectors, targets = sample(5, 5), sample(5, 5, 1)
    loss: Any = find("losses", name)
    expected = loss(vectors.half().float(), targets.half().float())
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = loss(vectors.half(), targets.half())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_nothing_that_still_has_a_gradient(name: str) -> None:
    rows = torch.zeros(0, 5, requires_grad=True)
    loss = find("losses", name)(rows, torch.zeros(0, 5))
    loss.backward()
    assert loss.item() == 0.0
    assert rows.grad is not None


@pytest.mark.parametrize("name", ["relational", "relative", "margin_mse", "kl"])
def test_one_text_alone_gives_nothing(name: str) -> None:
    assert find("losses", name)(torch.ones(1, 1), torch.zeros(1, 1)).item() == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_differ_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"\[4, 5\].*\[4, 6\]"):
        find("losses", name)(torch.zeros(4, 5), torch.zeros(4, 6))


def test_settings_out_of_range_are_refused() -> None:
    scores: Any = torch.zeros(2, 2)
    with pytest.raises(InputError, match="temperature must be above 0, not 0"):
        kl(scores, scores, temperature=0)
    with pytest.raises(InputError, match=r"mask must be bool \[2, 2\], not torch.float32"):
        kl(scores, scores, scores)
    with pytest.raises(InputError, match="margin must be 0 or more, not -1"):
        relative(scores, scores, margin=-1)
    with pytest.raises(ConfigError, match="over is 'max'"):
        mse(scores, scores, over="max")  # type: ignore[arg-type]
