"""The memory model in MLX: what `MemoryModel` computes in torch, from the same folders."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lodesmith.core.errors import ConfigError, InputError, MissingExtraError
from lodesmith.core.model_files import digests
from lodesmith.encoders._loading import find_model, is_memory
from lodesmith.encoders._memory_folder import INSIDE, MemorySettings, Opened, base_name, open_folder, write_folder
from lodesmith.encoders._memory_model import ADAPTERS, NEARER
from lodesmith.encoders._memory_weights import OWN, read_parts
from lodesmith.encoders._mlx_folder import LanguageConfig
from lodesmith.encoders._mlx_language import Adapter, Cache, MLXLanguageModel, padded

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

__all__ = ["PEFT", "MLXCompressed", "MLXMemoryModel", "Parameters", "shapes_of"]

PEFT = "base_model.model."
"""Before a map's name, as peft writes it."""

Parameters = dict[str, dict[str, mx.array]]
"""What trains: of each adapter its factors, and under `memory` the memory tokens and the mark."""
Reading = Sequence[Any]
"""A prompt, part by part: integer token ids [l], or states [t, H] that stand in their place: arrays of MLX or numpy."""


@dataclass(frozen=True)
class MLXCompressed:
    """Documents as memory.

    Args:
        memory: float32 [n, t, H], the last layer's states at the memory tokens.
        text: float32 [n, H], the mean of those at the text's own tokens.
    """

    memory: mx.array
    text: mx.array


