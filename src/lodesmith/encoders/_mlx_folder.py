"""What the folder of a causal language model says of it, and its weights as MLX arrays: every tensor has its place.

Folders of transformers, and those of mlx-lm, whose linear maps may be quantised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError, MissingExtraError
from lodesmith.core.files import read_object

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

__all__ = ["ATTENTION", "MLP", "LanguageConfig", "Linear", "count_weights", "read_config", "read_weights"]

_FAMILIES = ("llama", "qwen2")
_CHOOSE = "choose another model, or train it on torch"
_AGAIN = "its files may be damaged: fetch or save it again"
_BUFFER = ".rotary_emb.inv_freq"
"""Written by older versions of transformers; it follows from the configuration."""
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LanguageConfig:
    """The shape of a llama or qwen2.

    Args:
        width: H, of a state.
        inner: of the feed-forward part.
        layers: their number.
        heads: of queries.
        shared: heads of keys and values, each for heads / shared of queries.
        head: width of a head.
        words: of the vocabulary.
        room: tokens that it reads at most; None where it names no limit.
        epsilon: of the norms.
        tied: whether the words' vectors are the head too; None where it does not say.
        biased: the linear maps that have a bias, by their own names.
        frequencies: [head / 2], of the rotary embedding: radians a position.
    """

    width: int
    inner: int
    layers: int
    heads: int
    shared: int
    head: int
    words: int
    room: int | None
    epsilon: float
    tied: bool | None
    biased: frozenset[str]
    frequencies: tuple[float, ...]

    def maps(self) -> dict[str, tuple[int, int]]:
        """The layers' linear maps by name: what they give and what they take."""
        queries, keys = self.heads * self.head, self.shared * self.head
        attention = ((queries, self.width), (keys, self.width), (keys, self.width), (self.width, queries))
        mlp = ((self.inner, self.width), (self.inner, self.width), (self.width, self.inner))
        found: dict[str, tuple[int, int]] = {}
        for layer in range(self.layers):
            for room, names, sizes in (("self_attn", ATTENTION, attention), ("mlp", MLP, mlp)):
                found |= {f"model.layers.{layer}.{room}.{own}": size for own, size in zip(names, sizes, strict=True)}
        return found

    def norms(self) -> list[str]:
        """The norms by name."""
        kinds = ("input_layernorm", "post_attention_layernorm")
        return [*(f"model.layers.{layer}.{own}" for layer in range(self.layers) for own in kinds), "model.norm"]


@dataclass(frozen=True)
class Linear:
    """A linear map or a table of vectors, [out, in], as it is or quantised in groups along a row.

    Args:
        weight: [out, in]; uint32 where it is quantised.
        bias: [out] or None.
        scales: [out, in / group_size] or None.
        offsets: as scales.
        group_size: numbers that share a scale.
        bits: of a number.
    """

    weight: mx.array
    bias: mx.array | None = None
    scales: mx.array | None = None
    offsets: mx.array | None = None
    group_size: int = 0
    bits: int = 0

    @property
    def _how(self) -> dict[str, int]:
        return {"group_size": self.group_size, "bits": self.bits}

    def __call__(self, x: mx.array) -> mx.array:
        """[…, in] → […, out]."""
        if self.scales is None:
            made = x @ self.weight.T
        else:
            made = mx.quantized_matmul(x, self.weight, self.scales, self.offsets, transpose=True, **self._how)
        return made if self.bias is None else made + self.bias

    def rows(self, ids: mx.array) -> mx.array:
        """The vectors […, in] of ids […]."""
        if self.scales is None or self.offsets is None:
            return self.weight[ids]
        return mx.dequantize(self.weight[ids], self.scales[ids], self.offsets[ids], **self._how)

    @property
    def count(self) -> int:
        """How many numbers it has, unpacked."""
        packed = int(self.weight.size) if self.scales is None else int(self.weight.size) * 32 // self.bits
        return packed + (0 if self.bias is None else int(self.bias.size))

    def dense(self) -> Linear:
        """The same without quantisation."""
        if self.scales is None:
            return self
        return Linear(mx.dequantize(self.weight, self.scales, self.offsets, **self._how), self.bias)


# ------------------------------------------------------------------------------------------------------- configuration


