"""A tower of a few lines, and packed texts for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class Bag(nn.Module):
    """The mean of a text's word vectors, and a linear layer."""

    def __init__(self, words: int = 50, width: int = 6) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, width, mode="mean", include_last_offset=True)
        self.layer = nn.Linear(width, width)
        self.calls = 0

    def forward(self, packed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[n, width]."""
        self.calls += 1
        vectors: torch.Tensor = self.layer(self.words(packed["ids"], packed["offsets"]))
        return vectors


def pack(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Token ids of texts → `ids` and `offsets`."""
    lengths = torch.tensor([0, *map(len, texts)])
    return {"ids": torch.tensor([i for t in texts for i in t], dtype=torch.int64), "offsets": lengths.cumsum(0)}


def words(n: int, generator: torch.Generator, vocabulary: int = 50) -> list[list[int]]:
    """Texts of 1 to 7 words."""
    lengths = torch.randint(1, 8, (n,), generator=generator).tolist()
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
