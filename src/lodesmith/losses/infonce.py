"""InfoNCE: cross-entropy of the positive among the candidates (van den Oord et al. 2018, arXiv 1807.03748, eq. 4)."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from lodesmith.core.errors import InputError
from lodesmith.losses._scores import check_scores

__all__ = ["infonce"]


def infonce(
    scores: torch.Tensor,
    labels: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    symmetric: bool = False,
) -> torch.Tensor:
    """Mean over rows of −log softmax(scores / temperature) at the positive's column.

    A row whose negatives are all masked, or that has none, contributes exactly 0; no rows at all give 0.

    Args:
        scores: [n, m], higher is nearer; computed in float32 at least.
        labels: int64 [n], the positive's column of each row; None for row i's column i.
        mask: bool [n, m], true where a candidate is no negative (a known positive, a duplicate): it leaves the
            softmax. A row's own positive always stays.
        temperature: above 0.
        symmetric: average with the other direction: each row's positive column looks for its row among all rows. Rows
            that share that column are no negatives of each other there.

    Returns:
        A scalar, differentiable in `scores`.

    Raises:
        InputError: shapes do not fit, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, not {temperature}")
    labels = check_scores(scores, labels, mask)
    logits = scores.float() / temperature if scores.dtype in (torch.float16, torch.bfloat16) else scores / temperature
    if not len(scores):
        return logits.sum()
    forward = cross_entropy(_without(logits, labels, mask), labels)
    if not symmetric:
        return forward
    same = labels[:, None] == labels[None, :]
    back_mask = same if mask is None else same | mask.T[labels]
    rows = torch.arange(len(labels), device=scores.device)
    backward = cross_entropy(_without(logits.T[labels], rows, back_mask), rows)
    return (forward + backward) / 2


def _without(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The logits with −inf where the mask is set, but for the positives."""
    if mask is None:
        return logits
    own = torch.zeros_like(mask).scatter_(1, labels[:, None], True)
    return logits.masked_fill(mask & ~own, float("-inf"))
