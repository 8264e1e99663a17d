"""All documents through one linear layer, without taking them through it: (Ax + b)·q = x·(Aᵀq) + b·q.

Scores then come from the stored rows. Cosine and distance need the length of each Ax + b too, and that one product is
all that is left: its gradient is the rows' own second moment, weighed, so that it is not made again in the backward
pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.functional import normalize

from lodesmith.objectives._log_sums import LogSum

if TYPE_CHECKING:
    from lodesmith.objectives._corpus import Blocks

KEPT = 1 << 24
"""So many scores at most are kept from the forward to the backward pass; those of further blocks are made again."""

FOLDED = ("cosine", "dot", "euclidean")


def fold(
    queries: torch.Tensor, blocks: Blocks, encoder: nn.Module, metric: str, temperature: float
) -> torch.Tensor | None:
    """What `log_sums` gives, in float32 at least; None where the encoder is not one linear layer, or the metric is
    another one.

    An encoder says by its method `affine` that it is x → Ax + b; a plain linear layer is known.
    """
    layer = affine(encoder)
    if layer is None or metric not in FOLDED:
        return None
    with torch.autocast(queries.device.type, enabled=False):
        weight, bias = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in layer)
        queries = queries.to(weight.dtype)
        origin = None
        if metric == "euclidean":  # shifted by a common component, distances keep their digits
            origin = blocks.corpus.block(0, min(blocks.size, len(blocks.corpus.ids)), blocks.device).mean(0)
            queries, bias = queries - (origin @ weight.T + bias), torch.zeros_like(bias)
            backs, rest = 2 * queries @ weight, -queries.square().sum(1)
        else:
            queries = normalize(queries, dim=1) if metric == "cosine" else queries
            backs, rest = queries @ weight, queries @ bias
        plan = _Plan(blocks, metric, temperature, origin)
        return cast(torch.Tensor, _Folded.apply(plan, backs, rest, weight, bias))  # type: ignore[no-untyped-call]


def affine(encoder: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A [e, d] and b [e] of an encoder that is x → Ax + b; None of any other."""
    if type(encoder) is nn.Linear:
        return encoder.weight, encoder.weight.new_zeros(len(encoder.weight)) if encoder.bias is None else encoder.bias
    own = getattr(encoder, "affine", None)
    return cast("tuple[torch.Tensor, torch.Tensor] | None", own()) if callable(own) else None


@dataclass
class _Plan:
    """Args: the documents; how they are compared; what is taken from each row first."""

    blocks: Blocks
    metric: str
    temperature: float
    origin: torch.Tensor | None

    def rows(self) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
        for rows, struck in self.blocks:
            yield (rows if self.origin is None else rows - self.origin), struck

    def scores(
        self,
        rows: torch.Tensor,
        backs: torch.Tensor,
        rest: torch.Tensor,
        lengths: torch.Tensor | None,
        struck: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """[n, b], by the squares of the documents' lengths [b]; −inf where they are struck."""
        scores = torch.addmm(rest[:, None], backs, rows.T)
        if self.metric == "cosine":
            assert lengths is not None
            scores.mul_(_inverse(lengths).sqrt_())
        elif lengths is not None:
            scores.sub_(lengths)
        return scores.div_(self.temperature).index_put_(struck, scores.new_full((), -torch.inf))


def _inverse(squares: torch.Tensor) -> torch.Tensor:
    """1/x; 0 of 0, so that a vector without length has the cosine 0."""
    return torch.where(squares > 0, 1 / squares, torch.zeros_like(squares))


class _Folded(torch.autograd.Function):
    """log Σ exp of s = (back · x + rest) / τ, divided by |Ax + b| (cosine) or less |Ax + b|² / τ (euclidean)."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, backs: torch.Tensor, rest: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        sums = LogSum.empty(backs)
        ctx.plan, ctx.kept = plan, []
        # One piece: many small ones that stay would leave holes between the blocks, which the allocator cannot fill.
        squares = None if plan.metric == "dot" else backs.new_empty(len(plan.blocks.corpus.ids))
        ctx.lengths = [None] * len(plan.blocks.struck) if squares is None else squares.split(plan.blocks.size)  # type: ignore[no-untyped-call]
        room = KEPT if any(ctx.needs_input_grad) else 0
        for lengths, (rows, struck) in zip(ctx.lengths, plan.rows(), strict=False):
            if lengths is not None:
                torch.sum(torch.addmm(bias, rows, weight.T).square_(), 1, out=lengths)
            scores = plan.scores(rows, backs, rest, lengths, struck)
            sums = sums.add(scores)
            room -= scores.numel()
            ctx.kept.append(scores if room >= 0 else None)
        ctx.save_for_backward(backs, rest, weight, bias, sums.top, sums.total)
        return sums.value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        backs, rest, weight, bias, *kept = ctx.saved_tensors
        plan: _Plan = ctx.plan
        sums, outer = LogSum(*kept), gradients[0] / plan.temperature
        to_backs, to_rest = torch.zeros_like(backs), torch.zeros_like(rest)
        moments = _Moments(backs.new_zeros(backs.shape[1], backs.shape[1]), backs.new_zeros(backs.shape[1]))
        for number, (rows, struck) in enumerate(plan.rows()):
            lengths, scores = ctx.lengths[number], ctx.kept[number]
            if scores is None:
                scores = plan.scores(rows, backs, rest, lengths, struck)
            shares = sums.shares(scores, outer)
            if plan.metric == "cosine":
                inverse = _inverse(lengths)
                # Without a share nothing counts: 0 · −inf would be no number.
                pull = shares.mul(scores.index_put_(struck, scores.new_zeros(()))).sum(0)
                moments.add(rows, pull.mul_(inverse).mul_(-plan.temperature / 2))
                shares.mul_(inverse.sqrt_())
            elif lengths is not None:
                moments.add(rows, -shares.sum(0))
            to_backs.addmm_(shares, rows)
            to_rest += shares.sum(1)
            ctx.kept[number] = None
        return None, to_backs, to_rest, *moments.to_layer(weight, bias)


@dataclass
class _Moments:
    """Σ w x xᵀ, Σ w x and Σ w of rows x and the gradients w of their squared lengths |Ax + b|²."""

    second: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor | float = 0.0

    def add(self, rows: torch.Tensor, weights: torch.Tensor) -> None:
        self.second.addmm_(rows.T, rows * weights[:, None])
        self.first += weights @ rows
        self.count = self.count + weights.sum()

    def to_layer(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of A and b."""
        to_weight = 2 * torch.addmm(torch.outer(bias, self.first), weight, self.second)
        return to_weight, 2 * (weight @ self.first + bias * self.count)
