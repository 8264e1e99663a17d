"""The terms beside an objective's own: what they are of, what they weigh, and when."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.gaussianity import knots_of
from lodesmith.core.registry import find
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.triplet import Triplet
from lodesmith.recipes.train import plan

KINDS = (Contrast, Triplet)
LOSSES: dict[str, dict[str, Any]] = {
    "sigreg": {"directions": 16, "knots": 9, "reach": 4.0},
    "covariance": {"variance": 2.0, "mean_weight": 0.5},
    "uniformity": {"scale": 1.0},
    "gor": {"rounds": 2},
}
WEIGHED: dict[str, Any] = {"sigreg": {"weight": 0.1, "directions": 16}}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(n: int = 6) -> dict[str, torch.Tensor]:
    """Each text once, the ids in order."""
    return {
        "queries": rows(n, 4),
        "documents": rows(n, 4, seed=1),
        "query_ids": torch.arange(n),
        "document_ids": torch.arange(n) + 3,
    }


def own(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without those of the objective itself."""
    return {name: value for name, value in terms.items() if name not in ("infonce", "triplet", "active")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("similarity", "of", "unit"), [("cosine", None, True), ("dot", None, False), ("cosine", "raw", False)]
)
def test_a_term_is_the_loss_of_all_queries_and_documents(
    kind: Any, name: str, similarity: str, of: Any, unit: bool
) -> None:
    layer, some = nn.Linear(4, 3), batch()
    objective = kind(layer, similarity=similarity, seed=5, **{name: {"weight": 0.3, "of": of, **LOSSES[name]}})
    vectors = layer(torch.cat([some["queries"], some["documents"]]))
    if unit:
        vectors = vectors / vectors.norm(dim=1, keepdim=True) * math.sqrt(3)
    for step in range(2):
        drawn = {"seed": 5, "step": step} if name in ("sigreg", "gor") else {}
        expected = find("losses", name)(vectors, **LOSSES[name], **drawn)
        found = objective(some)[name]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        gradients = [torch.autograd.grad(value, layer.weight, retain_graph=True)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert objective.weights[name] == 0.3


def test_each_side_has_its_own_encoder() -> None:
    asked, told, some = nn.Linear(4, 3), nn.Linear(4, 3), batch()
    objective = Contrast(asked, told, similarity="dot", covariance={"weight": 1})
    expected = find("losses", "covariance")(torch.cat([asked(some["queries"]), told(some["documents"])]))
    torch.testing.assert_close(objective(some)["covariance"], expected)


def test_negatives_and_the_pool_are_left_out() -> None:
    some, objective = batch(), Contrast(nn.Identity(), **WEIGHED)
    alone = Contrast(nn.Identity(), **WEIGHED)(some)["sigreg"]
    more = {"negatives": rows(6, 2, 4, seed=2), "pool": rows(5, 4, seed=3)}
    assert torch.equal(objective({**some, **more})["sigreg"], alone)


@pytest.mark.parametrize("negatives", ["own", "corpus"])
def test_the_term_is_the_same_whatever_the_negatives_are(negatives: Any) -> None:
    class Stored:
        ids, dimension = torch.arange(12), 4

        def block(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
            return rows(12, 4, seed=4)[start:stop].to(device)

    some = {**batch(), "negatives": rows(6, 2, 4, seed=2)}
    given = {**some, "corpus": Stored()} if negatives == "corpus" else some
    found = Contrast(nn.Identity(), negatives=negatives, **WEIGHED)(given)
    expected = Contrast(nn.Identity(), **WEIGHED)(some)
    assert torch.equal(found["sigreg"], expected["sigreg"])
    assert not torch.equal(found["infonce"], expected["infonce"])


def test_a_text_that_is_there_twice_counts_once() -> None:
    some = batch(4)
    again = {name: torch.cat([value, value[:2]]) for name, value in some.items()}
    again["documents"][-1], again["document_ids"][-1] = rows(4, seed=9), 30
    found = Contrast(nn.Identity(), similarity="dot", **WEIGHED)(again)["sigreg"]
    distinct = torch.cat([some["queries"], some["documents"], again["documents"][-1:]])
    torch.testing.assert_close(found, find("losses", "sigreg")(distinct, directions=16))
    for name in ("query_ids", "document_ids"):
        del again[name]
    every = Contrast(nn.Identity(), similarity="dot", **WEIGHED)(again)["sigreg"]
    expected = find("losses", "sigreg")(torch.cat([again["queries"], again["documents"]]), directions=16)
    torch.testing.assert_close(every, expected)


def test_directions_are_drawn_by_seed_and_step() -> None:
    some = batch()

    def values(seed: int) -> list[float]:
        objective = Contrast(nn.Identity(), seed=seed, **WEIGHED)
        return [objective(some)["sigreg"].item() for _ in range(3)]

    assert values(1) == values(1)
    assert len({*values(1), *values(2)}) == 6


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 0.775, 0.55, 0.325, 0.1, 0.1]),
        ("cosine", [1.0, 1 - 0.9 * (1 - math.cos(math.pi / 4)) / 2, 0.55, 0.1 + 0.9 * 0.1464466, 0.1, 0.1]),
    ],
)
def test_a_weight_follows_its_schedule_in_place(schedule: str, expected: list[float]) -> None:
    objective = Contrast(nn.Identity(), sigreg={"weight": 0.1, "begin": 1.0, "steps": 4, "schedule": schedule})
    weights, found = objective.weights, []
    for _ in expected:
        objective(batch())
        found.append(weights["sigreg"])
    assert weights is objective.weights
    assert found == pytest.approx(expected)
    assert found[-1] == 0.1
    assert int(objective.state_dict()["regularisers.step"]) == 6


