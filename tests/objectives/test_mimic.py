"""Mimic: terms against their losses, what a batch must hold, and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from taught_batches import Taught
from torch import nn
from torch.nn.functional import normalize
from toy_towers import Bag, pack, words

from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.registry import find, parameters
from lodesmith.data.batching import PairBatches
from lodesmith.losses.kl import kl
from lodesmith.losses.margin_mse import margin_mse
from lodesmith.losses.relational import relational
from lodesmith.losses.relative import relative
from lodesmith.objectives._cached import Cached
from lodesmith.objectives._terms import SETTINGS, Terms
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.mimic import Mimic
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine

ALONE = {"mse": 0.4, "cosine": 0.6, "relational": 1.0, "relative": 1.0}
WIDE = {"infonce": 0.8, "kl": 1.0, "margin_mse": 1.0, "relational": 1.0, "relative": 1.0}
"""Terms for which student and teacher need not have one dimension."""


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(n: int = 6, d: int = 4, t: int = 4) -> dict[str, torch.Tensor]:
    """Stored rows; query 2 lacks a mined document, and one of query 0's is a known positive's copy."""
    ids = torch.arange(2 * n).reshape(n, 2) + 30
    ids[2] = -1
    ids[0, 1] = 3  # row 0's own positive
    made = {"queries": rows(n, d), "documents": rows(n, d, seed=1), "negatives": rows(n, 2, d, seed=2)}
    made |= {"query_targets": rows(n, t, seed=3), "document_targets": rows(n, t, seed=4)}
    made |= {"negative_targets": rows(n, 2, t, seed=5), "negative_ids": ids}
    return made | {"query_ids": torch.arange(n), "document_ids": torch.arange(n) + 3}


def packed() -> dict[str, Any]:
    """Texts of `Bag`, whose vectors have 6 dimensions."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[3, -1], [-1, -1], *[[5, 6]] * 4])
    made: dict[str, Any] = {name: pack(words(6, generator)) for name in ("queries", "documents")}
    made |= {"negatives": pack(words(9, generator)), "negative_ids": ids, "negative_targets": rows(9, 6, seed=5)}
    made |= {"query_targets": rows(6, 6, seed=3), "document_targets": rows(6, 6, seed=4)}
    return made | {"query_ids": torch.arange(6), "document_ids": torch.arange(6) + 30}


