"""Contrast over vectors that may be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lodesmith.core.errors import ConfigError
from lodesmith.objectives.contrast import Contrast


def batch(n: int = 6, d: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(n, d, generator=generator) for name in ("queries", "documents")}
    return made | {"query_ids": torch.arange(n), "document_ids": torch.tensor([0, 1, 2, 3, 4, 0])}


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_the_loss_is_the_mean_over_the_beginnings(similarity: Any) -> None:
    whole = batch()
    found = Contrast(nn.Identity(), similarity=similarity, dimensions=(2, 4))(whole)["infonce"]
    parts = []
    for number in (8, 2, 4):
        cut = {name: part[:, :number] if part.ndim == 2 else part for name, part in whole.items()}
        parts.append(Contrast(nn.Identity(), similarity=similarity)(cut)["infonce"])
    torch.testing.assert_close(found, torch.stack(parts).mean())


def test_training_for_a_beginning_makes_it_rank() -> None:
    data = batch(24, 16)
    data["document_ids"] = torch.arange(24)
    reached = {}
    for dimensions in ((), (2,)):
        torch.manual_seed(1)
        encoder = nn.Linear(16, 16)
        objective = Contrast(encoder, temperature=0.1, dimensions=dimensions)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            objective(data)["infonce"].backward()
            optimizer.step()
        cut = [encoder(data[name])[:, :2].detach() for name in ("queries", "documents")]
        scores = nn.functional.normalize(cut[0], dim=1) @ nn.functional.normalize(cut[1], dim=1).T
        reached[dimensions] = float((scores.argmax(1) == torch.arange(24)).float().mean())
    assert reached[(2,)] > reached[()]


@pytest.mark.parametrize(
    "settings",
    [{"dimensions": (0,)}, {"dimensions": (2,), "symmetric": True}, {"dimensions": (2,), "negatives": "corpus"}],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="are numbers from 1"):
        Contrast(nn.Identity(), **settings)


def test_more_components_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="8 dimensions have no first 9"):
        Contrast(nn.Identity(), dimensions=(9,))(batch())