def test_a_weight_that_begins_at_0_gives_its_term_all_the_same() -> None:
    objective = Contrast(nn.Identity(), sigreg={"weight": 0.1, "begin": 0, "steps": 2})
    assert objective(batch()).keys() == objective(batch()).keys() == {"infonce", "sigreg"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_0_is_the_objective_without(kind: Any) -> None:
    some, layer = batch(), nn.Linear(4, 3)
    off = kind(layer, sigreg={"weight": 0}, gor={"weight": 0, "begin": 0, "steps": 3}, prediction={"weight": 0})
    plain = kind(layer)
    found, expected = off(some), plain(some)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert off.weights == plain.weights
    assert off.state_dict().keys() == plain.state_dict().keys()
    assert off.evidence.keys() == plain.evidence.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_validation_has_none_of_them(kind: Any) -> None:
    objective = kind(nn.Identity(), predictor=nn.Linear(4, 4), **WEIGHED).eval()
    assert not own(objective(batch()))
    assert int(objective.regularisers.step) == 0
    assert own(objective.train()(batch())).keys() == {"sigreg", "prediction"}
    assert int(objective.regularisers.step) == 1


def test_the_floor_is_told() -> None:
    objective = Contrast(nn.Identity(), sigreg={"weight": 0.1, "knots": 9}, gor={"weight": 1})
    assert not objective.evidence
    objective(batch())
    assert float(objective.evidence["sigreg_floor"]) == pytest.approx(knots_of(9).floor)
    assert "gor_floor" not in objective.evidence
    objective = Contrast(nn.Identity(), **WEIGHED)
    objective(batch())
    assert float(objective.evidence["sigreg_floor"]) == pytest.approx(1.052, abs=1e-3)


# ------------------------------------------------------------------------ the prediction


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_documents_are_predicted_from_queries(kind: Any, similarity: str) -> None:
    some, predictor = batch(), nn.Linear(3, 3)
    asked, told = nn.Linear(4, 3), nn.Linear(4, 3)
    objective = kind(asked, told, similarity=similarity, predictor=predictor)
    found = objective(some)["prediction"]
    p, d = predictor(asked(some["queries"])), told(some["documents"])
    apart = 1 - (p * d).sum(1) / p.norm(dim=1) / d.norm(dim=1) if similarity == "cosine" else (p - d).square().mean(1)
    torch.testing.assert_close(found, apart.mean())
    assert objective.weights["prediction"] == 1.0
    found.backward()
    assert all(module.weight.grad.abs().sum() > 0 for module in (predictor, asked, told))
    assert "predictor.weight" in dict(objective.named_parameters())


def test_a_prediction_may_have_another_weight_and_a_schedule() -> None:
    settings = {"weight": 0.5, "begin": 2.0, "steps": 1}
    objective = Contrast(nn.Identity(), predictor=nn.Identity(), prediction=settings)
    assert objective.weights["prediction"] == 2.0
    for _ in range(2):
        objective(batch())
    assert objective.weights["prediction"] == 0.5
    off = Contrast(nn.Identity(), predictor=nn.Linear(4, 4), prediction={"weight": 0})
    assert not list(off.parameters())
    assert "prediction" not in off(batch())


def test_a_prediction_without_a_predictor_is_refused_when_it_trains() -> None:
    objective = Contrast(nn.Identity(), prediction={"weight": 1})
    assert not own(objective.eval()(batch()))
    with pytest.raises(ConfigError, match="needs a predictor"):
        objective.train()(batch())


# ------------------------------------------------------------------------ what is refused

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sigreg": {"weight": -1}}, "weight: Input should be greater"),
    ({"sigreg": {}}, "weight: Field required"),
    ({"sigreg": {"weight": float("inf")}}, "finite"),
    ({"sigreg": {"weight": 1, "direction": 8}}, "did you mean 'directions'"),
    ({"sigreg": {"weight": 1, "seed": 8}}, "unknown setting 'seed'"),
    ({"sigreg": {"weight": 1, "directions": 0}}, "0 directions"),
    ({"sigreg": {"weight": 1, "knots": "many"}}, "'str'"),
    ({"sigreg": {"weight": "0.1"}}, "valid number"),
    ({"gor": {"weight": True}}, "valid number"),
    ({"covariance": {"weight": 1, "of": "both"}}, "'unit' or 'raw'"),
    ({"gor": {"weight": 1, "steps": 3}}, "begin is None and steps 3"),
    ({"uniformity": {"weight": 1, "scale": 0}}, "scale must be above 0"),
    ({"prediction": {"weight": 1, "of": "unit"}}, "unknown setting 'of'"),
]