def texts(some: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """All texts of a batch of rows, and their targets."""
    filled = some["negative_ids"] >= 0
    student = [some["queries"], some["documents"], some["negatives"][filled]]
    return torch.cat(student), torch.cat(
        [some["query_targets"], some["document_targets"], some["negative_targets"][filled]]
    )


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return normalize(first, dim=1) @ normalize(second, dim=1).T


def same(found: torch.Tensor, expected: torch.Tensor | float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------ the terms


@pytest.mark.parametrize(("similarity", "of"), [("cosine", None), ("dot", "unit"), ("dot", None), ("cosine", "raw")])
@pytest.mark.parametrize("over", ["sum", "mean"])
def test_mse_is_a_mean_over_all_texts(similarity: Any, of: Any, over: str) -> None:
    some = batch()
    student, teacher = texts(some)
    if of == "unit" or (of is None and similarity == "cosine"):
        student, teacher = normalize(student, dim=1), normalize(teacher, dim=1)
    squares = (student - teacher).square()
    terms = Mimic(nn.Identity(), similarity=similarity, mse={"weight": 0.4, "over": over, "of": of}, cosine=0.6)(some)
    same(terms["mse"], (squares.sum(1) if over == "sum" else squares.mean(1)).mean())
    same(terms["cosine"], 1 - cosines(student, teacher).diagonal().mean())
    assert list(terms) == ["mse", "cosine"]


def test_infonce_is_that_of_contrast() -> None:
    some = batch()
    known = torch.tensor([[0, 4], [1, 3]]).numpy()
    for negatives in ("batch", "own"):
        expected = Contrast(nn.Identity(), temperature=0.02, known=known, negatives=negatives)  # type: ignore[arg-type]
        mimic = Mimic(nn.Identity(), known=known, negatives=negatives, infonce=0.8)  # type: ignore[arg-type]
        same(mimic(some)["infonce"], expected(some)["infonce"])
        assert mimic.chance == expected.chance
        assert mimic.evidence == expected.evidence
        assert mimic.weights == {"infonce": 0.8}


def test_kl_is_over_all_candidates_but_empty_places() -> None:
    some = batch(t=7)
    columns, wanted = (
        torch.cat([some[d], some[n].flatten(0, 1)])
        for d, n in (("documents", "negatives"), ("document_targets", "negative_targets"))
    )
    student, teacher = cosines(some["queries"], columns), cosines(some["query_targets"], wanted)
    gone = torch.cat([torch.zeros(6, dtype=torch.bool), some["negative_ids"].flatten() < 0]).expand(6, 18)
    settings: Any = {"kl": {"weight": 1, "temperature": 0.2}}
    same(Mimic(nn.Identity(), **settings)(some)["kl"], kl(student, teacher, gone, 0.2))
    owners = torch.cat([torch.arange(6), torch.arange(6).repeat_interleave(2)])
    own = gone | (owners[None, :] != torch.arange(6)[:, None])
    same(Mimic(nn.Identity(), negatives="own", **settings)(some)["kl"], kl(student, teacher, own, 0.2))


def test_the_pool_is_a_candidate_with_targets_of_its_own() -> None:
    some = batch() | {"pool": rows(3, 4, seed=8), "pool_ids": torch.arange(3) + 90}
    with pytest.raises(InputError, match="pool but no pool_targets"):
        Mimic(nn.Identity(), kl=1.0)(some)
    assert Mimic(nn.Identity(), infonce=1.0, mse=1.0)(some)["mse"] == Mimic(nn.Identity(), mse=1.0)(batch())["mse"]
    some["pool_targets"] = some["pool"]
    found = Mimic(nn.Identity(), kl=1.0, margin_mse=1.0)(some)
    without = Mimic(nn.Identity(), kl=1.0, margin_mse=1.0)(batch())
    assert found["kl"] != without["kl"]
    same(found["margin_mse"], without["margin_mse"])


def test_margin_mse_is_over_what_was_mined_for_the_query() -> None:
    some = batch(t=7)
    student, teacher = (
        torch.cat(
            [
                (normalize(q, dim=1) * normalize(d, dim=1)).sum(1, keepdim=True),
                torch.einsum("nd,nhd->nh", normalize(q, dim=1), normalize(h, dim=2)),
            ],
            1,
        )
        for q, d, h in (
            (some["queries"], some["documents"], some["negatives"]),
            (some["query_targets"], some["document_targets"], some["negative_targets"]),
        )
    )
    gone = torch.cat([torch.zeros(6, 1, dtype=torch.bool), some["negative_ids"] < 0], 1)
    gone[0, 2] = True  # a copy of the positive
    for negatives in ("batch", "own"):
        found = Mimic(nn.Identity(), negatives=negatives, margin_mse=1.0)(some)  # type: ignore[arg-type]
        same(found["margin_mse"], margin_mse(student, teacher, torch.zeros(6, dtype=torch.int64), gone))
    some["query_targets"] = some["query_targets"] * 5  # a cosine does not see it
    same(Mimic(nn.Identity(), margin_mse=1.0)(some)["margin_mse"], found["margin_mse"])
    with pytest.raises(InputError, match="margin_mse needs mined negatives"):
        Mimic(nn.Identity(), margin_mse=1.0)({k: v for k, v in some.items() if "negative" not in k})


def test_relations_are_of_all_texts_and_of_any_two_dimensions() -> None:
    some = batch(t=9)
    student, teacher = (cosines(side, side) for side in texts(some))
    terms = Mimic(nn.Identity(), relational=1.0, relative={"weight": 1, "margin": 0.2})(some)
    same(terms["relational"], relational(student, teacher))
    same(terms["relative"], relative(student, teacher, margin=0.2))
    layer = nn.Linear(4, 3)
    vectors = layer(texts(some)[0])
    expected = relational(cosines(vectors, vectors), teacher)
    found = Mimic(layer, relational=1.0)(some)["relational"]
    gradients = [torch.autograd.grad(value, layer.weight, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)  # through both texts of a pair
    lengths = Mimic(nn.Identity(), teacher_similarity="dot", relational=1.0)(some)["relational"]
    wanted = texts(some)[1]
    same(lengths, relational(student, wanted @ wanted.T))


def test_terms_over_scores_are_a_mean_over_the_beginnings() -> None:
    some, settings = batch(d=8, t=8), {**WIDE, "mse": 1.0, "cosine": 1.0}
    found = Mimic(nn.Identity(), dimensions=(2, 5), **settings)(some)
    parts = []
    for number in (8, 2, 5):
        cut = {k: v[..., :number] if k in ("queries", "documents", "negatives") else v for k, v in some.items()}
        parts.append(Mimic(nn.Identity(), **WIDE)(cut))
    for name in WIDE:
        same(found[name], torch.stack([part[name] for part in parts]).mean())
    whole = Mimic(nn.Identity(), mse=1.0, cosine=1.0)(some)
    same(found["mse"], whole["mse"])
    same(found["cosine"], whole["cosine"])
    with pytest.raises(ConfigError, match="8 dimensions have no first 9"):
        Mimic(nn.Identity(), dimensions=(9,), relational=1.0)(some)


def test_a_perfect_student_has_nothing_left_but_infonce() -> None:
    some = batch()
    for name in ("queries", "documents", "negatives"):
        some[{"queries": "query", "documents": "document", "negatives": "negative"}[name] + "_targets"] = some[name]
    terms = Mimic(nn.Identity(), **{**ALONE, **WIDE, "relative": {"weight": 1, "margin": 0}})(some)
    assert terms.pop("infonce") > 0
    assert all(abs(float(value)) < 1e-6 for value in terms.values()), terms


# ------------------------------------------------------------------------ the batches


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (4, 0)])
@pytest.mark.parametrize("shared", [True, False])
def test_single_texts_need_no_partner(counts: tuple[int, int], shared: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    sides = {name: pack(words(n, generator)) for name, n in zip(("queries", "documents"), counts, strict=True)}
    wanted = {"query_targets": rows(counts[0], 6).half(), "document_targets": rows(counts[1], 6, seed=1).half()}
    towers = [Bag() for _ in range(1 if shared else 2)]
    terms = Mimic(*towers, **ALONE)({**sides, **wanted})
    sum(terms.values(), torch.zeros(())).backward()
    assert all(value.isfinite() for value in terms.values())
    student = torch.cat([towers[0](sides["queries"]), towers[-1](sides["documents"])])
    teacher = torch.cat([wanted["query_targets"], wanted["document_targets"]]).float()
    same(terms["cosine"], 1 - cosines(student, teacher).diagonal().mean())
    assert Mimic.taught == "vectors"
    assert set(Mimic.comparing) == SETTINGS.keys() - ALONE.keys()
    for name in Mimic.comparing:
        with pytest.raises(InputError, match=f"{counts[0]} queries but {counts[1]} documents"):
            Mimic(*towers, **{name: 1.0})({**sides, **wanted})  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["query", "document", "negative"])
@pytest.mark.parametrize("names", [ALONE, {"kl": 1.0}, {"margin_mse": 1.0}])
def test_each_text_needs_its_target(side: str, names: Any) -> None:
    objective, whole, key = Mimic(Bag(), **names), packed(), f"{side}_targets"
    objective(whole)
    with pytest.raises(InputError, match=f"but no {key}\nname a teacher"):
        objective({name: part for name, part in whole.items() if name != key})
    with pytest.raises(InputError, match=rf"a batch has {len(whole[key])} \w+ but {len(whole[key]) - 1} {key}"):
        objective(whole | {key: whole[key][1:]})


@pytest.mark.parametrize("name", ["mse", "cosine"])
def test_two_dimensions_cannot_be_compared_number_by_number(name: str) -> None:
    with pytest.raises(ConfigError, match=r"of 4 dimensions .* of 9\nset encoder.output_dim to 9"):
        Mimic(nn.Identity(), **{name: 1.0})(batch(t=9))  # type: ignore[arg-type]


def test_several_vectors_a_text_are_refused() -> None:
    class Tokens(nn.Module):
        def forward(self, part: torch.Tensor) -> Any:
            return part[:, None, :]

    with pytest.raises(InputError, match="several vectors"):
        Mimic(Tokens(), mse=1.0)(batch())


def test_chunks_have_the_gradients_of_the_whole_batch() -> None:
    found = []
    for chunk in (None, 4):
        torch.manual_seed(3)
        tower = Bag()
        terms = Mimic(tower if chunk is None else Cached(tower, chunk), **{**ALONE, **WIDE})(packed())
        sum(terms.values(), torch.zeros(())).backward()
        found.append([parameter.grad for parameter in tower.parameters()])
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-4, atol=1e-6)


