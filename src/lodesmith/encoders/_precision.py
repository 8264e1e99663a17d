"""bfloat16 where the processor multiplies it in hardware, as far as the vectors stay those of float32.

Two ways are tried when a model is loaded, the faster first, and each is measured on check texts: the whole transformer
in bfloat16, or its linear layers alone, with embeddings, norms and the residual stream in float32.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError
from lodesmith.similarity import _machine

__all__ = ["apply", "multiplies_bfloat16"]

_log = logging.getLogger(__name__)

COSINE = 0.9999
"""What bfloat16 vectors must keep to those of float32."""
MARGIN = 0.5
"""Share of the allowed 1 − cosine that is left unused on the check texts, since other texts scatter around them."""


class Checked(Protocol):
    """An encoder whose precision can be chosen."""

    source: str
    model: Any

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def check_vectors(self) -> Tensor:
        """The vectors of its check texts as it makes them now, [n, d]."""
        ...


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 matrix instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _machine.multiplies_bfloat16()


def apply(encoder: Checked, wanted: str, reference: Tensor) -> str:
    """Set up an encoder's precision.

    Args:
        encoder: in float32.
        wanted: `auto`, `float32` or `bfloat16`.
        reference: float32 vectors of the encoder's check texts.

    Returns:
        What it is now: `float32`, `bfloat16` or `bfloat16-linear`; of an exported model, what it was exported to.

    Raises:
        ConfigError: there is no such precision, or bfloat16 was asked for and misses the cosine.
    """
    if wanted not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"no precision is called {wanted!r}", "choose auto, float32 or bfloat16")
    if exported := getattr(encoder.model, "exported", None):
        if wanted == "bfloat16":
            raise ConfigError(f"the model is exported to {exported}, which has a precision of its own", "leave it out")
        return str(exported)
    transformer = encoder.model.transformers_model
    if wanted == "float32" or (wanted == "auto" and not multiplies_bfloat16(encoder.device)) or transformer is None:
        return "float32"
    weights = [(parameter, parameter.data) for parameter in transformer.parameters()]
    worst = -1.0
    for name, change in (("bfloat16", _whole), ("bfloat16-linear", _linear)):
        hooks = [*change(transformer), encoder.model[0].register_forward_hook(_float_features)]
        worst = _worst_cosine(encoder, reference)
        if 1 - worst <= (1 - COSINE) * (1 - MARGIN):
            _log.info("%s: %s, cosine to float32 at least %.6f on the check texts", encoder.source, name, worst)
            return name
        for hook in hooks:
            hook.remove()
        for parameter, data in weights:
            parameter.data = data
    if wanted == "bfloat16":
        raise ConfigError(f"in bfloat16 this model keeps a cosine of {worst:.5f} only", "choose precision auto")
    _log.info("%s: float32, since bfloat16 keeps a cosine of %.5f only", encoder.source, worst)
    return "float32"


def _worst_cosine(encoder: Checked, reference: Tensor) -> float:
    try:
        found = encoder.check_vectors()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # a model that mixes types in code of its own
        _log.info("%s: no bfloat16: %s", encoder.source, error)
        return -1.0
    return float(torch.cosine_similarity(found.double(), reference.double()).min())


def _whole(transformer: nn.Module) -> list[Any]:
    """All parameters; buffers such as rotary frequencies stay as they are."""
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return []


def _linear(transformer: nn.Module) -> list[Any]:
    """Linear layers alone: what comes in is rounded, and promotion makes sums with the residual stream float32."""
    layers = [module for module in transformer.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    rounded = _Rounded()
    return [layer.register_forward_pre_hook(rounded) for layer in layers]


class _Rounded:
    """A forward pre-hook to bfloat16. Query, key and value layers read one tensor: it is rounded once."""

    def __init__(self) -> None:
        self.last: tuple[Tensor, Tensor] | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if inputs[0].dtype == torch.bfloat16:
            return inputs
        last = self.last  # another thread may run another batch through the layer meanwhile
        if last is None or last[0] is not inputs[0]:
            self.last = last = (inputs[0], inputs[0].to(torch.bfloat16))
        return (last[1], *inputs[1:])


def _float_features(_: nn.Module, __: Any, features: dict[str, Any]) -> dict[str, Any]:
    """What the pooling and all later modules get is float32."""
    return {
        name: value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
        for name, value in features.items()
    }