def read_config(folder: Path) -> tuple[LanguageConfig, Mapping[str, Any]]:
    """The shape of a model, and how it is quantised: empty where it is not.

    Raises:
        InputError: it is of no family that is built here, has a part that is not, or does not say what it is.
    """
    told = read_object(folder / "config.json")
    if found := next(_unknown(told), ""):
        raise InputError(f"MLX is not built here for {found}", _CHOOSE, path=folder / "config.json")
    quantised = told.get("quantization") or {}
    try:
        if not isinstance(quantised, dict) or quantised.get("mode", "affine") != "affine":
            raise ValueError(f"quantization {quantised}")
        return _config(told), quantised
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"does not say what the model is: {error!r}", _AGAIN, path=folder / "config.json") from None


def _unknown(told: Mapping[str, Any]) -> Iterator[str]:
    """What of a configuration is not built here."""
    if (kind := told.get("model_type")) not in _FAMILIES:
        yield f"models of the type {kind!r}, only for {' and '.join(_FAMILIES)}"
    if "auto_map" in told:
        yield "a model that brings code of its own"
    if (act := told.get("hidden_act", "silu")) != "silu":
        yield f"the activation {act!r}"
    if told.get("use_sliding_window") or set(told.get("layer_types") or ()) - {"full_attention"}:
        yield "sliding attention"
    if "quantization_config" in told and not told.get("quantization"):
        yield f"the quantisation {dict(told['quantization_config'] or {}).get('quant_method')!r}"
    rope = _rope(told)
    if (kind := rope["rope_type"]) not in ("default", "linear", "llama3"):
        yield f"the rotary embedding {kind!r}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        yield "a rotary embedding of a part of each head"


def _rope(told: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding in today's spelling."""
    rope = dict(told.get("rope_parameters") or told.get("rope_scaling") or {})
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", told.get("rope_theta", 10000.0))
    return rope


def _config(told: Mapping[str, Any]) -> LanguageConfig:
    heads, width, qwen = int(told["num_attention_heads"]), int(told["hidden_size"]), told["model_type"] == "qwen2"
    head, room = int(told.get("head_dim") or width // heads), told.get("max_position_embeddings")
    attention = ATTENTION[:3] if qwen else ATTENTION if told.get("attention_bias") else ()
    shared = int(told.get("num_key_value_heads") or heads)
    if heads % shared or head % 2:
        raise ValueError(f"{heads} heads of {head} share {shared}")
    return LanguageConfig(
        width=width,
        inner=int(told["intermediate_size"]),
        layers=int(told["num_hidden_layers"]),
        heads=heads,
        shared=shared,
        head=head,
        words=int(told["vocab_size"]),
        room=None if room is None else int(room),
        epsilon=float(told.get("rms_norm_eps", 1e-6)),
        tied=None if told.get("tie_word_embeddings") is None else bool(told["tie_word_embeddings"]),
        biased=frozenset((*attention, *(MLP if not qwen and told.get("mlp_bias") else ()))),
        frequencies=tuple(_frequencies(_rope(told), head, room)),
    )


def _frequencies(rope: Mapping[str, Any], head: int, room: int | None) -> Iterator[float]:
    """Radians a position; `llama3` slows down the long waves, and those between in part."""
    kind, base = rope["rope_type"], float(rope["rope_theta"])
    for at in range(0, head, 2):
        own = base ** (-at / head)
        if kind == "default":
            yield own
            continue
        slow = own / float(rope["factor"])
        if kind == "linear":
            yield slow
            continue
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        turns = float(rope.get("original_max_position_embeddings") or room or 0) * own / (2 * math.pi)
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        yield share * own + (1 - share) * slow


# -------------------------------------------------------------------------------------------------------------- weights


def read_weights(
    folder: Path, config: LanguageConfig, quantised: Mapping[str, Any], dtype: str
) -> tuple[dict[str, Linear], dict[str, mx.array]]:
    """The linear maps and tables, and the norms, by name. A tied model has no `lm_head`.

    Args:
        folder: of the model.
        config: of the model.
        quantised: as its configuration says.
        dtype: of what is not quantised: float32 or bfloat16.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or damaged.
    """
    maps, norms = _placed(folder, config, quantised, dtype)
    try:
        mx.eval([[own.weight, own.bias, own.scales, own.offsets] for own in maps.values()], norms)
    except RuntimeError as error:
        raise InputError(f"its weights do not fit: {error}", _AGAIN, path=folder) from None
    return maps, norms


def count_weights(folder: Path, config: LanguageConfig, quantised: Mapping[str, Any]) -> int:
    """How many numbers the weights are, unpacked, where every tensor has its place; they are not read.

    Args:
        folder: of the model.
        config: of the model.
        quantised: as its configuration says.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    maps, norms = _placed(folder, config, quantised, "float32")
    return sum(own.count for own in maps.values()) + sum(int(own.size) for own in norms.values())


def _placed(
    folder: Path, config: LanguageConfig, quantised: Mapping[str, Any], dtype: str
) -> tuple[dict[str, Linear], dict[str, mx.array]]:
    """What `read_weights` gives, before its numbers are read."""
    kind, tensors = getattr(mx, dtype), _tensors(folder)
    found = {
        name: tensor if tensor.dtype == mx.uint32 else tensor.astype(kind)
        for name, tensor in tensors.items()
        if not name.endswith(_BUFFER)
    }
    try:
        table = (config.words, config.width)
        tied = "lm_head.weight" not in found if config.tied is None else config.tied
        if tied and "lm_head.weight" in found:
            _same_head(found, folder)
        sizes = {"model.embed_tokens": table} | config.maps() | ({} if tied else {"lm_head": table})
        maps = {name: _linear(found, name, size, config, quantised) for name, size in sizes.items()}
        norms = {name: _take(found, f"{name}.weight", (config.width,)) for name in config.norms()}
        if found:
            raise ValueError(f"the tensor {min(found)} has no place in the model")
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"its weights do not fit: {error}", _AGAIN, path=folder) from None
    return maps, norms


def _tensors(folder: Path) -> dict[str, mx.array]:
    """All tensors of a folder's safetensors, one file or those that its index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return _read(single)
    places = read_object(index).get("weight_map") if index.is_file() else None
    if not isinstance(places, dict):
        raise InputError("it has no weights as safetensors", "convert them, or choose another model", path=folder)
    found: dict[str, mx.array] = {}
    for name in sorted(set(places.values())):
        part = _read(folder / Path(str(name)).name)
        if strange := sorted(own for own in part if own in found or places.get(own) != name):
            raise InputError(f"the tensor {strange[0]} is not where the index has it", _AGAIN, path=folder / name)
        found |= part
    if lost := sorted(places.keys() - found.keys()):
        raise InputError(f"the tensor {lost[0]} is missing", _AGAIN, path=folder)
    return found


def _read(file: Path) -> dict[str, mx.array]:
    try:
        return dict(mx.load(str(file), format="safetensors"))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"the weights cannot be read: {error}", _AGAIN, path=file) from None


def _same_head(found: dict[str, mx.array], folder: Path) -> None:
    """Some write the words' vectors twice: the second time they must be the same."""
    for part in [own for own in found if own.startswith("lm_head.")]:
        head, words = found.pop(part), found.get(part.replace("lm_head", "model.embed_tokens"))
        if words is None or words.shape != head.shape or not bool(mx.array_equal(head, words)):
            raise InputError("the words' vectors are the head too, and the files have another", _AGAIN, path=folder)


def _take(found: dict[str, mx.array], name: str, shape: tuple[int, ...]) -> mx.array:
    if name not in found:
        raise ValueError(f"the tensor {name} is missing")
    tensor = found.pop(name)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"the tensor {name} has the shape {list(tensor.shape)}, not {list(shape)}")
    return tensor


