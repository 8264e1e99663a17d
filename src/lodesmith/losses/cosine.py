"""The angle between a student's vectors and its teacher's."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

from lodesmith.losses._targets import check_targets

__all__ = ["cosine"]


def cosine(vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over rows of 1 − cos(x, t).

    Args:
        vectors: [n, d], the student's; computed in float32 at least.
        targets: [n, d], the teacher's.

    Returns:
        A scalar, differentiable in both; 0 where there are no rows. A zero vector is 1 from everything.

    Raises:
        InputError: the shapes do not fit.
    """
    vectors, targets = check_targets(vectors, targets)
    with torch.autocast(vectors.device.type, enabled=False):
        return (1 - cosine_similarity(vectors, targets, dim=1)).sum() / max(1, len(vectors))
