"""Uniformity: how evenly vectors cover the sphere (Wang & Isola 2020, arXiv 2005.10242, eq. 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import normalize

from lodesmith.core.errors import ConfigError
from lodesmith.losses._sums import check_vectors

__all__ = ["uniformity"]

_BLOCK = 1 << 22
"""Pairs that are looked at together."""


def uniformity(vectors: torch.Tensor, *, scale: float = 2.0, unit: bool = True) -> torch.Tensor:
    """log E exp(−scale · ‖x − y‖²) over all pairs of different rows: lower is more even.

    Equal vectors give 0; unit vectors spread evenly over a sphere of many dimensions give near −2 · scale. Pairs are
    computed block by block, and again for the gradient: memory is linear in the number of rows.

    Args:
        vectors: [n, d]; computed in float32 at least. Where several processes train, the gathered rows of all
            (`Ranks.gather`): a pair has no home.
        scale: t of the paper, above 0.
        unit: scale each row to length 1 first, as the paper does.

    Returns:
        A scalar, differentiable once in `vectors`; 0 where there are fewer than two rows.

    Raises:
        InputError: the vectors are not [n, d].
        ConfigError: the scale is not above 0.
    """
    if not 0 < scale < math.inf:
        raise ConfigError(f"the scale must be above 0, not {scale}", "2 is the paper's")
    vectors = check_vectors(vectors)
    with torch.autocast(vectors.device.type, enabled=False):
        if len(vectors) < 2:
            return vectors.sum() * 0
        rows = normalize(vectors, dim=1) if unit else vectors
        result: torch.Tensor = _LogMean.apply(rows, scale)  # type: ignore[no-untyped-call]
        return result


class _LogMean(torch.autograd.Function):
    """The value by a running log-sum-exp; the gradient from the pairs' shares, made anew."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, scale: float) -> torch.Tensor:
        parts = [torch.logsumexp(exponents.flatten(), 0) for _, exponents in _exponents(rows, scale)]
        whole = torch.logsumexp(torch.stack(parts), 0)
        ctx.save_for_backward(rows, whole)
        ctx.scale = scale
        return whole - math.log(len(rows) * (len(rows) - 1))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        rows, whole = ctx.saved_tensors
        found = torch.empty_like(rows)
        with torch.autocast(rows.device.type, enabled=False):
            for place, exponents in _exponents(rows, ctx.scale):
                shares = (exponents - whole).exp()
                # Each pair is counted from both its rows, hence 2 · 2 · scale.
                pull = torch.addmm(shares.sum(1, keepdim=True) * rows[place], shares, rows, alpha=-1)
                found[place] = pull * (-4 * ctx.scale)
        return found * gradients[0], None


def _exponents(rows: torch.Tensor, scale: float) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of rows with −scale · ‖x − y‖² to all rows, −∞ to themselves: (place, [b, n])."""
    squares = rows.square().sum(1)
    size = max(1, _BLOCK // len(rows))
    for start in range(0, len(rows), size):
        place = slice(start, min(start + size, len(rows)))
        block = rows[place]
        distances = torch.addmm(squares[place, None] + squares, block, rows.T, alpha=-2).clamp_(min=0)
        exponents = distances.mul_(-scale)
        exponents.diagonal(start).fill_(-math.inf)
        yield place, exponents