class MLXMemoryModel:
    """A language model with three adapters, memory tokens, and the mark that stands before what is compressed.

    Args:
        language_model: whose own weights are frozen.
        settings: of the memory: how many tokens, and the adapters' `rank`, `alpha`, `dropout` and `layers`.

    Raises:
        ConfigError: a setting of lora is unknown or does not fit the model.
    """

    def __init__(self, language_model: MLXLanguageModel, settings: MemorySettings) -> None:
        self.language_model, self.settings = language_model, settings
        self.opened: Opened | None = None
        self.training = False
        """Whether the adapters drop out."""
        own = settings.lora
        self._shapes = _shapes(language_model.config, settings)
        self._adapted = [name.removesuffix(".lora_A") for name in self._shapes[ADAPTERS[0]] if name.endswith("lora_A")]
        self.rank, self.alpha, self.dropout = int(own["rank"]), float(own["alpha"]), float(own["dropout"])
        words = language_model.embed(mx.arange(language_model.config.words)).astype(mx.float32)
        self.word_norm = mx.linalg.norm(words, axis=1).mean().item()
        self.word_mean = words.mean(axis=0)
        self.word_spread = mx.linalg.norm(words - self.word_mean, axis=1).mean().item()
        self.parameters = self._new()

    @classmethod
    def load(cls, source: Path | str, *, dtype: str = "float32", **settings: Any) -> MLXMemoryModel:
        """A model with new adapters, or that of a folder which `save` or `MemoryEncoder.save` wrote.

        Args:
            source: hub name or folder.
            dtype: of the language model: float32 or bfloat16.
            settings: see `MemorySettings`; of a saved model they are its own.

        Raises:
            InputError: the language model is not there, or is none that MLX is built for here.
            ConfigError: a setting is out of range, or not that of a saved model.
            IntegrityError: a saved model's files are not those that were written.
        """
        folder = find_model(source)
        if is_memory(folder):
            opened = open_folder(folder)
            opened.settings.check_same(settings)
        else:
            opened = Opened(MemorySettings.of(settings), folder, base_name(str(source), folder), digests(folder))
        model = cls(MLXLanguageModel.load(opened.base, dtype), opened.settings)
        model.opened = opened
        if is_memory(folder):
            model._read(folder)
        return model

    @property
    def count(self) -> int:
        """t, memory tokens of a document."""
        return self.settings.count

    @property
    def dimension(self) -> int:
        """H, of a memory token."""
        return self.language_model.config.width

    # -------------------------------------------------------------------- weights

    def _new(self) -> Parameters:
        """New adapters, which change nothing, and tokens of the mean length of the words' vectors."""
        made: Parameters = {}
        for adapter in ADAPTERS:
            made[adapter] = own = {}
            for name, shape in self._shapes[adapter].items():
                reach = 1 / math.sqrt(shape[1])
                own[name] = mx.random.uniform(-reach, reach, shape) if name.endswith("lora_A") else mx.zeros(shape)
        drawn = _direction(mx.random.normal((self.count + 1, self.dimension))) * self.word_norm
        made[OWN] = {"memory": drawn[:-1], "mark": drawn[-1:]}
        mx.eval(made)
        return made

    def _read(self, folder: Path) -> None:
        for part, state in read_parts(folder, _as_in_files(self._shapes)).items():
            names = self.parameters[part]
            self.parameters[part] = {name: mx.array(state[_outer(part, name)].float().numpy()) for name in names}
        mx.eval(self.parameters)

    def save(self, folder: Path | str) -> Path:
        """Write a folder that loads here and as `MemoryEncoder`, whole or not at all.

        Raises:
            ConfigError: the language model came from no folder.
        """
        if self.opened is None:
            raise ConfigError("the language model came from no folder", "make the model with MLXMemoryModel.load")
        states = {
            part: {_outer(part, name): torch.from_numpy(np.array(weight)) for name, weight in own.items()}
            for part, own in self.parameters.items()
        }
        layers = self.settings.lora["layers"]
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.opened.name or INSIDE,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": sorted({name.rpartition(".")[2] for name in self._adapted})
            if layers == "all-linear"
            else layers,
            "inference_mode": True,
        }
        own = states.pop(OWN)
        return write_folder(folder, self.opened, states, own, dict.fromkeys(ADAPTERS, config))

    def copy_adapter(self, source: str, target: str) -> None:
        """Give an adapter the weights of another."""
        self.parameters[target] = dict(self.parameters[source])

    @property
    def reasons(self) -> bool:
        """Whether the query reasoner has begun: a new adapter changes nothing, since its second factors are 0."""
        own = self.parameters["query_reasoner"]
        return any(bool(mx.any(weight != 0)) for name, weight in own.items() if name.endswith("lora_B"))

    def gradients(
        self, loss: Callable[[], mx.array], parts: Sequence[str] = (*ADAPTERS, OWN)
    ) -> tuple[mx.array, Parameters]:
        """The value of a loss, and its gradients by parameter.

        Args:
            loss: computes a scalar with this model.
            parts: the adapters, and `memory`, by which it is differentiated.
        """
        whole = self.parameters

        def of(parameters: Parameters) -> mx.array:
            self.parameters = whole | parameters
            try:
                return loss()
            finally:
                self.parameters = whole

        value, found = mx.value_and_grad(of)({part: whole[part] for part in parts})
        return value, found

    def _through(self, adapter: str | None) -> Adapter | None:
        if adapter is None:
            return None
        return Adapter(self.parameters[adapter], self.alpha / self.rank, self.dropout if self.training else 0.0)

    # ---------------------------------------------------------------- compression

    def compress(self, texts: Sequence[Any], adapter: str = "encoder") -> MLXCompressed:
        """Texts as memory.

        The model reads mark, text, memory tokens; padding stands behind, where causal attention leaves it unseen.

        Args:
            texts: integer ids [l] each, with whatever begins and ends a text: arrays of MLX or numpy.
            adapter: `encoder` or `query_reasoner`.
        """
        model, own = self.language_model, self.parameters[OWN]
        if not texts:
            return MLXCompressed(mx.zeros((0, self.count, self.dimension)), mx.zeros((0, self.dimension)))
        mark, memory = (own[name].astype(model.dtype) for name in ("mark", "memory"))
        rows = [mx.concatenate([mark, model.embed(mx.array(ids)), memory]) for ids in texts]
        inputs, mask = padded(rows, left=False)
        states = model.states(inputs, mask, adapter=self._through(adapter)).astype(mx.float32)
        ends = mx.array([len(row) - self.count for row in rows])[:, None]
        found = mx.take_along_axis(states, (ends + mx.arange(self.count))[..., None], axis=1)
        places = mx.arange(inputs.shape[1])
        text = ((places >= 1) & (places < ends)).astype(mx.float32)
        total = (states * text[..., None]).sum(1) / mx.maximum(text.sum(1, keepdims=True), 1)
        return MLXCompressed(found, total)

    # --------------------------------------------------------------------- reading

    def _row(self, parts: Reading) -> mx.array:
        model, arrays = self.language_model, [mx.array(part) for part in parts]
        return mx.concatenate(
            [
                self._as_words(own).astype(model.dtype) if mx.issubdtype(own.dtype, mx.floating) else model.embed(own)
                for own in arrays
            ]
        )

    def _as_words(self, states: mx.array) -> mx.array:
        """States [t, H] as `MemoryModel` reads them."""
        return self.word_mean + _direction(states) * (NEARER * self.word_spread)

    def answer_losses(self, readings: Sequence[Reading], answers: Sequence[Any], adapter: str | None) -> mx.array:
        """−log p of every token of the answers, one answer after another: float32 [total].

        Args:
            readings: of each prompt its parts.
            answers: integer ids [l] each, at least one.
            adapter: `decoder`; None for the model as it was.
        """
        if any(not len(answer) for answer in answers):
            raise InputError("an answer has no token", "leave its question out")
        if not answers:
            return mx.zeros(0)
        model, written = self.language_model, [mx.array(own) for own in answers]
        pairs = zip(readings, written, strict=True)
        inputs, mask = padded(
            [self._row([*parts, own[:-1]] if len(own) > 1 else parts) for parts, own in pairs], left=True
        )
        states = model.states(inputs, mask, adapter=self._through(adapter))
        width = inputs.shape[1]
        chosen = [own[width - len(ids) :] for own, ids in zip(states, written, strict=True)]
        logits = model.logits(mx.concatenate(chosen)).astype(mx.float32)
        given = mx.take_along_axis(logits, mx.concatenate(written)[:, None], axis=1)[:, 0]
        return mx.logsumexp(logits, axis=1) - given

    def generate(
        self, readings: Sequence[Reading], adapter: str | None, *, most: int, ends: Sequence[int], pad: int
    ) -> list[list[int]]:
        """The ids that the model writes after each prompt, greedily, without what ends them.

        Args:
            readings: of each prompt its parts.
            adapter: `decoder`; None for the model as it was.
            most: the most new tokens.
            ends: ids that end a text.
            pad: an id for what stands behind a text that has ended.
        """
        model, cache, through = self.language_model, Cache(), self._through(adapter)
        inputs, mask = padded([self._row(parts) for parts in readings], left=True)
        found: list[list[int]] = [[] for _ in readings]
        going = [True] * len(found)
        while any(going):
            states = model.states(inputs, mask, adapter=through, cache=cache)
            tokens = mx.argmax(model.logits(states[:, -1]), axis=-1).tolist()
            for at, token in enumerate(tokens):
                going[at] = going[at] and token not in ends
                if going[at]:
                    found[at].append(token)
                    going[at] = len(found[at]) < most
            read = [own if here else pad for own, here in zip(tokens, going, strict=True)]
            inputs = model.embed(mx.array(read)[:, None])
            mask = mx.ones((len(found), 1), mx.bool_)
        return found


