"""What objectives say of their batches beside the loss, against figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.triplet import Triplet

Q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
D = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])


def said(
    queries: torch.Tensor = Q, documents: torch.Tensor = D, kind: Any = Contrast, **batch: Any
) -> dict[str, float]:
    objective = kind(nn.Identity())
    objective({"queries": queries, "documents": documents, **batch})
    return {name: float(value) for name, value in objective.evidence.items()}


@pytest.mark.parametrize("kind", [Contrast, Triplet])
def test_figures_by_hand(kind: Any) -> None:
    found = said(kind=kind)
    # cosines of neighbours: queries 0, .8, .6; documents .6, .8, 0
    assert found["spread"] == pytest.approx(1 - 1.4 / 3, abs=1e-6)
    # row 0: positive 1, negatives .6, 0; row 1: positive .8, negatives 0, 1; row 2: positive .8, negatives .6, 1
    assert found["rank"] == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert found["tied"] == 0


def test_the_tighter_side_counts() -> None:
    assert said(documents=torch.ones(3, 2))["spread"] == pytest.approx(0, abs=1e-6)
    assert said(queries=torch.ones(3, 2))["spread"] == pytest.approx(0, abs=1e-6)


def test_ties_count_half_and_masked_documents_do_not_count() -> None:
    same = torch.ones(3, 2)
    found = said(same, same)
    assert (found["rank"], found["tied"]) == (0.5, 1.0)
    ids = torch.tensor([7, 7, 8])
    assert said(Q, D[[0, 0, 2]])["tied"] == pytest.approx(2 / 3)
    masked = said(Q, D[[0, 0, 2]], document_ids=ids, query_ids=torch.tensor([1, 2, 3]))
    assert masked["tied"] == 0


def test_batches_that_cannot_tell_say_nothing() -> None:
    assert said(Q[:1], D[:1]) == {}
    alone = said(Q, D, document_ids=torch.zeros(3, dtype=torch.int64))
    assert set(alone) == {"spread"}
    assert Contrast(nn.Identity()).evidence == {}


def test_large_batches_are_sampled_and_validation_is_not_looked_at() -> None:
    torch.manual_seed(0)
    queries, documents = torch.randn(400, 8), torch.randn(400, 8)
    objective = Contrast(nn.Identity())
    objective({"queries": queries, "documents": documents})
    assert objective._sample is not None
    assert objective._sample.scores.shape == (64, 256)
    assert float(objective.evidence["rank"]) == pytest.approx(0.5, abs=4 * 0.29 / math.sqrt(64))
    before = objective._sample
    objective.eval()
    objective({"queries": queries, "documents": documents})
    assert objective._sample is before
    assert not any(tensor.requires_grad for tensor in (before.scores, *before.sides))