def test_teachers_need_no_gradient_and_students_get_one() -> None:
    layer, some = nn.Linear(4, 4), batch()
    for name in {**ALONE, **WIDE}:
        layer.zero_grad()
        Mimic(layer, **{name: 1.0})(some)[name].backward()  # type: ignore[arg-type]
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0, name


# ------------------------------------------------------------------------ weights and settings


def test_weights_follow_their_schedule_and_survive_a_resume() -> None:
    ramp = {"weight": 1.0, "begin": 0.0, "steps": 4}
    objective = Mimic(nn.Identity(), mse=ramp, cosine=0.6)  # type: ignore[arg-type]
    held, seen = objective.weights, []
    for _ in range(6):
        objective(batch())
        seen.append(held["mse"])
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert held == {"mse": 1.0, "cosine": 0.6}
    other = Mimic(nn.Identity(), mse=ramp, cosine=0.6)  # type: ignore[arg-type]
    other.load_state_dict({**objective.state_dict(), "step": torch.tensor(2)})
    other(batch())
    assert other.weights["mse"] == 0.5
    assert not Mimic(nn.Identity(), cosine=0.6).state_dict()


def test_a_validation_is_comparable_between_weights_and_needs_no_teacher() -> None:
    some = {name: part for name, part in batch().items() if "targets" not in name}
    objective = Mimic(nn.Identity(), infonce=0.8, mse=0.2).eval()
    assert not objective.needs_mined
    same(objective(some)["infonce"], Contrast(nn.Identity(), temperature=0.02).eval()(some)["infonce"])
    assert (list(objective(some)), objective.weights["infonce"]) == (["infonce"], 1.0)
    objective.train()
    objective(batch())
    assert objective.weights == {"infonce": 0.8, "mse": 0.2}


