"""Linear layers in int8 with dynamic quantisation by row: no vector depends on the other texts of its batch.

Weights are rounded once, with a scale for each output. Activations are rounded as they come, each token with a scale of
its own (Dettmers et al. 2022, arXiv 2208.07339, section 2.1, vector-wise), around the middle of its range: activation
functions and outliers make rows lopsided. The table of word embeddings has a scale for each word.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from lodesmith.core.errors import ConfigError, IntegrityError

__all__ = ["Int8Embedding", "Int8Linear", "has_int8_products", "quantise", "restore"]

_STEPS = 127
_SMALLEST = 1e-12
_ROWS = 512
"""Rows multiplied at a time: what is between two passes stays in the cache of a core."""
_MARK = ".weight_int8"


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[n, d] → int8 [n, d] and scales [n]."""
    scale = weight.abs().amax(1).clamp_(min=_SMALLEST) / _STEPS
    return torch.round(weight / scale[:, None]).to(torch.int8), scale


class Int8Linear(nn.Module):
    """y = x Wᵀ + b, with W in int8.

    Args:
        weight: int8 [out, in].
        scale: of each output, [out].
        bias: [out], or None.
    """

    weight_int8: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight_int8", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self._sums = weight.sum(1, dtype=torch.int64).float() * scale  # what a row of ones gives
        self.out_features, self.in_features = weight.shape

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, in] → [… , out] in float32."""
        rows = inputs.reshape(-1, self.in_features)
        out = torch.empty(len(rows), self.out_features)
        for start in range(0, len(rows), _ROWS):
            self._block(rows[start : start + _ROWS], out[start : start + _ROWS])
        return out.view(*inputs.shape[:-1], self.out_features)

    def _block(self, rows: Tensor, out: Tensor) -> None:
        highest, lowest = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
        middle, half = (highest + lowest) / 2, ((highest - lowest) / 2).clamp_(min=_SMALLEST)
        steps = _STEPS / half
        codes = torch.addcmul(-middle * steps, rows, steps).round_()
        shift = middle * self._sums if self.bias is None else torch.addcmul(self.bias, middle, self._sums)
        torch.addcmul(shift, self._product(codes) * (half / _STEPS), self.scale, out=out)

    def _product(self, codes: Tensor) -> Tensor:
        """Whole numbers from -127 to 127, [n, in] → [n, out], by int8 instructions where the processor has them."""
        if has_int8_products():
            return torch._int_mm(codes.to(torch.int8), self.weight_int8.t())
        return linear(codes, self.weight_int8.float())

    def extra_repr(self) -> str:
        """The shape."""
        return f"{self.in_features}, {self.out_features}"


class Int8Embedding(nn.Module):
    """A table of vectors in int8, with a scale for each row.

    Args:
        weight: int8 [words, d].
        scale: of each word, [words].
    """

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_int8", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape → float32 […, d]."""
        return embedding(ids, self.weight_int8).float() * self.scale[ids].unsqueeze(-1)


@cache
def has_int8_products() -> bool:
    """Whether the processor multiplies int8 in hardware; torch does it in plain loops elsewhere."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def quantise(transformer: nn.Module) -> None:
    """Put int8 layers in the place of a transformer's linear layers and of its table of word embeddings.

    Args:
        transformer: on the CPU, in float32; it is changed.

    Raises:
        ConfigError: it has no linear layers.
    """
    layers = {name: layer for name, layer in transformer.named_modules() if type(layer) is nn.Linear}
    if not layers:
        raise ConfigError("the transformer has no linear layers to keep in int8", "export it to onnx")
    for name, layer in layers.items():
        bias = None if layer.bias is None else layer.bias.detach()
        transformer.set_submodule(name, Int8Linear(*_rounded(layer.weight.detach()), bias))
    words = transformer.get_input_embeddings()  # type: ignore[operator]
    name = next((name for name, module in transformer.named_modules() if module is words), "")
    if type(words) is nn.Embedding and words.max_norm is None:
        transformer.set_submodule(name, Int8Embedding(*_rounded(words.weight.detach())))


def restore(transformer: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Make a transformer of the same architecture the quantised one whose state was saved.

    Raises:
        IntegrityError: the state is that of another architecture.
    """
    try:
        for name in [key.removesuffix(_MARK) for key in state if key.endswith(_MARK)]:
            weight, scale = state[name + _MARK], state[name + ".scale"]
            if isinstance(transformer.get_submodule(name), nn.Embedding):
                transformer.set_submodule(name, Int8Embedding(weight, scale))
            else:
                transformer.set_submodule(name, Int8Linear(weight, scale, state.get(name + ".bias")))
        transformer.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise IntegrityError(f"{file}: not the weights of this model: {reason}", "export the model again") from error
