"""Gradient caching: a batch of any size in the memory of a few texts (Gao et al. 2021, arXiv 2101.06983).

All texts are encoded without keeping what the backward pass needs; the loss is that of the whole batch of vectors; and
with the gradients of the vectors the texts are encoded once more, a few at a time and with the same random numbers, so
that the gradients of the weights are those of the batch at once. It costs a second forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lodesmith.objectives._folded import affine
from lodesmith.objectives._parts import count, join, split

__all__ = ["Cached", "cached"]

_ENCODERS = ("encoder", "document_encoder")


def cached(modules: Mapping[str, nn.Module | None], chunk: int | None) -> dict[str, nn.Module | None]:
    """What an objective gets, with its encoders encoding `chunk` items at a time; unchanged where that is None."""
    if chunk is None:
        return dict(modules)
    return {
        name: Cached(module, chunk) if name in _ENCODERS and module is not None else module
        for name, module in modules.items()
    }


class Cached(nn.Module):
    """An encoder that keeps what a few items need, however many it is given.

    It has the encoder's own parameters and children under the encoder's own names, so that patterns over parameter
    names fit as without it. Under several processes the gradients are exchanged once, as without it.

    Args:
        encoder: rows [n, d], packed or padded texts → vectors [n, e].
        chunk: items at a time.
    """

    def __init__(self, encoder: nn.Module, chunk: int) -> None:
        super().__init__()
        self._encode = (encoder,)  # no child: its parameters would get other names
        self.chunk = chunk
        self._modules, self._parameters, self._buffers = encoder._modules, encoder._parameters, encoder._buffers
        self._non_persistent_buffers_set = encoder._non_persistent_buffers_set

    def train(self, mode: bool = True) -> Cached:
        """Training mode, of the encoder too."""
        self._encode[0].train(mode)
        self.training = mode
        return self

    def affine(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A [e, d] and b [e] where the encoder is x → Ax + b; None where it is not."""
        return affine(self._encode[0])

    def forward(self, part: Any) -> Any:
        """What the encoder makes of the items: [n, e]."""
        encoder, items = self._encode[0], count(part)
        if not torch.is_grad_enabled() or items <= self.chunk:
            return encoder(part)
        sizes = [min(self.chunk, items - start) for start in range(0, items, self.chunk)]
        return join([checkpoint(encoder, piece, use_reentrant=False) for piece in _pieces(part, sizes)])


def _pieces(part: Any, sizes: list[int]) -> list[Any]:
    """The part as parts of so many items."""
    if isinstance(part, torch.Tensor) or "offsets" in part:
        return split(part, sizes)
    columns = {name: torch.split(values, sizes) for name, values in part.items()}
    return [{name: values[at] for name, values in columns.items()} for at in range(len(sizes))]