def test_a_validation_without_infonce_has_every_term() -> None:
    ramp = {"weight": 0.4, "begin": 2.0, "steps": 9}
    objective = Mimic(nn.Identity(), mse=ramp, cosine=0.6).eval()  # type: ignore[arg-type]
    assert objective.needs_mined
    assert list(objective(batch())) == ["mse", "cosine"]
    assert objective.weights == {"mse": 0.4, "cosine": 0.6}
    assert Mimic(nn.Identity(), negatives="own", infonce=1.0).needs_mined


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "mimic has no term"),
        ({"mse": 0.0, "cosine": None}, "mimic has no term"),
        ({"mse": {"weight": -1}}, "mse.weight"),
        ({"mse": {"weight": 1, "over": "max"}}, "mse.over"),
        ({"mse": {"weight": 1, "margin": 1}}, "mse: unknown setting 'margin'"),
        ({"cosine": {}}, "cosine.weight: Field required"),
        ({"kl": {"weight": 1, "temperature": 0}}, "kl.temperature"),
        ({"relative": {"weight": 1, "margin": -1}}, "relative.margin"),
        ({"infonce": {"weight": 1, "begin": 0.5}}, "begin is 0.5 and steps None"),
        ({"relational": "much"}, "relational is 'much', not a mapping"),
        ({"mse": True}, "mse.weight"),
        ({"mse": 1, "temperature": 0}, "temperature must be above 0"),
        ({"mse": 1, "negatives": "mined"}, "negatives is 'mined'"),
        ({"mse": 1, "dimensions": (0,)}, "are numbers from 1"),
        ({"mse": 1, "similarity": "cosin"}, "did you mean 'cosine'"),
        ({"mse": 1, "teacher_similarity": "dto"}, "did you mean 'dot'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mimic(nn.Identity(), **settings)


def test_a_recipe_is_told_before_anything_is_loaded() -> None:
    assert find("objectives", "mimic") is Mimic
    hints = get_type_hints(Terms, include_extras=True)
    assert hints.keys() == SETTINGS.keys() <= parameters(Mimic).keys()
    for name, hint in hints.items():
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        for fine in (0.5, None, {"weight": 1, "begin": 0, "steps": 3, "schedule": "cosine"}):
            assert adapter.validate_python(fine) == fine
        for wrong in (-1, {"weight": 1, "wieght": 2}, {}):
            with pytest.raises(ValidationError, match="weight"):
                adapter.validate_python(wrong)
        assert name in find("objectives", "mimic").__doc__
    with pytest.raises(TypeError, match="unexpected arguments: sigreg"):
        Mimic(nn.Identity(), sigreg={"weight": 1})  # type: ignore[call-arg]


# ------------------------------------------------------------------------ trainings


def trained(width: int, **terms: Any) -> list[events.Event]:
    """A few steps towards a teacher of so many dimensions."""
    torch.manual_seed(0)
    plain = PairBatches(np.stack([np.arange(16)] * 2, 1), *rows(2, 16, 8).numpy(), batch_size=16, seed=1)
    objective = Mimic(nn.Linear(8, width), **terms)
    optim = OptimSettings(lr=1e-3, schedule="constant", warmup=0)
    batches = Taught(plain, *rows(2, 16, width, seed=7))
    plan = Stage(name="s", objective=objective, batches=batches, optim=optim, steps=8)
    return list(fit([plan], engine=TorchEngine(seed=3, device="cpu"), log_every=1))


def test_the_doctor_finds_a_mean_over_many_dimensions_negligible() -> None:
    causes = {}
    for over in ("sum", "mean"):
        happened = trained(1024, mse={"weight": 0.4, "over": over}, cosine=0.6)
        causes[over] = [event.message for event in happened if isinstance(event, events.Warning)]
    assert causes["sum"] == []
    assert len(causes["mean"]) == 1
    assert "mse is 0.13% of the total" in causes["mean"][0]


def test_a_student_comes_nearer_to_its_teacher() -> None:
    steps = [event.terms for event in trained(4, infonce=0.8, **ALONE) if isinstance(event, events.Step)]
    assert set(steps[0]) == {"infonce", *ALONE}
    assert all(steps[-1][name] < steps[0][name] for name in ("mse", "cosine"))
