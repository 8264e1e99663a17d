"""Towers over words and projections whose training MLX computes: the modules, their parameters and names are torch's.

Of an embedding table only the rows that a batch has go over to MLX, each once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.encoders._cells import layout
from lodesmith.encoders._mlx_through import array, seed, through
from lodesmith.encoders._tower import unpack
from lodesmith.encoders._words import UNKNOWN
from lodesmith.encoders.bag import Bag
from lodesmith.encoders.projected import ProjectionLayer
from lodesmith.encoders.rnn import Recurrent

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

__all__ = ["on_mlx"]

M = TypeVar("M", bound=nn.Module)

_LAYERS = (nn.Linear, nn.GELU, nn.LayerNorm, nn.Dropout)


def on_mlx(module: M) -> M:
    """The module itself, which MLX computes from now on while it trains or gradients are wanted, and torch else.

    Args:
        module: a `Bag`, `Recurrent` or `ProjectionLayer`, or an `nn.Sequential` of the layers of one.

    Raises:
        ConfigError: it is something else.
    """
    strange = isinstance(module, nn.Sequential) and any(type(layer) not in _LAYERS for layer in module)
    if strange or type(module) not in _METHODS:
        raise ConfigError(f"{type(module).__name__} cannot train on MLX", "set engine.arrays to torch")
    for name, compute in _METHODS[type(module)].items():
        _replace(module, name, compute)
    if isinstance(module, Recurrent) and module.projection is not None:
        _replace(module.projection, "forward", _linear)
    return module


def _replace(module: nn.Module, name: str, compute: Callable[..., Any]) -> None:
    """Put a function in the place of a method of this one module, while it trains or gradients are wanted."""

    def method(own: Any, *given: Any) -> Any:
        if own.training or torch.is_grad_enabled():  # a pass without gradients may have to drop out what the next does
            return compute(own, *given)
        return getattr(type(own), name)(own, *given)

    setattr(module, name, MethodType(method, module))


def _not_affine(projection: ProjectionLayer) -> None:
    """Objectives would compute the gradients of one linear layer by themselves."""


def _dropped(x: mx.array, share: float, key: mx.array) -> mx.array:
    """x, a share of which is left out by chance."""
    return x * mx.random.bernoulli(1 - share, x.shape, key) / (1 - share)


def _sums(values: mx.array, owner: mx.array, count: int) -> mx.array:
    """The sums [count, d] of the rows [total, d] of each owner."""
    return mx.zeros((count, values.shape[1])).at[owner].add(values)


def _cut(values: mx.array, ends: list[int]) -> Sequence[mx.array]:
    """The rows in parts. MLX's own gradient of a split goes over all rows for each part."""

    @mx.custom_function  # type: ignore[untyped-decorator]
    def parts(values: mx.array) -> Sequence[mx.array]:
        return tuple(mx.split(values, ends))

    @parts.vjp  # type: ignore[untyped-decorator]
    def _(_: mx.array, due: Sequence[mx.array], __: Sequence[mx.array]) -> mx.array:
        return mx.concatenate(due)

    found: Sequence[mx.array] = parts(values)
    return found


# ------------------------------------------------------------------------------------------------------ bags of words


