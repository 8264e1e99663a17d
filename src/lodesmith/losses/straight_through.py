"""The k best candidates taken for good, with the gradient of taking them softly (Bengio et al. 2013, arXiv 1308.3432).

No loss itself: it lets a loss behind a choice of documents reach the scores that chose them (CLaRa, arXiv 2511.18659).
"""

from __future__ import annotations

import torch

from lodesmith.core.errors import InputError

__all__ = ["straight_through_top_k"]


def straight_through_top_k(
    scores: torch.Tensor, k: int, temperature: float = 0.02, valid: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slot j takes the j-th best candidate: its weights are one-hot, to the bit, and have the gradient of

        p_j = softmax(scores / temperature) over the candidates that no slot before j has taken.

    What is taken is left out by −∞. The authors' code adds log 10⁻⁸ = −18.4 to its logit instead, so that it keeps
    weight once it is about 18.4 · temperature better than all that are left.

    Args:
        scores: [n, m]; computed in float32 at least.
        k: slots.
        temperature: above 0, in units of the scores.
        valid: bool [n, m], true where there is a candidate; all where None. The scores of the others say nothing.

    Returns:
        The weights [n, k, m], differentiable, and the candidates' positions, int64 [n, k]: the best first, of equal
        ones the first in the row.

    Raises:
        InputError: the shapes do not fit, k or the temperature is not above 0, a candidate's score is NaN or infinite
            (or would be, divided by the temperature), or a row has fewer than k candidates.
    """
    logits, valid = _checked(scores, k, temperature, valid)
    logits = logits.masked_fill(~valid, -torch.inf)
    order = logits.detach().argsort(dim=1, descending=True, stable=True)
    places = torch.arange(logits.shape[1], device=logits.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    slots = torch.arange(k, device=logits.device)[:, None]
    soft = logits[:, None, :].masked_fill(rank[:, None, :] < slots, -torch.inf).softmax(2)
    hard = (rank[:, None, :] == slots).to(soft.dtype)
    return hard + (soft - soft.detach()), order[:, :k]  # (hard + soft) − soft would round, and miss 1


def _checked(
    scores: torch.Tensor, k: int, temperature: float, valid: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores over the temperature, and which are candidates'."""
    if scores.ndim != 2 or not scores.is_floating_point():
        raise InputError(f"scores must be floating point [n, m], not {scores.dtype} {list(scores.shape)}")
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, not {temperature}")
    if valid is None:
        valid = torch.ones_like(scores, dtype=torch.bool)
    if valid.shape != scores.shape or valid.dtype != torch.bool:
        raise InputError(f"valid must be bool {list(scores.shape)}, not {valid.dtype} {list(valid.shape)}")
    if k < 1:
        raise InputError(f"there must be at least 1 slot, not {k}")
    counts = valid.sum(1)
    if bool((counts < k).any()):
        row = int((counts < k).nonzero()[0])
        raise InputError(
            f"row {row} has {int(counts[row])} candidates, fewer than k = {k}", "give it more candidates, or lower k"
        )
    if k > scores.shape[1]:  # of no rows
        raise InputError(f"{scores.shape[1]} candidates are fewer than k = {k}", "lower k")
    logits = (scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores) / temperature
    if bool((broken := ~logits.detach().isfinite() & valid).any()):
        row, column = broken.nonzero()[0].tolist()
        raise InputError(
            f"the score of candidate {column} in row {row} is {float(scores[row, column])}, and {temperature} its "
            f"temperature: no finite number",
            "look for what made it",
        )
    return logits, valid
