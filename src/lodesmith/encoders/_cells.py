"""Recurrent cells over packed steps on a CPU, with a backward pass of their own.

Steps are packed as torch's `PackedSequence` does it: texts sorted by falling length, all first words, then all second
words …; `sizes[k]` texts have a word k. torch's own backward pass over packed steps copies the whole gradient at every
step; here everything that does not wait for the step before is one operation over all steps, and a step is one matrix
product and a few elementwise ones, on one core, since they are too short to be split. A test compares states and
gradients with those of torch's cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lodesmith.encoders._cores import one_core

__all__ = ["Layout", "in_float32", "layout", "once", "run_layers"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Layout:
    """Where the words of packed texts stand in packed steps. All texts have a word.

    Args:
        order: int64 [n], the texts by falling length.
        sizes: texts that have a word k, for each k.
        rows: int64 [total], the word in the packed texts that stands in each row.
        backwards: int64 [total], the row of the mirrored word of the same text; its own inverse.
        last: int64 [n], the row of each text's last word, in the sorted order.
        owner: int64 [total], the text of each row, in the sorted order.
    """

    order: Tensor
    sizes: list[int]
    rows: Tensor
    backwards: Tensor
    last: Tensor
    owner: Tensor


def layout(offsets: Tensor) -> Layout:
    """The layout of packed texts; `offsets` is int64 [n + 1]."""
    lengths, order = offsets.diff().sort(descending=True, stable=True)
    starts = offsets[:-1][order]
    steps = torch.arange(int(lengths[0]), device=offsets.device)
    there = steps[:, None] < lengths[None, :]
    sizes = there.sum(1)
    firsts = sizes.cumsum(0) - sizes
    step = torch.repeat_interleave(steps, sizes)
    owner = torch.arange(len(step), device=offsets.device) - firsts[step]
    mirrored = lengths[owner] - 1 - step
    last = firsts[lengths - 1] + torch.arange(len(order), device=offsets.device)
    return Layout(order, sizes.tolist(), starts[owner] + step, firsts[mirrored] + owner, last, owner)


def run_layers(cell: nn.RNNBase, words: Tensor, place: Layout) -> Tensor:
    """Every layer and direction of a `nn.RNN`, `nn.GRU` or `nn.LSTM` over packed steps [total, input]: the last layer's
    states [total, directions · hidden], each at its word.
    """
    if words.device.type != "cpu" or not torch.is_grad_enabled():  # nothing to gain there
        packed = nn.utils.rnn.PackedSequence(words, torch.tensor(place.sizes))
        found: Tensor = cell(packed)[0].data
        return found
    function: Any = {"RNN_TANH": _Rnn, "GRU": _Gru, "LSTM": _Lstm}[cell.mode]
    states = words
    for layer in range(cell.num_layers):
        if layer and cell.dropout:
            states = nn.functional.dropout(states, cell.dropout, cell.training)
        forward = function.apply(states, *_weights(cell, layer, ""), place.sizes)
        if cell.bidirectional:
            mirrored = function.apply(states[place.backwards], *_weights(cell, layer, "_reverse"), place.sizes)
            forward = torch.cat([forward, mirrored[place.backwards]], 1)
        states = forward
    return states


def _weights(cell: nn.RNNBase, layer: int, suffix: str) -> list[Tensor]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [getattr(cell, f"{name}_l{layer}{suffix}") for name in names]


def _bounds(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first row, end, texts) of each step."""
    ends = list(accumulate(sizes))
    return [(end - size, end, size) for end, size in zip(ends, sizes, strict=True)]


def _before(states: Tensor, sizes: Sequence[int]) -> Tensor:
    """The state of the step before, for every row; zero for first words."""
    step = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    earlier = torch.tensor([0, *sizes[:-1]])[step]
    found = states[torch.arange(len(states)) - earlier]
    found[: sizes[0]] = 0
    return found


def in_float32(function: F) -> F:
    """A forward pass in float32, whatever autocast says: what is summed or iterated is not rounded in between."""
    return cast(F, torch.amp.custom_fwd(function, device_type="cpu", cast_inputs=torch.float32))


def once(function: F) -> F:
    """A backward pass that cannot be differentiated again."""
    return cast(F, once_differentiable(torch.amp.custom_bwd(function, device_type="cpu")))


class _Rnn(Function):
    """h = tanh(W x + b + U h' + c)."""

    @staticmethod
    @in_float32
    def forward(ctx: Any, x: Tensor, wi: Tensor, wh: Tensor, bi: Tensor, bh: Tensor, sizes: list[int]) -> Tensor:
        """States [total, h]."""
        states = torch.addmm(bi + bh, x, wi.T)
        turned = wh.T.contiguous()
        before: Tensor | None = None
        with one_core():
            for start, end, size in _bounds(sizes):
                now = states[start:end]
                if before is not None:
                    now.addmm_(before[:size], turned)
                before = now.tanh_()
        ctx.save_for_backward(x, wi, wh, states)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:
        """Gradients."""
        x, wi, wh, states = ctx.saved_tensors
        slope = 1 - states.square()
        gates = torch.empty_like(states)
        flow = states.new_zeros(ctx.sizes[0], states.shape[1])
        with one_core():
            for start, end, size in reversed(_bounds(ctx.sizes)):
                gate = torch.mul(flow[:size].add_(given[start:end]), slope[start:end], out=gates[start:end])
                torch.mm(gate, wh, out=flow[:size])
        bias = gates.sum(0)
        return gates @ wi, gates.T @ x, gates.T @ _before(states, ctx.sizes), bias, bias.clone(), None


