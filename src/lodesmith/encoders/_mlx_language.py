"""A causal language model in MLX, of the families llama and qwen2, with low-rank adapters handed in as arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lodesmith.core.errors import InputError, MissingExtraError
from lodesmith.encoders._mlx_folder import LanguageConfig, Linear, read_config, read_weights

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

__all__ = ["Adapter", "Cache", "MLXLanguageModel", "padded"]


@dataclass(frozen=True)
class Adapter:
    """Low-rank changes of linear maps: scale · B A x beside W x.

    Args:
        factors: `NAME.lora_A` float32 [rank, in] and `NAME.lora_B` float32 [out, rank], by the map's name.
        scale: alpha / rank.
        dropout: share of x that is left out, before A.
    """

    factors: Mapping[str, mx.array]
    scale: float
    dropout: float = 0.0

    def __call__(self, name: str, x: mx.array, made: mx.array) -> mx.array:
        """What a map has made of x, changed where it is adapted."""
        down = self.factors.get(f"{name}.lora_A")
        if down is None:
            return made
        x = x.astype(down.dtype)
        if self.dropout:
            x = x * mx.random.bernoulli(1 - self.dropout, x.shape) / (1 - self.dropout)
        change = (x @ down.T) @ self.factors[f"{name}.lora_B"].T
        return (made + self.scale * change).astype(made.dtype)


class Cache:
    """Keys and values of what has been read, layer by layer, and which of it is no padding."""

    def __init__(self) -> None:
        self.mask: mx.array | None = None
        self.pairs: dict[int, tuple[mx.array, mx.array]] = {}

    @property
    def length(self) -> int:
        """Tokens that have been read."""
        return 0 if self.mask is None else int(self.mask.shape[1])

    def extended(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """All keys and values [n, heads, l, head] of a layer, the new ones last."""
        if layer in self.pairs:
            before = self.pairs[layer]
            keys, values = mx.concatenate([before[0], keys], 2), mx.concatenate([before[1], values], 2)
        self.pairs[layer] = (keys, values)
        return keys, values


class MLXLanguageModel:
    """A llama or qwen2; its own weights are frozen.

    Args:
        config: its shape.
        maps: linear maps and the words' vectors, by name.
        norms: the norms' weights, by name.
    """

    def __init__(self, config: LanguageConfig, maps: Mapping[str, Linear], norms: Mapping[str, mx.array]) -> None:
        self.config, self.maps, self.norms = config, dict(maps), dict(norms)
        self._frequencies = mx.array(config.frequencies, mx.float32)

    @classmethod
    def load(cls, folder: Path | str, dtype: str = "float32") -> MLXLanguageModel:
        """The model of a folder of transformers or mlx-lm.

        Args:
            folder: with config.json and safetensors.
            dtype: of what is not quantised: float32 or bfloat16.

        Raises:
            InputError: it is no such model, or its weights do not fit.
        """
        folder = Path(folder)
        if (folder / "adapter_config.json").is_file():
            raise InputError("the folder holds an adapter", "merge it into its base first", path=folder)
        config, quantised = read_config(folder)
        return cls(config, *read_weights(folder, config, quantised, dtype))

    @property
    def dtype(self) -> mx.Dtype:
        """Of states."""
        return self.norms["model.norm"].dtype

    @property
    def quantised(self) -> bool:
        """Whether a map is."""
        return any(own.scales is not None for own in self.maps.values())

    def dense(self) -> MLXLanguageModel:
        """The same model without quantisation."""
        return MLXLanguageModel(self.config, {name: own.dense() for name, own in self.maps.items()}, self.norms)

    def embed(self, ids: mx.array) -> mx.array:
        """The input vectors […, H] of token ids […]."""
        return self.maps["model.embed_tokens"].rows(ids)

    def logits(self, states: mx.array) -> mx.array:
        """[…, H] of the last layer → […, words]."""
        return self.maps.get("lm_head", self.maps["model.embed_tokens"])(states)

    def states(
        self, inputs: mx.array, mask: mx.array, *, adapter: Adapter | None = None, cache: Cache | None = None
    ) -> mx.array:
        """The last layer's states [n, l, H].

        Args:
            inputs: [n, l, H].
            mask: bool [n, l], False for padding, which may stand on either side: positions count the others.
            adapter: through which it goes; None for none.
            cache: of what stands before; it gets what is read here.

        Raises:
            InputError: that is more than the model can read.
        """
        past = 0 if cache is None else cache.length
        whole = mask if cache is None or cache.mask is None else mx.concatenate([cache.mask, mask], 1)
        if self.config.room is not None and whole.shape[1] > self.config.room:
            raise InputError(
                f"{whole.shape[1]} tokens are more than the model's {self.config.room}",
                "give fewer documents or less of each, a shorter question, or fewer new tokens",
            )
        allowed = _allowed(whole, past)
        positions = mx.maximum(mx.cumsum(whole.astype(mx.int32), axis=1) - 1, 0)[:, past:]
        angles = positions[..., None].astype(mx.float32) * self._frequencies
        turn = (mx.cos(angles)[:, None], mx.sin(angles)[:, None])
        states = inputs.astype(self.dtype)
        for layer in range(self.config.layers):
            place = f"model.layers.{layer}"
            read = self._norm(f"{place}.input_layernorm", states)
            states = states + self._attention(layer, read, turn, allowed, adapter, cache)
            read = self._norm(f"{place}.post_attention_layernorm", states)
            gate, up = (self._map(f"{place}.mlp.{own}_proj", read, adapter) for own in ("gate", "up"))
            states = states + self._map(f"{place}.mlp.down_proj", gate * mx.sigmoid(gate) * up, adapter)
        if cache is not None:
            cache.mask = whole
        return self._norm("model.norm", states)

    def _norm(self, name: str, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.norms[name], self.config.epsilon)

    def _map(self, name: str, x: mx.array, adapter: Adapter | None) -> mx.array:
        made = self.maps[name](x)
        return made if adapter is None else adapter(name, x, made)

    def _attention(
        self,
        layer: int,
        x: mx.array,
        turn: tuple[mx.array, mx.array],
        allowed: mx.array,
        adapter: Adapter | None,
        cache: Cache | None,
    ) -> mx.array:
        place, (count, length, _) = f"model.layers.{layer}.self_attn", x.shape
        queries, keys, values = (
            self._map(f"{place}.{own}_proj", x, adapter)
            .reshape(count, length, -1, self.config.head)
            .transpose(0, 2, 1, 3)
            for own in ("q", "k", "v")
        )
        queries, keys = _turned(queries, *turn), _turned(keys, *turn)
        if cache is not None:
            keys, values = cache.extended(layer, keys, values)
        scale = self.config.head**-0.5
        read = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=allowed)
        return self._map(f"{place}.o_proj", read.transpose(0, 2, 1, 3).reshape(count, length, -1), adapter)


def _turned(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """[n, heads, l, head], each pair of its halves turned by an angle [n, 1, l, head / 2]."""
    left, right = mx.split(x.astype(mx.float32), 2, axis=-1)
    return mx.concatenate([left * cos - right * sin, right * cos + left * sin], -1).astype(x.dtype)


def _allowed(mask: mx.array, past: int) -> mx.array:
    """bool [n, 1, l − past, l]: what is read by whom: what stands before and is no padding, and itself, so that
    padding reads something too."""
    places = mx.arange(mask.shape[1])
    own = places[past:, None]
    return ((places < own) & mask[:, None, :] | (places == own))[:, None]


def padded(rows: Sequence[mx.array], *, left: bool) -> tuple[mx.array, mx.array]:
    """Rows [l, H] behind their padding, or before it: [n, longest, H], and bool [n, longest], False for padding."""
    longest = max(len(row) for row in rows)
    gaps = [longest - len(row) for row in rows]
    inputs = mx.stack(
        [mx.pad(row, [(gap, 0) if left else (0, gap), (0, 0)]) for row, gap in zip(rows, gaps, strict=True)]
    )
    places, away = mx.arange(longest), mx.array(gaps)[:, None]
    return inputs, places >= away if left else places < longest - away
