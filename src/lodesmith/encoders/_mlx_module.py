"""A memory model of MLX as a torch module: tensors in and out, gradients too, so that objectives, optimisers and
checkpoints are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.encoders._memory_folder import OWN
from lodesmith.encoders._memory_model import ADAPTERS, Compressed, Reading
from lodesmith.encoders._mlx_memory import PEFT, MLXMemoryModel

try:
    import mlx.core as mx
except ImportError:
    raise MissingExtraError("mlx", "mlx") from None

__all__ = ["MLXMemoryModule"]

_Call = Callable[..., Sequence[mx.array]]


class MLXMemoryModule(nn.Module):
    """What of `MemoryModel` training and answering ask, computed by MLX.

    Its parameters are the adapters and memory tokens, under `MemoryModel`'s names; the weights under them are not among
    them. For gradients MLX computes once more what it gave, with the same dropout: torch's random numbers seed it, so
    that a training that is resumed goes on to the same bits.

    Args:
        model: gets the parameters back with `write`.

    Raises:
        ConfigError: by its methods, where it was moved off the CPU, on which torch and MLX meet.
    """

    def __init__(self, model: MLXMemoryModel) -> None:
        super().__init__()
        self._model = model
        self._active: str | None = ADAPTERS[0]
        self.memory, self.mark = (nn.Parameter(_tensor(model.parameters[OWN][name])) for name in ("memory", "mark"))
        self._factors: dict[str, dict[str, nn.Parameter]] = {adapter: {} for adapter in ADAPTERS}
        for adapter in ADAPTERS:
            for name, weight in model.parameters[adapter].items():
                parameter = self._factors[adapter][name] = nn.Parameter(_tensor(weight))
                _place(self, f"model.{PEFT}{name}.{adapter}").register_parameter("weight", parameter)

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
            self._model.parameters[adapter] = {name: _array(weight) for name, weight in own.items()}
        self._model.parameters[OWN] = {"memory": _array(self.memory), "mark": _array(self.mark)}
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

    def generate(
        self, readings: Sequence[Reading], adapter: str | None, *, most: int, ends: Sequence[int], pad: int
    ) -> list[list[int]]:
        """The ids that the model writes after each prompt, greedily, without what ends them."""
        read = [[part.detach().numpy() for part in own] for own in readings]
        with self._holding(adapter, [_array(own) for own in self._own(adapter)], None):
            return self._model.generate(read, adapter, most=most, ends=ends, pad=pad)

    def _own(self, adapter: str | None) -> list[nn.Parameter]:
        return [] if adapter is None else list(self._factors[adapter].values())

    def _called(
        self, call: Callable[[Sequence[mx.array]], Sequence[mx.array]], adapter: str | None, states: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """What a call gives for the adapter as it is, and for states."""
        if self.device.type != "cpu":
            raise ConfigError(f"MLX takes tensors of the CPU, not of {self.device}", "train with the device cpu")
        own = self._own(adapter)
        noisy = self.training and self._model.dropout > 0
        seed = int(torch.randint(2**31, ())) if noisy else None

        def whole(*arrays: mx.array) -> Sequence[mx.array]:
            with self._holding(adapter, arrays[: len(own)], seed):
                return call(arrays[len(own) :])

        found: tuple[Tensor, ...] = _Through.apply(whole, *own, *states)  # type: ignore[no-untyped-call]
        return found

    @contextmanager
    def _holding(self, adapter: str | None, factors: Sequence[mx.array], seed: int | None) -> Iterator[None]:
        """Inside the block the model has this adapter and no other parameters. With a seed it drops out."""
        model = self._model
        before = model.parameters, model.training
        model.parameters = {} if adapter is None else {adapter: dict(zip(self._factors[adapter], factors, strict=True))}
        model.training = seed is not None
        if seed is not None:
            mx.random.seed(seed)
        try:
            yield
        finally:
            model.parameters, model.training = before


class _Through(torch.autograd.Function):
    """A function of MLX arrays as one of torch tensors."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.call = call
        ctx.save_for_backward(*given)
        return tuple(_tensor(own) for own in call(*map(_array, given)))

    @staticmethod
    def backward(ctx: Any, *due: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        given, wanted = [_array(own) for own in ctx.saved_tensors], ctx.needs_input_grad[1:]
        places = [at for at, needed in enumerate(wanted) if needed]

        def of(*chosen: mx.array) -> Sequence[mx.array]:
            now: Mapping[int, mx.array] = dict(zip(places, chosen, strict=True))
            return list(ctx.call(*(now.get(at, own) for at, own in enumerate(given))))

        _, found = mx.vjp(of, [given[at] for at in places], [_array(own) for own in due])
        gradients = dict(zip(places, map(_tensor, found), strict=True))
        return None, *(gradients.get(at) for at in range(len(given)))


def _array(tensor: Tensor) -> mx.array:
    return mx.array(tensor.detach().numpy())


def _tensor(array: mx.array) -> Tensor:
    return torch.from_numpy(np.array(array))


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