def _direction(states: mx.array) -> mx.array:
    """States [t, H] at length 1, in float32."""
    wide = states.astype(mx.float32)
    return wide / mx.maximum(mx.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def shapes_of(config: LanguageConfig, settings: MemorySettings) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of every tensor of every part of a memory model, by its name in a file.

    Args:
        config: of the language model.
        settings: of the memory.

    Raises:
        ConfigError: a setting of lora is unknown or does not fit the model.
    """
    return _as_in_files(_shapes(config, settings))


def _as_in_files(shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {part: {_outer(part, name): shape for name, shape in own.items()} for part, own in shapes.items()}


def _shapes(config: LanguageConfig, settings: MemorySettings) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of every parameter, by part and name."""
    own = settings.lora
    if unknown := sorted(own.keys() - {"rank", "alpha", "dropout", "layers"}):
        raise ConfigError(f"lora has no setting {unknown[0]!r}", "it has: rank, alpha, dropout, layers")
    try:
        rank, dropout, _ = int(own["rank"]), float(own["dropout"]), float(own["alpha"])
        maps = config.maps()
        factors: dict[str, tuple[int, ...]] = {}
        for name in _adapted(maps, own["layers"]):
            given, taken = maps[name]
            factors |= {f"{name}.lora_A": (rank, taken), f"{name}.lora_B": (given, rank)}
    except (TypeError, ValueError, re.error) as error:
        raise ConfigError(f"lora does not fit the model: {error}", "leave `layers` out, or correct it") from None
    if rank < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"lora does not fit the model: rank {rank}, dropout {dropout}", "correct it")
    tokens: dict[str, tuple[int, ...]] = {"memory": (settings.count, config.width), "mark": (1, config.width)}
    return {**dict.fromkeys(ADAPTERS, factors), OWN: tokens}


def _adapted(maps: Mapping[str, Any], layers: Any) -> list[str]:
    """The maps that are adapted: all, those whose names end so, or whose whole name a pattern fits, as peft chooses.

    Raises:
        ValueError: none is, or a name is of no map of the layers.
    """
    if layers == "all-linear":
        return list(maps)
    if isinstance(layers, str):
        found = [name for name in maps if re.fullmatch(layers, name)]
        if not found:
            raise ValueError(f"no map of the layers is called {layers!r}")
        return found
    for own in layers:
        if not any(name == own or name.endswith(f".{own}") for name in maps):
            raise ValueError(f"no map of the layers is called {own!r}")
    return [name for name in maps if any(name == own or name.endswith(f".{own}") for own in layers)]


def _outer(part: str, name: str) -> str:
    """A tensor's name in a file."""
    return name if part == OWN else f"{PEFT}{name}.weight"
