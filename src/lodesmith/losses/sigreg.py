"""SIGReg: how far vectors are from a standard Gaussian along random directions (LeJEPA, arXiv 2511.08544)."""

from __future__ import annotations

from typing import Any

import torch

from lodesmith.core.errors import ConfigError
from lodesmith.core.gaussianity import Knots, knots_of, unit_directions
from lodesmith.losses._sums import Total, check_vectors
from lodesmith.losses._waves import Waves

__all__ = ["sigreg"]

MOST = {"directions": 1 << 14, "knots": 1 << 12}
"""They lie in memory; and many directions in one step are no better than those of many steps."""

_CPU_BLOCK = 1 << 18
"""Projections that are looked at together: few enough for a processor's cache."""
_DEVICE_BLOCK = 1 << 22
"""The same on an accelerator, where a launch costs more than memory."""
_NARROW = 8
"""So many directions at least are taken together, however many rows there are."""


def sigreg(
    vectors: torch.Tensor,
    *,
    directions: int = 256,
    seed: int = 0,
    step: int = 0,
    knots: int = 17,
    reach: float = 3.0,
    total: Total | None = None,
) -> torch.Tensor:
    """Mean over directions of the Epps–Pulley statistic T = N ∫ |φ̂(t) − e^{−t²/2}|² e^{−t²/2} dt of the projections.

    Of standard normal vectors it is 1.05 on average, not 0 (`core.gaussianity.Knots.floor`); off them it grows with N.
    Vectors of length 1 are never near it: give them before they are normalised, or times √d.

    Time is linear in N·d·K, and memory in N·d: of the projections only a block of directions is held at once.

    Args:
        vectors: [n, d]; computed in float32 at least.
        directions: K, how many; at most 16,384.
        seed: of the directions.
        step: of the training: each has other directions. Processes that train together give the same two numbers.
        knots: of the trapezoid on [0, reach], which symmetry doubles; at most 4,096.
        reach: the largest t.
        total: where several processes train, their sum (such as `Ranks.sum`): N, and the means of cos and sin, are
            then those of all rows, and each process has the same value. The gradient is such that its mean over
            processes, as `DistributedDataParallel` takes it, is that of one process with all rows.

    Returns:
        A scalar, differentiable once in `vectors`; 0 where there are no rows at all.

    Raises:
        InputError: the vectors are not [n, d].
        ConfigError: a number is out of range.
    """
    for name, number in (("directions", directions), ("knots", knots)):
        if isinstance(number, bool) or number > MOST[name]:
            raise ConfigError(f"{name} is {number}, not a number up to {MOST[name]}", "the default serves")
    vectors = check_vectors(vectors)
    integral = knots_of(knots, reach)
    drawn = unit_directions(vectors.shape[1], directions, seed, step)
    axes = torch.from_numpy(drawn.T.copy()).to(vectors)
    wanted = torch.is_grad_enabled() and vectors.requires_grad
    result: torch.Tensor = _Statistic.apply(vectors, axes, integral, total, wanted)  # type: ignore[no-untyped-call]
    return result


class _Statistic(torch.autograd.Function):
    """The value and, while a block's sines and cosines are at hand, its gradient: backward only scales it."""

    @staticmethod
    def forward(
        ctx: Any, vectors: torch.Tensor, axes: torch.Tensor, integral: Knots, total: Total | None, wanted: bool
    ) -> torch.Tensor:
        gradient = torch.zeros_like(vectors) if wanted else None
        with torch.autocast(vectors.device.type, enabled=False):
            value = _statistic(vectors, axes, integral, total, gradient)
        ctx.total = total
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        outer = gradients[0] if ctx.total is None else ctx.total(gradients[0])
        return ctx.saved_tensors[0] * outer, None, None, None, None


def _statistic(
    vectors: torch.Tensor, axes: torch.Tensor, integral: Knots, total: Total | None, gradient: torch.Tensor | None
) -> torch.Tensor:
    """T of the vectors [n, d] along the axes [K, d]; its gradient is added to `gradient` [n, d]."""
    value = vectors.new_zeros(())
    count = float(len(vectors))
    if total is not None:
        count = float(total(vectors.new_tensor(count, dtype=torch.float64)))
    if not count:
        return value
    # The same number of blocks on every process, whatever its share of the rows: each block is summed over them.
    width = min(len(axes), max(_NARROW, int((_CPU_BLOCK if vectors.device.type == "cpu" else _DEVICE_BLOCK) / count)))
    waves = Waves(len(integral.times), width, len(vectors), vectors)
    target, weights = waves.grid(integral.target), waves.grid(integral.weights)
    slopes = 2 / len(axes) * waves.grid(integral.weights * integral.times)
    for block in axes.split(width):  # type: ignore[no-untyped-call]
        waves.set(block @ vectors.T * integral.spacing)
        sums = waves.sums()
        apart = (sums if total is None else total(sums)) / count
        apart[:, 0] -= target
        value += (weights * apart.square()).sum() * (count / len(axes))
        if gradient is not None:
            gradient.addmm_(waves.weighed(slopes * apart[:, 1], -slopes * apart[:, 0]).T, block)
    return value