class _Gru(Function):
    """r, z = σ(W x + b + U h' + c); m = tanh(W x + b + r·(U h' + c)); h = m + z·(h' − m) (Cho et al. 2014)."""

    @staticmethod
    @in_float32
    def forward(ctx: Any, x: Tensor, wi: Tensor, wh: Tensor, bi: Tensor, bh: Tensor, sizes: list[int]) -> Tensor:
        """States [total, h]."""
        h = wh.shape[1]
        gates = torch.addmm(bi + torch.cat([bh[: 2 * h], bh.new_zeros(h)]), x, wi.T)  # become r, z and m
        inner = x.new_empty(len(x), h)
        states = x.new_empty(len(x), h)
        turned, offset = wh.T.contiguous(), bh[2 * h :]
        before = x.new_zeros(sizes[0], h)
        product = x.new_empty(sizes[0], 3 * h)
        with one_core():
            for start, end, size in _bounds(sizes):
                earlier = before[:size]
                from_state = torch.mm(earlier, turned, out=product[:size])
                both = gates[start:end, : 2 * h].add_(from_state[:, : 2 * h]).sigmoid_()
                offer = torch.add(from_state[:, 2 * h :], offset, out=inner[start:end])
                new = gates[start:end, 2 * h :].addcmul_(both[:, :h], offer).tanh_()
                before = torch.lerp(new, earlier, both[:, h:], out=states[start:end])
        ctx.save_for_backward(x, wi, wh, gates, inner, states)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:
        """Gradients."""
        x, wi, wh, gates, inner, states = ctx.saved_tensors
        h = wh.shape[1]
        r, z, m = gates[:, :h], gates[:, h : 2 * h], gates[:, 2 * h :]
        before = _before(states, ctx.sizes)
        to_m = (1 - z) * (1 - m * m)
        to_z = (before - m) * z * (1 - z)
        to_r = inner * r * (1 - r)
        from_x, from_h = x.new_empty(len(x), h), torch.empty_like(gates)  # of m; of r, z and U h' + c
        flow = x.new_zeros(ctx.sizes[0], h)
        with one_core():
            for start, end, size in reversed(_bounds(ctx.sizes)):
                now = flow[:size].add_(given[start:end])
                of_m = torch.mul(now, to_m[start:end], out=from_x[start:end])
                gate = from_h[start:end]
                torch.mul(now, to_z[start:end], out=gate[:, h : 2 * h])
                torch.mul(of_m, to_r[start:end], out=gate[:, :h])
                torch.mul(of_m, r[start:end], out=gate[:, 2 * h :])
                now.mul_(z[start:end]).addmm_(gate, wh)
        both = from_h[:, : 2 * h]
        to_x = torch.addmm(both @ wi[: 2 * h], from_x, wi[2 * h :])
        to_wi = torch.cat([both.T @ x, from_x.T @ x])
        to_b = from_h.sum(0)
        return to_x, to_wi, from_h.T @ before, torch.cat([to_b[: 2 * h], from_x.sum(0)]), to_b, None


class _Lstm(Function):
    """i, f, o = σ(…); g = tanh(…); c = f·c' + i·g; h = o·tanh(c) (Hochreiter & Schmidhuber 1997)."""

    @staticmethod
    @in_float32
    def forward(ctx: Any, x: Tensor, wi: Tensor, wh: Tensor, bi: Tensor, bh: Tensor, sizes: list[int]) -> Tensor:
        """States [total, h]."""
        h = wh.shape[1]
        gates = torch.addmm(bi + bh, x, wi.T)  # become i, f, g and o
        memory, bent, states = (x.new_empty(len(x), h) for _ in range(3))
        turned = wh.T.contiguous()
        before, kept = x.new_zeros(sizes[0], h), x.new_zeros(sizes[0], h)
        with one_core():
            for start, end, size in _bounds(sizes):
                now = gates[start:end].addmm_(before[:size], turned)
                now[:, : 2 * h].sigmoid_()
                now[:, 2 * h : 3 * h].tanh_()
                now[:, 3 * h :].sigmoid_()
                kept = torch.mul(now[:, h : 2 * h], kept[:size], out=memory[start:end])
                kept.addcmul_(now[:, :h], now[:, 2 * h : 3 * h])
                before = torch.mul(now[:, 3 * h :], torch.tanh(kept, out=bent[start:end]), out=states[start:end])
        ctx.save_for_backward(x, wi, wh, gates, memory, bent, states)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:
        """Gradients."""
        x, wi, wh, gates, memory, bent, states = ctx.saved_tensors
        h = wh.shape[1]
        i, f, g, o = gates.split(h, 1)
        to_o, to_c = bent * o * (1 - o), o * (1 - bent * bent)
        to_i, to_f, to_g = g * i * (1 - i), _before(memory, ctx.sizes) * f * (1 - f), i * (1 - g * g)
        slopes = torch.cat([to_i, to_f, to_g], 1)
        found = torch.empty_like(gates)
        flow, kept = (x.new_zeros(ctx.sizes[0], h) for _ in range(2))
        with one_core():
            for start, end, size in reversed(_bounds(ctx.sizes)):
                now, cell = flow[:size].add_(given[start:end]), kept[:size]
                gate = found[start:end]
                torch.mul(now, to_o[start:end], out=gate[:, 3 * h :])
                cell.addcmul_(now, to_c[start:end])
                three = gate[:, : 3 * h].view(size, 3, h)
                torch.mul(slopes[start:end].view(size, 3, h), cell[:, None], out=three)
                cell.mul_(f[start:end])
                torch.mm(gate, wh, out=flow[:size])
        bias = found.sum(0)
        return found @ wi, found.T @ x, found.T @ _before(states, ctx.sizes), bias, bias.clone(), None
