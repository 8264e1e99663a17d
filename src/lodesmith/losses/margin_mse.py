"""Margin-MSE: a student's differences between positive and negative are its teacher's (Hofstätter et al. 2020, arXiv
2010.02666, eq. 4)."""

from __future__ import annotations

import torch

from lodesmith.losses._scores import check_scores
from lodesmith.losses._targets import check_teacher

__all__ = ["margin_mse"]


def margin_mse(
    scores: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over pairs of a row's positive p and a negative n of ((s_p − s_n) − (t_p − t_n))².

    A number added to all the teacher's (or the student's) scores of a row changes nothing.

    Args:
        scores: [n, m], the student's; computed in float32 at least.
        teacher: [n, m], the teacher's.
        labels: int64 [n], the positive's column of each row; None for row i's column i.
        mask: bool [n, m], true where a candidate is no negative.

    Returns:
        A scalar, differentiable in both; 0 where there are no pairs.

    Raises:
        InputError: the shapes do not fit.
    """
    labels = check_scores(scores, labels, mask)
    scores, teacher = check_teacher(scores, teacher)
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else ~mask
    real = real.scatter(1, labels[:, None], False)
    apart = scores - teacher
    # What is masked may be NaN or infinite: it goes before anything is computed from it.
    errors = apart.gather(1, labels[:, None]) - apart.masked_fill(~real, 0.0)
    return errors.square().masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)