def _linear(
    found: dict[str, mx.array],
    name: str,
    size: tuple[int, int],
    config: LanguageConfig,
    quantised: Mapping[str, Any],
) -> Linear:
    """A linear map; it is quantised where it has scales, in its own way or in that of all."""
    bias = _take(found, f"{name}.bias", size[:1]) if name.rpartition(".")[2] in config.biased else None
    if f"{name}.scales" not in found:
        return Linear(_plain(_take(found, f"{name}.weight", size), name), bias)
    own = quantised.get(name)
    how = {**quantised, **(own if isinstance(own, dict) else {})}
    if "group_size" not in how or "bits" not in how or own is False or how.get("mode", "affine") != "affine":
        raise ValueError(f"the tensor {name} is quantised, and the configuration does not say how: {own}")
    group, bits = int(how["group_size"]), int(how["bits"])
    rows, columns = size
    weight = _take(found, f"{name}.weight", (rows, columns * bits // 32))
    scales, offsets = (_take(found, f"{name}.{part}", (rows, columns // group)) for part in ("scales", "biases"))
    if weight.dtype != mx.uint32:
        raise ValueError(f"the tensor {name}.weight is {weight.dtype}, not uint32")
    return Linear(weight, bias, scales, offsets, group, bits)


def _plain(weight: mx.array, name: str) -> mx.array:
    if weight.dtype == mx.uint32:
        raise ValueError(f"the tensor {name}.scales is missing")
    return weight
