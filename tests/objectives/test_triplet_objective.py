"""Triplet: which documents count as negatives, what it reports, and how the random ones are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Objective
from lodesmith.objectives.triplet import Triplet

GENERATOR = torch.Generator().manual_seed(0)
MODES: tuple[Any, ...] = ("random", "mined", "batch_all", "batch_hard", "semi_hard")


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def made(**settings: Any) -> Triplet:
    return Triplet(nn.Identity(), **{"similarity": "dot", "margin": 1.0, **settings})


def crowded() -> dict[str, torch.Tensor]:
    return {
        "queries": rows(3, 4),
        "documents": rows(3, 4),
        "negatives": rows(3, 2, 4),
        "pool": rows(2, 4),
        "query_ids": torch.tensor([7, 8, 7]),
        "document_ids": torch.tensor([1, 2, 3]),
        "negative_ids": torch.tensor([[2, 4], [5, 1], [6, -1]]),
        "pool_ids": torch.tensor([9, 3]),
    }


KNOWN = np.array([[8, 5], [8, 9], [0, 4], [100, 1]])


def candidates(batch: dict[str, torch.Tensor]) -> list[list[torch.Tensor]]:
    """The true negatives of each row of `crowded`, by hand: 7 is asked twice; 8 knows 5 and 9; −1 is empty."""
    d, mined, pool = batch["documents"], batch["negatives"], batch["pool"]
    return [
        [d[1], mined[0, 0], mined[0, 1], mined[1, 0], mined[2, 0], pool[0], pool[1]],
        [d[0], d[2], mined[0, 1], mined[1, 1], mined[2, 0], pool[1]],
        [d[1], mined[0, 0], mined[0, 1], mined[1, 0], mined[1, 1], mined[2, 0], pool[0]],
    ]


def expected(batch: dict[str, torch.Tensor], lists: list[list[torch.Tensor]]) -> tuple[float, float]:
    """Mean loss and share of active triplets, by dot product with margin 1."""
    losses = [
        max(0.0, float(1 - q @ p + q @ n))
        for q, p, own in zip(batch["queries"], batch["documents"], lists, strict=True)
        for n in own
    ]
    return float(np.mean(losses)), float(np.mean([loss > 0 for loss in losses]))


def nearest(batch: dict[str, torch.Tensor]) -> list[list[torch.Tensor]]:
    pairs = zip(batch["queries"], candidates(batch), strict=True)
    return [[max(own, key=lambda n: float(q @ n))] for q, own in pairs]


def test_all_candidates_but_known_positives_and_duplicates() -> None:
    batch = crowded()
    terms = made(negatives="batch_all", known=KNOWN)(batch)
    loss, active = expected(batch, candidates(batch))
    assert terms["triplet"].item() == pytest.approx(loss, rel=1e-5)
    assert terms["active"].item() == pytest.approx(active)


def test_the_hardest_candidate() -> None:
    batch = crowded()
    loss, active = expected(batch, nearest(batch))
    terms = made(negatives="batch_hard", known=KNOWN)(batch)
    assert terms["triplet"].item() == pytest.approx(loss, rel=1e-5)
    assert terms["active"].item() == pytest.approx(active)


def test_mined_negatives_are_those_of_the_row() -> None:
    batch = crowded()
    mined = batch["negatives"]
    own = [[mined[0, 0], mined[0, 1]], [mined[1, 1]], [mined[2, 0]]]  # 8 knows 5; −1 is empty
    assert made(negatives="mined", known=KNOWN)(batch)["triplet"].item() == pytest.approx(expected(batch, own)[0])
    del batch["negatives"]
    with pytest.raises(InputError, match="no mined negatives"):
        made(negatives="mined")(batch)


def test_random_negatives_come_from_the_pool_or_else_from_the_other_rows() -> None:
    batch = crowded()
    q, d, pool = batch["queries"], batch["documents"], batch["pool"]
    objective = made(negatives="random", known=KNOWN)

    def seen() -> set[float]:
        return {round(objective(batch)["triplet"].item(), 4) for _ in range(60)}

    def possible(lists: list[list[torch.Tensor]]) -> set[float]:
        return {round(expected(batch, [[a], [b], [c]])[0], 4) for a in lists[0] for b in lists[1] for c in lists[2]}

    assert seen() == possible([[pool[0], pool[1]], [pool[1]], [pool[0]]])  # 3 is a positive of 7, and 8 knows 9
    del batch["pool"], batch["pool_ids"], batch["negatives"]
    assert len(q) == 3
    assert seen() == possible([[d[1]], [d[0], d[2]], [d[1]]])


def test_random_negatives_are_drawn_evenly_and_again_after_a_seed() -> None:
    points = torch.eye(8)
    batch = {"queries": points, "documents": points, "query_ids": torch.arange(8), "document_ids": torch.arange(8)}
    objective = Triplet(nn.Identity(), similarity="dot", negatives="random")
    torch.manual_seed(3)
    counts = torch.zeros(8, 8)
    for _ in range(1400):
        scored = objective._compare(batch, objective.encoder, None, training=True)
        counts[torch.arange(8), objective._draw(scored, ~scored.mask, scored.columns.ids)[:, 0]] += 1
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(8, dtype=torch.bool)]
    assert ((others - 200).square() / 200).sum() < 110  # chi-square with 48 degrees: 1 in a million is above 107

    def draws() -> list[float]:
        torch.manual_seed(5)
        return [made(negatives="random")(crowd)["triplet"].item() for _ in range(8)]

    crowd = crowded()
    assert draws() == draws()
    assert len(set(draws())) > 1


def test_validation_draws_the_same_and_leaves_the_generator_alone() -> None:
    batch, objective = crowded(), made(negatives="random").eval()
    before = torch.get_rng_state()
    assert len({objective(batch)["triplet"].item() for _ in range(5)}) == 1
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("negatives", MODES)
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_collapse_gives_the_margin(negatives: Any, similarity: Any) -> None:
    class Constant(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * 0)

    objective = Triplet(Constant(4, 4), similarity=similarity, margin=0.25, negatives=negatives)
    terms = objective(crowded())
    assert terms["triplet"].item() == pytest.approx(0.25, abs=1e-6)
    assert objective.chance == {"triplet": 0.25}
    assert terms["active"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("negatives", MODES)
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_edges_give_numbers_and_gradients(negatives: Any, similarity: Any) -> None:
    layer = nn.Linear(4, 4, bias=False)
    objective = Triplet(layer, similarity=similarity, negatives=negatives)
    one = {"queries": rows(1, 4), "documents": rows(1, 4), "negatives": rows(1, 0, 4)}
    zero = {"queries": torch.zeros(3, 4), "documents": torch.zeros(3, 4), "negatives": torch.zeros(3, 1, 4)}
    same = {"queries": rows(3, 4), "documents": rows(3, 4), "negatives": rows(3, 1, 4)}
    same |= {"document_ids": torch.full((3,), 5), "negative_ids": torch.full((3, 1), 5)}
    none = {"queries": rows(0, 4), "documents": rows(0, 4), "negatives": rows(0, 2, 4)}
    for batch, loss in ((one, 0.0), (zero, 0.2), (same, 0.0), (none, 0.0)):
        layer.zero_grad()
        terms = objective(batch)
        terms["triplet"].backward()
        assert terms["triplet"].item() == pytest.approx(loss)
        assert torch.isfinite(terms["active"])
        assert torch.isfinite(layer.weight.grad).all()


def test_easy_triplets_can_be_left_out_of_the_mean() -> None:
    points = torch.eye(4)
    batch = {"queries": points, "documents": points.clone()}
    batch["documents"][0] = points[1]  # the second query finds the first document as near as its own
    every = made(negatives="batch_all", margin=0.5)(batch)
    active = made(negatives="batch_all", margin=0.5, active_only=True)(batch)
    assert every["active"].item() == pytest.approx(4 / 12)  # all of the first row, one of the second
    assert every["triplet"].item() == pytest.approx(4 * 0.5 / 12)
    assert active["triplet"].item() == pytest.approx(0.5)


def test_it_is_an_objective_with_nothing_but_its_encoders_in_its_state() -> None:
    objective: Objective = Triplet(nn.Linear(2, 2), known=np.array([[0, 1]]))
    assert objective.weights == {"triplet": 1.0, "active": 0.0}
    assert isinstance(objective, nn.Module)
    assert list(objective.state_dict()) == ["encoder.weight", "encoder.bias"]


@pytest.mark.parametrize("settings", [{"margin": 0}, {"similarity": "cosin"}, {"negatives": "hard"}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        made(**settings)
