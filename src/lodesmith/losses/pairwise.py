"""The positive against the hardest negative, softly (Faysse et al. 2024, "ColPali", arXiv 2407.01449)."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from lodesmith.core.errors import InputError
from lodesmith.losses.triplet import hardest

__all__ = ["pairwise"]


def pairwise(
    scores: torch.Tensor,
    labels: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Mean over rows of softplus((s(q, n) − s(q, p)) / temperature), n the row's negative with the highest score.

    Where all scores are equal it is log 2. A row without a negative contributes 0, and is not counted; no rows at all
    give 0.

    Args:
        scores: [n, m], higher is nearer; computed in float32 at least.
        labels: int64 [n], the positive's column of each row; None for row i's column i.
        mask: bool [n, m], true where a candidate is no negative (a known positive, a duplicate).
        temperature: above 0.

    Returns:
        A scalar, differentiable in `scores`.

    Raises:
        InputError: shapes do not fit, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, not {temperature}")
    positives, negatives, real = hardest(scores, labels, mask)
    values = softplus((negatives - positives) / temperature)
    return values.masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)
