"""Relational: the texts of a batch are as similar to each other for the student as for its teacher (as `similarity
loss` in Jasper and Stella, arXiv 2412.19048, section 3)."""

from __future__ import annotations

import torch

from lodesmith.losses._scores import check_scores
from lodesmith.losses._targets import check_teacher

__all__ = ["relational"]


def relational(scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over rows and over all columns but the row's own of (s − t)².

    Args:
        scores: [n, m], the student's similarities of n texts and m, the n among them; computed in float32 at least.
        teacher: [n, m], the teacher's.
        labels: int64 [n], the column of each row's own text; None for row i's column i.

    Returns:
        A scalar, differentiable in both; 0 where there are no two texts.

    Raises:
        InputError: the shapes do not fit.
    """
    labels = check_scores(scores, labels, None)
    scores, teacher = check_teacher(scores, teacher)
    apart = (scores - teacher).scatter(1, labels[:, None], 0.0)
    return apart.square().sum() / max(1, len(scores) * (scores.shape[1] - 1))
