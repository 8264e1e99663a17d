"""A memory model of MLX as a torch module: tensors in and out, gradients too, so that objectives, optimisers and
checkpoints are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.encoders._memory_model import ADAPTERS, Compressed, MemoryModel, Reading
from lodesmith.encoders._memory_weights import OWN
from lodesmith.encoders._mlx_language import MLXLanguageModel
from lodesmith.encoders._mlx_memory import PEFT, MLXMemoryModel
from lodesmith.encoders._mlx_through import array, seed, tensor, through

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["MLXMemoryModule"]


class MLXMemoryModule(nn.Module):
    """What of `MemoryModel` training and answering ask, computed by MLX.

    Its parameters are the adapters and memory tokens, under `MemoryModel`'s names; the weights under them are not among
    them. For gradients MLX computes once more what it gave, with the same dropout: torch's random numbers seed it, so
    that a training that is resumed goes on to the same bits.

    Args:
        model: gets the parameters back with `write`.
        shared: a model of torch whose parameters these are, and which says when they drop out; None for parameters of
            its own, with the values of `model`.

    Raises:
        ConfigError: the two models' adapters are not of the same maps; or, by its methods, where it was moved off the
            CPU, on which torch and MLX meet.
    """

    def __init__(self, model: MLXMemoryModel, shared: MemoryModel | None = None) -> None:
        super().__init__()
        self._model = model
        self._active: str | None = ADAPTERS[0]
        self._shared = (shared,)  # no child: its parameters would have two names
        self._factors: dict[str, dict[str, nn.Parameter]] = {adapter: {} for adapter in ADAPTERS}
        if shared is None:
            self._register(model)
        else:
            self._share(model, shared)

    @classmethod
    def beside(cls, encoder: MemoryEncoder) -> MLXMemoryModule:
        """What computes with the parameters of an encoder, whose language model it reads once more.

        Raises:
            InputError: the language model is none that MLX is built for here.
        """
        language_model = MLXLanguageModel.load(encoder.opened.base)
        return cls(MLXMemoryModel(language_model, encoder.settings), encoder.model)

    def _register(self, model: MLXMemoryModel) -> None:
        self.memory, self.mark = (nn.Parameter(tensor(model.parameters[OWN][name])) for name in ("memory", "mark"))
        for adapter in ADAPTERS:
            for name, weight in model.parameters[adapter].items():
                parameter = self._factors[adapter][name] = nn.Parameter(tensor(weight))
                _place(self, f"model.{PEFT}{name}.{adapter}").register_parameter("weight", parameter)

    def _share(self, model: MLXMemoryModel, shared: MemoryModel) -> None:
        self.memory, self.mark = shared.memory, shared.mark
        for adapter in ADAPTERS:
            given = shared.weights(adapter)
            names = {name: f"{PEFT}{name}.weight" for name in model.parameters[adapter]}
            if given.keys() != set(names.values()):
                lost = min(given.keys() ^ set(names.values()))
                raise ConfigError(f"MLX does not adapt the maps that torch does: {lost}", "change encoder.lora.layers")
            self._factors[adapter] = {name: given[own] for name, own in names.items()}

    @property
    def device(self) -> torch.device:
        """Of what goes in and out."""
        return self.memory.device

    @property
    def count(self) -> int:
        """t, memory tokens of a document."""
        return self._model.count

    @property
    def dimension(self) -> int:
        """H, of a memory token."""
        return self._model.dimension

    def weights(self, adapter: str) -> dict[str, nn.Parameter]:
        """The weights of an adapter by name, as peft writes them."""
        return {f"{PEFT}{name}.weight": weight for name, weight in self._factors[adapter].items()}

    @torch.no_grad()
    def copy_adapter(self, source: str, target: str) -> None:
        """Give an adapter the weights of another, in place."""
        for name, weight in self._factors[target].items():
            weight.copy_(self._factors[source][name])

    def write(self) -> MLXMemoryModel:
        """The model, with the parameters as they are now."""
        for adapter, own in self._factors.items():
            self._model.parameters[adapter] = {name: array(weight) for name, weight in own.items()}
        self._model.parameters[OWN] = {"memory": array(self.memory), "mark": array(self.mark)}
        mx.eval(self._model.parameters)
        return self._model

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Inside the block `compressed` goes through one adapter."""
        before, self._active = self._active, adapter
        try:
            yield
        finally:
            self._active = before

    # -------------------------------------------------------------------- computing

    def compress(self, texts: Sequence[Tensor], adapter: str = "encoder") -> Compressed:
        """Texts, int64 ids [l] each, as memory."""
        ids = [text.numpy() for text in texts]

        def call(tokens: Sequence[mx.array]) -> Sequence[mx.array]:
            self._model.parameters[OWN] = dict(zip(("memory", "mark"), tokens, strict=True))
            made = self._model.compress(ids, adapter)
            return made.memory, made.text

        memory, text = self._called(call, adapter, [self.memory, self.mark])
        return Compressed(memory, text)

    def compressed(self, texts: Sequence[Tensor]) -> Compressed:
        """`compress` with the adapter that is in use."""
        return self.compress(texts, self._active or ADAPTERS[0])

    def answer_losses(self, readings: Sequence[Reading], answers: Sequence[Tensor], adapter: str | None) -> Tensor:
        """−log p of every token of the answers, one answer after another: float32 [total]."""
        written = [answer.numpy() for answer in answers]
        states, pieces = _sorted(readings)

        def call(given: Sequence[mx.array]) -> Sequence[mx.array]:
            read = [[given[part] if isinstance(part, int) else part for part in own] for own in pieces]
            return (self._model.answer_losses(read, written, adapter),)

        return self._called(call, adapter, states)[0]

    def answer_losses_of(self, *given: Any) -> None:
        """None: what several prompts begin with is read with each of them."""

    def generate(
        self, readings: Sequence[Reading], adapter: str | None, *, most: int, ends: Sequence[int], pad: int
    ) -> list[list[int]]:
        """The ids that the model writes after each prompt, greedily, without what ends them."""
        read = [[part.detach().numpy() for part in own] for own in readings]
        with self._holding(adapter, [array(own) for own in self._own(adapter)], None):
            return self._model.generate(read, adapter, most=most, ends=ends, pad=pad)

    def _own(self, adapter: str | None) -> list[nn.Parameter]:
        return [] if adapter is None else list(self._factors[adapter].values())

    def _called(
        self, call: Callable[[Sequence[mx.array]], Sequence[mx.array]], adapter: str | None, states: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """What a call gives for the adapter as it is, and for states."""
        own = self._own(adapter)
        training = (self._shared[0] or self).training
        number = seed() if training and self._model.dropout > 0 else None

        def whole(*arrays: mx.array) -> Sequence[mx.array]:
            with self._holding(adapter, arrays[: len(own)], number):
                return call(arrays[len(own) :])

        return through(whole, *own, *states)

    @contextmanager
    def _holding(self, adapter: str | None, factors: Sequence[mx.array], number: int | None) -> Iterator[None]:
        """Inside the block the model has this adapter and no other parameters. With a number, a seed, it drops out."""
        model = self._model
        before = model.parameters, model.training
        model.parameters = {} if adapter is None else {adapter: dict(zip(self._factors[adapter], factors, strict=True))}
        model.training = number is not None
        if number is not None:
            mx.random.seed(number)
        try:
            yield
        finally:
            model.parameters, model.training = before


def _place(module: nn.Module, path: str) -> nn.Module:
    """The module under a dotted name, made where it is not there."""
    for name in path.split("."):
        if name not in module._modules:
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module


def _sorted(readings: Sequence[Reading]) -> tuple[list[Tensor], list[list[Any]]]:
    """The states of all readings, and the readings with the states' numbers in their places."""
    states: list[Tensor] = []
    pieces: list[list[Any]] = []
    for reading in readings:
        own: list[Any] = []
        for part in reading:
            if part.is_floating_point():
                own.append(len(states))
                states.append(part)
            else:
                own.append(part.numpy())
        pieces.append(own)
    return states, pieces
