"""Schedules, parameter groups and the optimisers built from settings."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lodesmith.core.errors import ConfigError
from lodesmith.training.optim import REST, Group, OptimSettings, Plateau, build, freeze, rate, sort_names, waiting


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_rate_rises_and_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    settings = OptimSettings.model_validate({"schedule": schedule, "warmup": 2})
    assert [rate(settings, step, 6) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def test_warmup_is_a_share_up_to_one_and_steps_above_and_the_rate_stays_at_its_end() -> None:
    assert rate(OptimSettings(warmup=0.1), 4, 100) == pytest.approx(0.5)
    assert rate(OptimSettings(warmup=0), 0, 10) == 1.0
    assert rate(OptimSettings(schedule="linear", warmup=0), 15, 10) == 0.0
    assert rate(OptimSettings(schedule="cosine", warmup=1), 0, 1) == 1.0


def test_a_plateau_lowers_the_rate_after_the_rise_down_to_its_minimum() -> None:
    settings = OptimSettings(schedule="plateau", warmup=2, plateau=Plateau(factor=0.5, minimum=0.2))
    assert [rate(settings, step, 6) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert [rate(settings, 5, 6, lowered) for lowered in range(4)] == [1.0, 0.5, 0.25, 0.2]


def test_groups_wait_for_so_many_epochs_and_something_trains_in_the_first() -> None:
    settings = OptimSettings(groups=(Group(match="base.*", freeze_epochs=2), Group(match="head.bias", freeze_epochs=1)))
    assert [waiting(settings, epoch) for epoch in range(3)] == [{"base.*", "head.bias"}, {"base.*"}, set()]
    assert freeze(settings, module()).keys() == {"base.*", "head.bias", REST}
    with pytest.raises(ConfigError, match="in the first epoch"):
        freeze(OptimSettings(groups=(Group(match="*", freeze_epochs=1),)), module())


def module() -> nn.ModuleDict:
    return nn.ModuleDict({"base": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


def test_the_first_fitting_pattern_takes_a_name() -> None:
    settings = OptimSettings(groups=(Group(match="head.bias"), Group(match="head.*")))
    names = [name for name, _ in module().named_parameters()]
    assert sort_names(settings, names) == {
        "head.bias": ["head.bias"],
        "head.*": ["head.weight"],
        REST: ["base.weight", "base.bias"],
    }


def test_a_pattern_without_a_parameter_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'head\.weight'"):
        freeze(OptimSettings(groups=(Group(match="haed.weight"),)), module())


def test_frozen_groups_do_not_train_and_something_must() -> None:
    own = module()
    trained = freeze(OptimSettings(groups=(Group(match="base.*", freeze=True),)), own)
    assert {name: len(members) for name, members in trained.items()} == {REST: 2}
    assert not own["base"].weight.requires_grad
    with pytest.raises(ConfigError, match="no parameter is left"):
        freeze(OptimSettings(groups=(Group(match="*", freeze=True),)), own)


def test_groups_take_their_own_settings_and_vectors_do_not_decay() -> None:
    settings = OptimSettings(lr=0.1, weight_decay=0.5, groups=(Group(match="head.*", lr=0.2, weight_decay=0.3),))
    groups = build(settings, freeze(settings, module())).param_groups
    assert [(g["name"], g["base_lr"], g["weight_decay"]) for g in groups] == [
        ("head.*", 0.2, 0.3),
        ("head.*", 0.2, 0.0),
        (REST, 0.1, 0.5),
        (REST, 0.1, 0.0),
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_each_optimiser_moves_its_parameters(name: str, kind: type[torch.optim.Optimizer]) -> None:
    own = module()
    settings = OptimSettings.model_validate({"use": name, "lr": 0.1})
    optimizer = build(settings, freeze(settings, own))
    assert type(optimizer) is kind
    before = own["head"].weight.detach().clone()
    own["head"](own["base"](torch.ones(1, 2))).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, own["head"].weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"use": "adan"},
        {"clip": -1},
        {"lrr": 1},
        {"groups": [{"mach": "x"}]},
        {"groups": [{"match": "x", "freeze": True, "freeze_epochs": 1}]},
        {"plateau": {"factor": 1.0}},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OptimSettings.model_validate(wrong)


def test_only_an_optional_pattern_may_fit_nothing() -> None:
    settings = OptimSettings(groups=(Group(match="lora.*", optional=True),))
    assert freeze(settings, module()).keys() == {REST}
