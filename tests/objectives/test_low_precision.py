"""Under autocast the encoder computes in bfloat16; scores and losses do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lodesmith.objectives._candidates import Comparison
from lodesmith.objectives._corpus import Struck
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.triplet import Triplet

WIDTH, ROWS = 16, 12


class Corpus:
    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.ids, self.dimension = rows, torch.arange(len(rows)), rows.shape[1]

    def block(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        return self.rows[start:stop]


class Given(nn.Module):
    """Rows as they are, in bfloat16 under autocast, as a linear layer gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found = rows * self.scale
        return found.bfloat16() if torch.is_autocast_enabled("cpu") else found


def batch() -> dict[str, Any]:
    """Rows that bfloat16 holds exactly, so that nothing but the arithmetic on them can differ."""
    drawn = torch.randn(3, 40, WIDTH, generator=torch.Generator().manual_seed(5)).bfloat16().float()
    queries, documents, others = drawn
    return {
        "queries": queries[:ROWS],
        "documents": documents[:ROWS],
        "negatives": others[: 2 * ROWS].view(ROWS, 2, WIDTH),
        "negative_ids": torch.arange(50, 50 + 2 * ROWS).view(ROWS, 2),
        "pool": others[-6:],
        "query_ids": torch.arange(ROWS),
        "document_ids": torch.arange(ROWS),
        "corpus": Corpus(documents),
    }


OBJECTIVES: dict[str, Any] = {
    "contrast": (Contrast, {"temperature": 0.02}),
    "symmetric": (Contrast, {"temperature": 0.02, "symmetric": True}),
    "matryoshka": (Contrast, {"temperature": 0.02, "dimensions": (4,)}),
    "own": (Contrast, {"temperature": 0.02, "negatives": "own"}),
    "corpus": (Contrast, {"temperature": 0.02, "negatives": "corpus"}),
    "semi_hard": (Triplet, {"negatives": "semi_hard"}),
    "all": (Triplet, {"negatives": "batch_all"}),
    "mined": (Triplet, {"negatives": "mined"}),
}


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_those_of_single_precision(name: str, metric: Any) -> None:
    kind, settings = OBJECTIVES[name]
    found = []
    for enabled in (False, True):
        objective, given = kind(Given(), similarity=metric, **settings).train(), batch()
        leaves = [given[side].requires_grad_() for side in ("queries", "documents")]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective(given)["triplet" if kind is Triplet else "infonce"]
        assert loss.dtype == torch.float32
        found.append((loss.item(), torch.cat(torch.autograd.grad(loss, leaves))))
    (exact, gradient), (low, its) = found
    assert low == pytest.approx(exact, rel=1e-5)
    worst = (its - gradient).abs().max() / gradient.abs().max()
    assert worst < 1e-2, "gradients are rounded once, where they reach the rows in bfloat16"


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_corpus_s_own_layers_may_be_in_bfloat16_but_not_its_sums(name: str) -> None:
    torch.manual_seed(1)
    first = nn.Linear(WIDTH, WIDTH)
    encoder = first if name == "linear" else nn.Sequential(first, nn.GELU(), nn.Linear(WIDTH, WIDTH))
    objective, given = Contrast(encoder, negatives="corpus", temperature=0.05).train(), batch()
    exact = objective(given)["infonce"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(given)["infonce"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in encoder.parameters())


def test_what_is_struck_does_not_depend_on_precision() -> None:
    objective, given = Contrast(Given(), negatives="corpus", known=np.array([[0, 5]])), batch()
    places = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            scored = objective._compare(given, objective.encoder, None, training=True, local=True)
        places.append(Struck.of(scored, objective._compare.known, given["corpus"]).places.tolist())
        assert scored.scores.dtype == torch.float32
    assert places[0] == places[1]
    assert 5 in places[0]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_narrow_vectors_are_compared_in_single_precision(kind: torch.dtype) -> None:
    queries, documents = torch.full((1, 8), 300.0, dtype=kind), torch.full((1, 8), 300.0, dtype=kind)
    assert Comparison("dot", None, False).score(queries, documents).item() == 8 * queries[0, 0].item() ** 2
