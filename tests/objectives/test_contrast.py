"""Contrast: which documents count as negatives, and how they are compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Objective
from lodesmith.objectives.contrast import Contrast

GENERATOR = torch.Generator().manual_seed(0)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def expected(queries: torch.Tensor, candidates: list[list[torch.Tensor]], temperature: float = 1.0) -> float:
    """Mean of −log softmax of the first candidate of each query, by dot product."""
    losses = []
    for query, own in zip(queries, candidates, strict=True):
        scores = torch.stack([query @ c for c in own]) / temperature
        losses.append(torch.logsumexp(scores, 0) - scores[0])
    return float(torch.stack(losses).mean())


def contrast(**settings: Any) -> Contrast:
    return Contrast(nn.Identity(), **{"similarity": "dot", "temperature": 1.0, **settings})


def test_the_documents_of_the_other_rows_are_negatives() -> None:
    q, d = rows(3, 4), rows(3, 4)
    terms = contrast()({"queries": q, "documents": d})
    candidates = [[d[i], *(d[j] for j in range(3) if j != i)] for i in range(3)]
    assert list(terms) == ["infonce"]
    assert terms["infonce"].item() == pytest.approx(expected(q, candidates), rel=1e-5)


def test_known_positives_and_duplicates_are_no_negatives() -> None:
    q, d, mined, pool = rows(3, 4), rows(3, 4), rows(3, 2, 4), rows(2, 4)
    batch = {
        "queries": q,
        "documents": d,
        "negatives": mined,
        "pool": pool,
        "query_ids": ids(7, 8, 7),
        "document_ids": ids(1, 2, 3),
        "negative_ids": torch.tensor([[2, 4], [5, 1], [6, -1]]),
        "pool_ids": ids(9, 3),
    }
    known = np.array([[8, 5], [8, 9], [0, 4], [100, 1]])
    found = contrast(known=known)(batch)["infonce"].item()
    # 7 is asked twice: documents 1 and 3 are no negatives of each other's row, wherever 1 and 3 stand among the
    # documents; 8 knows 5 and 9; −1 is empty; a copy of the positive is left out.
    first = [d[0], d[1], mined[0, 0], mined[0, 1], mined[1, 0], mined[2, 0], pool[0], pool[1]]
    second = [d[1], d[0], d[2], mined[0, 1], mined[1, 1], mined[2, 0], pool[1]]
    third = [d[2], d[1], mined[0, 0], mined[0, 1], mined[1, 0], mined[1, 1], mined[2, 0], pool[0]]
    assert found == pytest.approx(expected(q, [first, second, third]), rel=1e-5)


def test_own_negatives_leave_out_the_other_rows() -> None:
    q, d, mined, pool = rows(2, 4), rows(2, 4), rows(2, 3, 4), rows(1, 4)
    batch = {"queries": q, "documents": d, "negatives": mined, "pool": pool}
    objective = contrast(negatives="own")
    found = objective(batch)["infonce"].item()
    assert found == pytest.approx(expected(q, [[d[i], *mined[i], pool[0]] for i in range(2)]), rel=1e-5)
    assert objective.chance["infonce"] == pytest.approx(math.log(5))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_the_best_possible_vectors_have_the_lowest_loss(similarity: Any) -> None:
    points = torch.eye(4) * 3
    objective = Contrast(nn.Identity(), similarity=similarity, temperature=0.1)
    right = objective({"queries": points, "documents": points})["infonce"]
    wrong = objective({"queries": points, "documents": points.roll(1, 0)})["infonce"]
    assert right < 1e-3 < wrong
    shifted = objective({"queries": points, "documents": points * 2})["infonce"]
    if similarity == "cosine":
        assert shifted == pytest.approx(right.item(), abs=1e-7)


def test_temperature_and_chance() -> None:
    q, d = rows(3, 4), rows(3, 4)
    objective = contrast(temperature=0.5)
    cold = objective({"queries": q, "documents": d})["infonce"].item()
    assert cold == pytest.approx(contrast()({"queries": 2 * q, "documents": d})["infonce"].item(), rel=1e-5)
    assert objective.chance == {"infonce": pytest.approx(math.log(3))}
    flat = objective({"queries": 0 * q, "documents": d})["infonce"].item()
    assert flat == pytest.approx(objective.chance["infonce"])


def test_sides_share_an_encoder_or_have_their_own() -> None:
    batch = {"queries": rows(3, 4), "documents": rows(3, 4)}
    shared, own = nn.Linear(4, 2), nn.Linear(4, 2)
    both = Contrast(shared, own)
    both(batch)["infonce"].backward()
    assert shared.weight.grad is not None
    assert own.weight.grad is not None
    one = Contrast(shared)
    assert len(list(one.parameters())) == 2
    assert one(batch)["infonce"].item() == pytest.approx(Contrast(shared, shared)(batch)["infonce"].item(), rel=1e-5)


def test_it_is_an_objective_with_nothing_but_its_encoders_in_its_state() -> None:
    objective: Objective = Contrast(nn.Linear(2, 2), known=np.array([[0, 1]]))
    assert objective.weights == {"infonce": 1.0}
    assert isinstance(objective, nn.Module)
    assert list(objective.state_dict()) == ["encoder.weight", "encoder.bias"]


def test_edges_give_numbers() -> None:
    one = {"queries": rows(1, 4), "documents": rows(1, 4)}
    assert contrast()(one)["infonce"].item() == 0.0
    zero = {"queries": torch.zeros(2, 4), "documents": torch.zeros(2, 4)}
    layer = nn.Linear(4, 4, bias=False)
    loss = Contrast(layer)(zero)["infonce"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(layer.weight.grad).all()
    same = {"queries": rows(3, 4), "documents": rows(3, 4), "document_ids": ids(5, 5, 5)}
    assert contrast()(same)["infonce"].item() == 0.0


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"similarity": "cosin"}, {"negatives": "none"}, {"negatives": "own", "symmetric": True}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        contrast(**settings)


def test_wrong_batches_and_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="2 queries but 3 documents"):
        contrast()({"queries": rows(2, 4), "documents": rows(3, 4)})
    with pytest.raises(InputError, match="known must be"):
        contrast(known=np.array([1, 2, 3]))
