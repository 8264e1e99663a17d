"""What the losses against a teacher ask of the two sides that they compare."""

from __future__ import annotations

import torch

from lodesmith.core.errors import InputError
from lodesmith.losses._sums import check_vectors


def check_targets(vectors: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A student's and a teacher's vectors of the same texts, [n, d] each, in float32 at least.

    Raises:
        InputError: they are not floating point [n, d], or not of one shape.
    """
    vectors, targets = check_vectors(vectors), check_vectors(targets)
    if vectors.shape != targets.shape:
        raise InputError(f"vectors are {list(vectors.shape)} but their targets {list(targets.shape)}")
    return vectors, targets


def check_teacher(scores: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A student's and a teacher's scores of the same pairs, [n, m] each, in float32 at least.

    Raises:
        InputError: they are not of one shape.
    """
    if scores.shape != teacher.shape:
        raise InputError(f"scores are {list(scores.shape)} but the teacher's {list(teacher.shape)}")
    return _wide(scores), _wide(teacher)


def _wide(scores: torch.Tensor) -> torch.Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
