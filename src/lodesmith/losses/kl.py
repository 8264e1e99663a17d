"""How far a student's distribution over candidates is from its teacher's (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

import torch

from lodesmith.core.errors import InputError
from lodesmith.losses._targets import check_teacher

__all__ = ["kl"]


def kl(
    scores: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """T² · mean over rows of KL(softmax(teacher / T) ‖ softmax(scores / T)).

    T² keeps the gradient's size where T is large: the loss then nears half the variance, over candidates, of the
    difference of the two scores. Where T is small the distributions are peaked and the loss is about T² times a number
    near 1: give it a weight of about 1/T².

    Args:
        scores: [n, m], the student's; computed in float32 at least.
        teacher: [n, m], the teacher's.
        mask: bool [n, m], true where a candidate leaves both distributions. A row without two candidates gives 0.
        temperature: T, above 0, in units of the scores.

    Returns:
        A scalar, differentiable in both; 0 where there are no rows.

    Raises:
        InputError: the shapes do not fit, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, not {temperature}")
    scores, teacher = check_teacher(scores, teacher)
    gone = torch.zeros_like(scores, dtype=torch.bool) if mask is None else mask
    if gone.shape != scores.shape or gone.dtype != torch.bool:
        raise InputError(f"the mask must be bool {list(scores.shape)}, not {gone.dtype} {list(gone.shape)}")
    if not scores.numel():
        return scores.sum()
    wanted, found = (_log_shares(side / temperature, gone) for side in (teacher, scores))
    apart = (wanted.exp() * (wanted - found)).masked_fill(gone, 0.0)
    return apart.sum() * (temperature**2 / len(scores))


def _log_shares(logits: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Log softmax over what stays. The least finite number, not −∞: a row that has nothing left would be NaN."""
    return logits.masked_fill(gone, torch.finfo(logits.dtype).min / 2).log_softmax(1)
