"""Squared distance between a student's vectors and its teacher's."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from lodesmith.core.errors import ConfigError
from lodesmith.losses._targets import check_targets

__all__ = ["mse"]

Over = Literal["sum", "mean"]


def mse(vectors: torch.Tensor, targets: torch.Tensor, over: Over = "sum") -> torch.Tensor:
    """Mean over rows of ‖x − t‖², or of ‖x − t‖² / d.

    Of vectors of length 1 the first is 2(1 − cos(x, t)), whatever d is, and the second 2(1 − cos(x, t)) / d: at d of
    3,584 a weight that is right for the one is nothing for the other. Hence the sum is the default.

    Args:
        vectors: [n, d], the student's; computed in float32 at least.
        targets: [n, d], the teacher's.
        over: `sum` or `mean` over the d dimensions.

    Returns:
        A scalar, differentiable in both; 0 where there are no rows.

    Raises:
        InputError: the shapes do not fit.
        ConfigError: `over` is neither.
    """
    if over not in get_args(Over):
        raise ConfigError(f"over is {over!r}", "choose sum or mean")
    vectors, targets = check_targets(vectors, targets)
    with torch.autocast(vectors.device.type, enabled=False):
        apart = (vectors - targets).square().sum() / max(1, len(vectors))
        return apart if over == "sum" else apart / vectors.shape[1]
