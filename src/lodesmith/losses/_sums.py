"""What the losses over vectors share: checks, and sums over the rows of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lodesmith.core.errors import InputError

Total = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor without a gradient over all processes that train together, and leaves its argument alone."""


def check_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """The vectors [n, d], in float32 at least.

    Raises:
        InputError: they are not [n, d], or whole numbers.
    """
    if vectors.ndim != 2 or not vectors.shape[1] or not vectors.is_floating_point():
        raise InputError(f"vectors must be floating point [n, d], not {vectors.dtype} {list(vectors.shape)}")
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors


def summed(values: torch.Tensor, total: Total | None) -> torch.Tensor:
    """The sum of `values` over processes, differentiable: a gradient is the sum of what every process has for it."""
    if total is None:
        return values
    result: torch.Tensor = _Summed.apply(values, total)  # type: ignore[no-untyped-call]
    return result


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, total: Total) -> torch.Tensor:
        ctx.total = total
        return total(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.total(gradients[0].contiguous()), None