@pytest.mark.parametrize("kind", [Contrast, Triplet])
def test_an_unknown_argument_is_an_error_as_of_any_function(kind: Any) -> None:
    with pytest.raises(TypeError, match="sigregg"):
        kind(nn.Identity(), sigregg={"weight": 1})


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Contrast(nn.Identity(), **settings)
    assert message in str(caught.value)
    assert str(caught.value).startswith(next(iter(settings)))


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_a_recipe_is_refused_before_anything_is_loaded(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    name, given = next(iter(settings.items()))
    overrides = {"data": str(tmp_path / "nowhere"), f"stages.0.objective.{name}": given}
    with pytest.raises(ConfigError) as caught:
        plan("isotropic", overrides, out=tmp_path / "run")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"stages.0.objective.{name}")


def test_a_recipe_with_a_prediction_needs_a_predictor(tmp_path: Path) -> None:
    overrides = {"data": str(tmp_path / "nowhere"), "stages.0.objective.prediction.weight": 1}
    with pytest.raises(ConfigError, match="there is no predictor"):
        plan("isotropic", overrides, out=tmp_path / "run")
    with pytest.raises(InputError, match="no such dataset folder"):
        plan("isotropic", {**overrides, "encoder.predictor": True}, out=tmp_path / "run")


def test_texts_of_several_vectors_are_refused() -> None:
    class Several(nn.Module):
        def forward(self, part: torch.Tensor) -> torch.Tensor:
            return part[:, None, :]

    objective = Contrast(Several(), **WEIGHED)
    objective._compare.similarity = lambda q, d: q[:, 0] @ d[:, 0].T
    with pytest.raises(InputError, match="several vectors"):
        objective(batch())