def _bag(tower: Bag, packed: Mapping[str, Tensor]) -> Tensor:
    """As `Bag.forward`, with the same words left out."""
    ids, offsets = unpack(packed)
    sizes = offsets.diff()
    lengths, count, known = sizes.clamp(min=1)[:, None].float(), len(sizes), ids > UNKNOWN
    if tower.training and tower.dropout:
        lengths = lengths * (1 - tower.dropout)
        known &= torch.rand(len(ids)) >= tower.dropout
    owner = torch.repeat_interleave(torch.arange(count), sizes)
    pairs, often = torch.unique(ids[known] * count + owner[known], return_counts=True)  # of word and text
    if not len(pairs):
        nothing = sum(0 * parameter.sum() for parameter in tower.parameters())
        return tower.embedding.weight.new_zeros(count, tower.dimension) + nothing
    words, places = torch.unique_consecutive(pairs // count, return_inverse=True)
    factors = often.float()
    if tower.weights == "idf":
        factors = factors * tower.term_weights[words][places]
    given = [embedding(words, tower.embedding.weight, sparse=tower.embedding.sparse)]
    given += [] if tower.log_weights is None else [tower.log_weights.index_select(0, words)]
    given += [] if tower.projection is None else [tower.projection.weight]
    at, holder, fixed, whole = map(array, (places, pairs % count, factors, lengths))

    def call(rows: mx.array, *rest: mx.array) -> Sequence[mx.array]:
        shares = fixed if tower.log_weights is None else fixed * mx.exp(rest[0])[at]
        means = _sums(rows[at] * shares[:, None], holder, count) / whole
        return (means if tower.projection is None else means @ rest[-1].T,)

    return through(call, *given)[0]


# --------------------------------------------------------------------------------------------------- recurrent towers


def _pooled(tower: Recurrent, ids: Tensor, offsets: Tensor) -> Tensor:
    """As `Recurrent._pooled`."""
    cell, place = tower.cell, layout(offsets)
    words, places = torch.unique(ids[place.rows], return_inverse=True)
    rows = embedding(words, tower.embedding.weight, sparse=tower.embedding.sparse)
    weights = [weight for own in cell.all_weights for weight in own]
    number = seed() if tower.training and tower.dropout else None
    at, lengths = array(places), array(offsets.diff()[place.order, None].float())
    steps = _Steps(place.sizes, *map(array, (place.backwards, place.last, place.owner)))
    each = 4 * (1 + cell.bidirectional)

    def call(rows: mx.array, *weights: mx.array) -> Sequence[mx.array]:
        keys = None if number is None else mx.random.split(mx.random.key(number), cell.num_layers)
        states = rows[at]
        for layer in range(cell.num_layers):
            if keys is not None:
                states = _dropped(states, tower.dropout, keys[layer])
            states = steps.layer(cell.mode, states, weights[layer * each : (layer + 1) * each])
        return (steps.pooled(states, tower.pooling, cell.hidden_size, lengths),)

    return through(call, rows, *weights)[0][place.order.argsort()]


@dataclass(frozen=True)
class _Steps:
    """A `Layout` as arrays.

    Args:
        sizes: as the layout's, and so the others.
        backwards: int64 [total].
        last: int64 [n].
        owner: int64 [total].
    """

    sizes: Sequence[int]
    backwards: mx.array
    last: mx.array
    owner: mx.array

    def layer(self, mode: str, states: mx.array, weights: Sequence[mx.array]) -> mx.array:
        """States [total, directions · hidden] of one layer.

        Args:
            mode: of the cell, as torch names it.
            states: [total, input], of the layer below.
            weights: of each direction four: of the input and of the state, and their biases.
        """
        forward = self._direction(mode, states, *weights[:4])
        if len(weights) == 4:
            return forward
        mirrored = self._direction(mode, states[self.backwards], *weights[4:])
        return mx.concatenate([forward, mirrored[self.backwards]], 1)

    def _direction(self, mode: str, x: mx.array, wi: mx.array, wh: mx.array, bi: mx.array, bh: mx.array) -> mx.array:
        step, turned = _CELLS[mode], wh.T
        state = memory = mx.zeros((self.sizes[0], wh.shape[1]))
        found = []
        inputs = _cut(x @ wi.T + bi, list(accumulate(self.sizes))[:-1])
        for given, size in zip(inputs, self.sizes, strict=True):
            state, memory = step(given, state[:size] @ turned + bh, state[:size], memory[:size])
            found.append(state)
        return mx.concatenate(found)

    def pooled(self, states: mx.array, pooling: str, hidden: int, lengths: mx.array) -> mx.array:
        """[n, states], in the layout's order.

        Args:
            states: [total, states], of the last layer.
            pooling: `last`, `mean` or `max`.
            hidden: states of a direction.
            lengths: [n, 1], of the texts.
        """
        count = len(self.last)
        if pooling == "last":
            return mx.concatenate([states[self.last][:, :hidden], states[:count, hidden:]], 1)
        if pooling == "mean":
            return _sums(states, self.owner, count) / lengths
        fixed = mx.stop_gradient(states)
        most = mx.full((count, states.shape[1]), -mx.inf).at[self.owner].maximum(fixed)
        chosen = (fixed == most[self.owner]).astype(states.dtype)
        return _sums(states * (chosen / _sums(chosen, self.owner, count)[self.owner]), self.owner, count)


def _rnn(given: mx.array, inner: mx.array, before: mx.array, memory: mx.array) -> tuple[mx.array, mx.array]:
    return mx.tanh(given + inner), memory


def _gru(given: mx.array, inner: mx.array, before: mx.array, memory: mx.array) -> tuple[mx.array, mx.array]:
    hidden = before.shape[1]
    reset, keep = mx.split(mx.sigmoid(given[:, : 2 * hidden] + inner[:, : 2 * hidden]), 2, 1)
    offer = mx.tanh(given[:, 2 * hidden :] + reset * inner[:, 2 * hidden :])
    return offer + keep * (before - offer), memory


def _lstm(given: mx.array, inner: mx.array, before: mx.array, memory: mx.array) -> tuple[mx.array, mx.array]:
    enter, keep, offer, tell = mx.split(given + inner, 4, 1)
    memory = mx.sigmoid(keep) * memory + mx.sigmoid(enter) * mx.tanh(offer)
    return mx.sigmoid(tell) * mx.tanh(memory), memory


_CELLS = {"RNN_TANH": _rnn, "GRU": _gru, "LSTM": _lstm}
"""Input's part and state's part of the gates, state and memory before → state and memory."""


# -------------------------------------------------------------------------------------------------------- projections


def _projection(projection: ProjectionLayer, vectors: Tensor) -> Tensor:
    return _layers(projection.layers, vectors, residual=projection.kind == "residual_linear")


def _sequential(layers: nn.Sequential, vectors: Tensor) -> Tensor:
    return _layers(layers, vectors)


def _linear(layer: nn.Linear, vectors: Tensor) -> Tensor:
    return _layers([layer], vectors)


def _layers(layers: Iterable[nn.Module], vectors: Tensor, *, residual: bool = False) -> Tensor:
    """Vectors through layers; added to what they were where that is residual."""
    layers = list(layers)
    if not layers:
        return vectors
    noisy = [own for own in layers if isinstance(own, nn.Dropout) and own.p and own.training]
    number = seed() if noisy else None

    def call(given: mx.array, *weights: mx.array) -> Sequence[mx.array]:
        found, left = given, iter(weights)
        for at, layer in enumerate(layers):
            if isinstance(layer, nn.Linear):
                found = found @ next(left).T
                found = found if layer.bias is None else found + next(left)
            elif isinstance(layer, nn.LayerNorm):
                found = mx.fast.layer_norm(found, next(left), next(left), layer.eps)
            elif isinstance(layer, nn.GELU):
                found = found * (1 + mx.erf(found / math.sqrt(2))) / 2
            elif layer in noisy and number is not None:
                found = _dropped(found, layer.p, mx.random.key(number + at))
        return (given + found if residual else found,)

    return through(call, vectors, *(weight for layer in layers for weight in layer.parameters()))[0]


_METHODS: Mapping[type[nn.Module], Mapping[str, Callable[..., Any]]] = {
    Bag: {"forward": _bag},
    Recurrent: {"_pooled": _pooled},
    ProjectionLayer: {"forward": _projection, "affine": _not_affine},
    nn.Sequential: {"forward": _sequential},
}
"""What MLX computes of each kind of module, by the name of the method."""
