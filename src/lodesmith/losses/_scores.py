"""What every loss over scores [n, m] asks of them."""

from __future__ import annotations

import torch

from lodesmith.core.errors import InputError


def check_scores(scores: torch.Tensor, labels: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor:
    """The labels [n]: the given ones, or row i's own column i.

    Raises:
        InputError: the shapes or types do not fit each other.
    """
    if scores.ndim != 2:
        raise InputError(f"scores must be [n, m], not {list(scores.shape)}")
    if mask is not None and (mask.shape != scores.shape or mask.dtype != torch.bool):
        raise InputError(f"the mask must be bool {list(scores.shape)}, not {mask.dtype} {list(mask.shape)}")
    if labels is None:
        if scores.shape[0] > scores.shape[1]:
            raise InputError(f"{scores.shape[0]} rows but {scores.shape[1]} columns", "give labels")
        return torch.arange(len(scores), device=scores.device)
    if labels.shape != scores.shape[:1]:
        raise InputError(f"labels must be [{len(scores)}], not {list(labels.shape)}")
    return labels
