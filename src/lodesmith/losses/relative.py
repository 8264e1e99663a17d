"""Relative: what is nearer to a text for the teacher is nearer to it for the student (after the `relative similarity
loss` of Jasper and Stella, arXiv 2412.19048, section 3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import pad

from lodesmith.core.errors import InputError
from lodesmith.losses._scores import check_scores
from lodesmith.losses._targets import check_teacher

__all__ = ["relative"]


def relative(
    scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None = None, margin: float = 0.015
) -> torch.Tensor:
    """Mean over rows i and pairs {j, k} of other columns of max(0, s_ik − s_ij + margin), with t_ij > t_ik.

    A pair that the teacher does not tell apart counts as 0. The paper compares any two pairs of texts; here they have
    one text in common, as in a ranking. Memory is linear in n · m, and time nearly so: no triplet is ever looked at
    by itself.

    Args:
        scores: [n, m], the student's similarities of n texts and m, the n among them; computed in float32 at least.
        teacher: [n, m], the teacher's, without a gradient.
        labels: int64 [n], the column of each row's own text; None for row i's column i.
        margin: from 0, in units of the scores.

    Returns:
        A scalar, differentiable once in `scores`; 0 where there are no three texts.

    Raises:
        InputError: the shapes do not fit, or the margin is out of range.
    """
    if not 0 <= margin < math.inf:
        raise InputError(f"the margin must be 0 or more, not {margin}")
    labels = check_scores(scores, labels, None)
    scores, teacher = check_teacher(scores, teacher)
    others = scores.shape[1] - 1
    if not len(scores) or others < 2:
        return scores.sum() * 0
    result: torch.Tensor = _Hinges.apply(scores, teacher, labels, margin)  # type: ignore[no-untyped-call]
    return result / (len(scores) * others * (others - 1) / 2)


class _Hinges(torch.autograd.Function):
    """The sum over triplets above 0: each adds s_ik − s_ij + margin, so that how often a score is on either side is
    all that value and gradient need."""

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, margin: float
    ) -> torch.Tensor:
        lower, upper = _sides(scores, teacher, labels, margin)
        slopes = (lower - upper).to(scores.dtype)
        ctx.save_for_backward(slopes)
        return ((scores.double() * slopes.double()).sum() + margin * lower.sum().double()).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return ctx.saved_tensors[0] * gradients[0], None, None, None


def _sides(
    scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many triplets above 0 have each score as s_ik, and as s_ij: int64 [n, m] twice.

    A row in the teacher's order is cut into halves, and these again: what is above 0 between two halves is found by
    sorting, as inversions are counted by merging.
    """
    order, values, ties = _ordered(scores, teacher, labels)
    lower, upper = torch.zeros_like(order), torch.zeros_like(order)
    size = 1
    while size < order.shape[1]:
        nearer, farther = values.view(len(values), -1, 2, size).unbind(2)
        below, above = (counts.view(len(values), -1, 2, size) for counts in (lower, upper))
        below[:, :, 1] += torch.searchsorted(nearer.sort(-1).values, farther + margin, right=True)
        above[:, :, 0] += size - torch.searchsorted(farther.sort(-1).values, nearer - margin)
        size *= 2
    # In order of their scores, all that are equal for the teacher have been counted: those before, and those after.
    places = torch.arange(order.shape[1], device=order.device)
    lower -= places - ties[0]
    upper -= ties[1] - places
    columns = scores.shape[1]
    back = [torch.zeros_like(counts).scatter_(1, order, counts)[:, :columns] for counts in (lower, upper)]
    return back[0], back[1]


def _ordered(
    scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Columns from nearest to farthest for the teacher, equal ones by rising score, and the row's own at the end among
    what fills up to a power of two: the order, the scores in it, and first and last place of what is equal."""
    fill = (1 << (scores.shape[1] - 1).bit_length()) - scores.shape[1]
    sides = (side.detach().scatter(1, labels[:, None], -math.inf) for side in (scores, teacher))
    values, wanted = (pad(side, (0, fill), value=-math.inf) for side in sides)
    order = values.argsort(1)
    order = order.gather(1, wanted.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    distances = -wanted.gather(1, order)
    ties = torch.searchsorted(distances, distances), torch.searchsorted(distances, distances, right=True) - 1
    return order, values.gather(1, order), ties
