"""A function of MLX arrays as one of torch tensors, with its gradients: the bridge between the two, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lodesmith.core.errors import ConfigError, MissingExtraError

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

__all__ = ["Call", "array", "seed", "tensor", "through"]

Call = Callable[..., Sequence[mx.array]]


def through(call: Call, *given: Tensor) -> tuple[Tensor, ...]:
    """What a function of MLX arrays gives for tensors.

    For gradients the function is computed once more, so it has to give the same each time: what it draws comes from a
    `seed` that was taken before.

    Args:
        call: as many arrays as tensors are given → arrays.
        given: on the CPU.

    Raises:
        ConfigError: a tensor is elsewhere.
    """
    if away := next((own.device for own in given if own.device.type != "cpu"), None):
        raise ConfigError(f"MLX takes tensors of the CPU, not of {away}", "train with the device cpu")
    found: tuple[Tensor, ...] = _Through.apply(call, *given)  # type: ignore[no-untyped-call]
    return found


def seed() -> int:
    """Of what MLX draws: the next of torch's random numbers, so that a resumed training goes on to the same bits."""
    return int(torch.randint(2**31, ()))


def array(tensor: Tensor) -> mx.array:
    """A copy of a tensor of the CPU."""
    return mx.array(tensor.detach().numpy())


def tensor(array: mx.array) -> Tensor:
    """A copy of an array, on the CPU."""
    return torch.from_numpy(np.array(array))


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *given: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.call = call
        ctx.save_for_backward(*given)
        return tuple(tensor(own) for own in call(*map(array, given)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *due: Tensor) -> tuple[Tensor | None, ...]:
        given, wanted = [array(own) for own in ctx.saved_tensors], ctx.needs_input_grad[1:]
        places = [at for at, needed in enumerate(wanted) if needed]

        def of(*chosen: mx.array) -> Sequence[mx.array]:
            now: Mapping[int, mx.array] = dict(zip(places, chosen, strict=True))
            return list(ctx.call(*(now.get(at, own) for at, own in enumerate(given))))

        _, found = mx.vjp(of, [given[at] for at in places], [array(own) for own in due])
        gradients = dict(zip(places, map(tensor, found), strict=True))
        return None, *(gradients.get(at) for at in range(len(given)))
