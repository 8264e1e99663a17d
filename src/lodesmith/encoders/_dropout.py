"""Dropout at a fraction of its usual cost on a CPU, where torch draws every number by itself, at 10 ns each.

The bits come from numpy's SFC64, seeded by one number from torch's generator for each call: what saves, restores or
replays torch's random state does so here. Sixteen bits decide about a value, so the probability is rounded to a
multiple of 2⁻¹⁵; what stays is divided by the rounded share that stays, and the expectation is exact. The backward pass
draws the same bits again instead of keeping a mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Dropout", "bits", "kept", "quicken", "seeds", "threshold"]

_STEPS = 1 << 15
"""Probabilities between 0 and 1 that can be had."""
_BLOCK = 1 << 18
"""Values at a time, so that they stay in the cache from one operation to the next."""
_INT64 = np.iinfo(np.int64)


def threshold(share: float) -> int:
    """How many of 2¹⁵ equally likely numbers drop a value that is dropped with this probability, below 1."""
    return min(_STEPS - 1, round(share * _STEPS))


def kept(share: float) -> float:
    """The probability with which a value stays."""
    return 1.0 - threshold(share) / _STEPS


def seeds(count: int) -> list[int]:
    """Numbers from torch's generator of the CPU, for `bits`."""
    return torch.randint(2**62, (count,), dtype=torch.int64).tolist()


def bits(seed: int, share: float, counts: list[int]) -> Any:
    """Random int32 vectors of so many values each, negative with the probability `share`, one after another."""
    generator, most = np.random.Generator(np.random.SFC64(seed)), threshold(share) << 16
    for count in counts:
        half = (count + 1) // 2
        drawn = generator.integers(_INT64.min, _INT64.max, (half + 1) // 2, dtype=np.int64, endpoint=True)
        words = torch.from_numpy(drawn.view(np.int32)[:half])
        found = torch.empty(2 * half, dtype=torch.int32)
        torch.bitwise_and(words, 0x7FFF0000, out=found[:half])  # the upper sixteen bits, then the lower ones
        torch.bitwise_and(words.bitwise_left_shift_(16), 0x7FFF0000, out=found[half:])
        yield found[:count].sub_(most)


class _Dropped(torch.autograd.Function):
    """x · mask / share kept; linear, so that the backward pass is the same on the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, seed: int) -> Tensor:
        ctx.drawn = share, seed
        return _drop(x, share, seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Dropped.apply(gradients[0], *ctx.drawn), None, None  # type: ignore[no-untyped-call]


def _drop(x: Tensor, share: float, seed: int) -> Tensor:
    values = x.contiguous()
    out = torch.empty_like(values)
    parts, written = torch.split(values.view(-1), _BLOCK), torch.split(out.view(-1), _BLOCK)
    for part, target, drawn in zip(parts, written, bits(seed, share, [len(part) for part in parts]), strict=True):
        torch.mul(part, 1.0 / kept(share), out=target)
        mask = drawn.bitwise_right_shift_(31).bitwise_not_()  # all ones where it stays
        target.view(torch.int32).bitwise_and_(mask)
    return out


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, quicker where values are float32 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """The values, some of them 0, the others larger."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input)
        return _Dropped.apply(input, self.p, seeds(1)[0])  # type: ignore[no-untyped-call,no-any-return]


def quicken(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `torch.nn.Dropout`, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(parent, name, Dropout(child.p).train(child.training))
