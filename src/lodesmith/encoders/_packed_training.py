"""Attention of a flat batch with dropout, and its gradients, on a CPU.

With dropout torch has no fused attention: it makes every table of scores anew for scaling, softmax, a random number for
each score, mask and product, and keeps three of them. Here a few texts at a time go through all of it while their
scores are in the cache, and one table is kept: the softmax, negative where it is dropped. The sum in the gradient of
the softmax is that of output · gradient over a token's components (Dao et al. 2022, arXiv 2205.14135, appendix B.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lodesmith.encoders._cores import each_on_one_core
from lodesmith.encoders._dropout import bits, kept, seeds

__all__ = ["dropped_attention"]

_SCORES = 1 << 19
"""Scores at a time: 2 MiB."""
Run = tuple[int, int, int]


@dataclass(frozen=True)
class _Block:
    """Neighbours of equal length: their first token, their number, their length; and the seed of their dropout."""

    start: int
    count: int
    length: int
    seed: int

    def of(self, states: Tensor) -> Tensor:
        """[tokens, heads, d] → [count · heads, length, d], a view where it is one text."""
        part = states[self.start : self.start + self.count * self.length]
        heads, width = part.shape[1:]
        return part.view(self.count, self.length, heads, width).transpose(1, 2).reshape(-1, self.length, width)

    def put(self, rows: Tensor, states: Tensor) -> None:
        """The reverse of `of`, into `states`."""
        part = states[self.start : self.start + self.count * self.length]
        heads, width = part.shape[1:]
        target = part.view(self.count, self.length, heads, width).transpose(1, 2)
        target.copy_(rows.view(self.count, heads, self.length, width))


def dropped_attention(states: tuple[Tensor, Tensor, Tensor], runs: Sequence[Run], scale: float, share: float) -> Tensor:
    """Attention of every text to itself.

    Args:
        states: queries, keys and values, float32 [tokens, heads, d] each.
        runs: (first token, texts, tokens of each) of neighbours of equal length; together all tokens.
        scale: of the scores.
        share: of the attention weights that are dropped, below 1.

    Returns:
        [tokens, heads, d].
    """
    heads = states[0].shape[1]
    cut: list[Run] = []
    for start, count, length in runs:
        together = max(1, _SCORES // (heads * length * length))
        cut += [(start + at * length, min(together, count - at), length) for at in range(0, count, together)]
    blocks = [_Block(*run, seed) for run, seed in zip(cut, seeds(len(cut)), strict=True)]
    return _Dropped.apply(*states, blocks, scale, share)  # type: ignore[no-untyped-call,no-any-return]


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[_Block], scale: float, share: float
    ) -> Tensor:
        out = torch.empty(value.shape)
        weights: list[Tensor | None] = [None] * len(blocks)

        @torch.no_grad()  # it holds for one thread only
        def attend(at: int) -> None:
            block = blocks[at]
            q, k, v = (block.of(states) for states in (query, key, value))
            scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
            softmax = torch.softmax(scores, -1)
            (drawn,) = bits(block.seed, share, [scores.numel()])
            softmax.copysign_(drawn.view(torch.float32).view(scores.shape))
            stays = torch.clamp_min(softmax, 0.0, out=scores)
            block.put(torch.baddbmm(q.new_empty(()), stays, v, beta=0, alpha=1 / kept(share)), out)
            weights[at] = softmax

        each_on_one_core(attend, range(len(blocks)), query.device)
        ctx.save_for_backward(query, key, value, out, *weights)
        ctx.settings = blocks, scale, share
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *weights = ctx.saved_tensors
        blocks, scale, share = ctx.settings
        towards = [torch.empty(states.shape) for states in (query, key, value)]
        sums = (gradients[0] * out).sum(-1, keepdim=True)  # [tokens, heads, 1]

        @torch.no_grad()
        def attend(at: int) -> None:
            block, signed = blocks[at], weights[at]
            q, k, v, given = (block.of(states) for states in (query, key, value, gradients[0]))
            none, back = q.new_empty(()), 1 / kept(share)
            stays = torch.clamp_min(signed, 0.0)
            block.put(torch.baddbmm(none, stays.transpose(1, 2), given, beta=0, alpha=back), towards[2])
            scores = torch.baddbmm(none, given, v.transpose(1, 2), beta=0, alpha=back).mul_(stays)
            scores.sub_(torch.abs(signed, out=stays).mul_(block.of(sums)))
            block.put(torch.baddbmm(none, scores, k, beta=0, alpha=scale), towards[0])
            block.put(torch.baddbmm(none, scores.transpose(1, 2), q, beta=0, alpha=scale), towards[1])

        each_on_one_core(attend, range(len(blocks)), query.device)
        return (*towards, None, None, None)
