"""What the tests of memory models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lodesmith.encoders import MemoryEncoder
from lodesmith.encoders._memory_model import ADAPTERS

pytestmark = pytest.mark.usefixtures("cache")
SIZES: dict[str, Any] = {"rate": 8, "document_length": 32}
TEXTS = ["the cat eats apples", "", "a dog likes music and the moon . " * 3, "owl", "the whale fears thunder"]
QUESTIONS = ["what does the cat eats ?", "who likes music and the moon in the barn ?", "owl"]


def stir(encoder: MemoryEncoder, *adapters: str, seed: int = 0) -> MemoryEncoder:
    """As if these adapters had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in adapters or ADAPTERS:
            for weight in encoder.model.weights(adapter).values():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return encoder


def plain(folder: Path) -> Any:
    """The language model of transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def packed(parts: list[Tensor]) -> dict[str, Tensor]:
    offsets = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)
    return {"ids": torch.cat(parts), "offsets": offsets}


def memory(encoder: MemoryEncoder, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return encoder.encode(texts).values.reshape(len(texts), encoder.count, encoder.dimension)


def row_of(model: Any, parts: list[Tensor]) -> Tensor:
    """What a model reads of a prompt's parts: words' vectors, and states' directions from the mean of these."""
    words = model.get_input_embeddings()
    with torch.no_grad():
        every = words(torch.arange(len(words.weight)))
    mean = every.mean(0)
    far = 0.3 * (every - mean).norm(dim=1).mean()
    return torch.cat(
        [
            mean + part / part.norm(dim=1, keepdim=True) * far if part.is_floating_point() else words(part)
            for part in parts
        ]
    )
