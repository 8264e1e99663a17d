"""Triplet loss: the positive is nearer than a negative by a margin (Schroff et al. 2015, arXiv 1503.03832, eq. 3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import relu

from lodesmith.core.errors import InputError
from lodesmith.losses._scores import check_scores

__all__ = ["hardest", "hinges", "triplet"]

Pick = Literal["all", "hard", "semi_hard"]


def triplet(
    scores: torch.Tensor,
    labels: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    margin: float = 0.2,
    negatives: Pick = "all",
    active_only: bool = False,
) -> torch.Tensor:
    """Mean over triplets of max(0, margin − s(q, p) + s(q, n)).

    Where all scores are equal, as after a collapse, it is the margin, whatever `negatives` is. A row without a negative
    has no triplet; no triplets at all give 0.

    Args:
        scores: [n, m], higher is nearer; computed in float32 at least. With −‖q − d‖² it is the loss of the paper.
        labels: int64 [n], the positive's column of each row; None for row i's column i.
        mask: bool [n, m], true where a candidate is no negative (a known positive, a duplicate).
        margin: above 0, in units of the scores.
        negatives: `all` of a row; its `hard` one, the nearest; or its `semi_hard` one, the nearest of those that are
            farther than the positive, and where there are none the farthest of all.
        active_only: mean over the triplets above 0 alone (Hermans et al. 2017, arXiv 1703.07737, section 2).

    Returns:
        A scalar, differentiable in `scores`.

    Raises:
        InputError: shapes do not fit, or the margin is not above 0.
    """
    values, counted = hinges(scores, labels, mask, margin, negatives)
    if active_only:
        counted = values > 0
    return values.sum() / counted.sum().clamp(min=1)


def hinges(
    scores: torch.Tensor,
    labels: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    margin: float = 0.2,
    negatives: Pick = "all",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The triplets one by one; arguments as of `triplet`.

    Returns:
        max(0, margin − s(q, p) + s(q, n)), [n, m] for `all` negatives or [n, 1] for one a row, 0 where there is no
        triplet; and where there is one, bool of that shape.

    Raises:
        InputError: shapes do not fit, or the margin is not above 0.
    """
    if not margin > 0:
        raise InputError(f"the margin must be above 0, not {margin}")
    scores, positives, real = _against(scores, labels, mask)
    if negatives != "all" and scores.shape[1]:
        # By index: equal scores, the positive's among them, are told apart.
        columns = _hardest(scores, real) if negatives == "hard" else _semi_hard(scores, positives, real)
        scores, real = scores.gather(1, columns), real.gather(1, columns)
    # What is masked may be NaN or infinite: it goes before anything is computed from it.
    values = relu(margin - positives + scores.masked_fill(~real, 0.0))
    return values.masked_fill(~real, 0.0), real


def hardest(
    scores: torch.Tensor, labels: torch.Tensor | None = None, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's positive and its negative with the highest score; arguments as of `triplet`.

    Returns:
        The two scores, [n, 1] each, the second 0 where there is no negative; and whether there is one, bool [n, 1].

    Raises:
        InputError: shapes do not fit.
    """
    scores, positives, real = _against(scores, labels, mask)
    if not scores.shape[1]:
        return positives, torch.zeros_like(positives), torch.zeros_like(positives, dtype=torch.bool)
    columns = _hardest(scores, real)
    found = real.gather(1, columns)
    return positives, scores.gather(1, columns).masked_fill(~found, 0.0), found


def _against(
    scores: torch.Tensor, labels: torch.Tensor | None, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores in float32 at least, those of the positives [n, 1], and bool [n, m]: what is a negative."""
    labels = check_scores(scores, labels, mask)
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else ~mask
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    return scores, scores.gather(1, labels[:, None]), real.scatter(1, labels[:, None], False)


def _hardest(scores: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """int64 [n, 1]: the column of the highest score that is a negative; any where there is none."""
    return scores.detach().masked_fill(~real, float("-inf")).argmax(1, keepdim=True)


def _semi_hard(scores: torch.Tensor, positives: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """int64 [n, 1]: the column of the highest score below the positive's, else of the lowest; any where there is
    none."""
    farther = real & (scores < positives)
    easiest = scores.detach().masked_fill(~real, float("inf")).argmin(1, keepdim=True)
    return torch.where(farther.any(1, keepdim=True), _hardest(scores, farther), easiest)
