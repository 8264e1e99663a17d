"""Optimiser, schedule and parameter groups, as settings and as torch objects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lodesmith.core.errors import ConfigError
from lodesmith.core.registry import did_you_mean

if TYPE_CHECKING:
    import torch

REST = "default"
"""The name of the group of parameters that no pattern takes."""


class Group(BaseModel):
    """Parameters by a glob over their names, with their own settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    match: str = Field(description="glob over parameter names, such as `encoder.projection.*`")
    lr: float | None = Field(None, ge=0, description="null: the stage's")
    weight_decay: float | None = Field(None, ge=0, description="null: the stage's")
    freeze: bool = Field(False, description="keep these parameters as they are")


class OptimSettings(BaseModel):
    """How a stage moves its parameters. The first group whose pattern fits a parameter's name takes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    use: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0, description="vectors and scalars (biases, norms) are exempt")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of adamw and adam")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(0.05, ge=0, description="share of the stage's steps; a number above 1 counts steps")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm over all groups; null for no clipping")
    groups: tuple[Group, ...] = ()


def rate(settings: OptimSettings, step: int, steps: int) -> float:
    """The factor on every learning rate at a step (from 0) of `steps`: a rise, then the schedule down to 0."""
    warmup = round(settings.warmup if settings.warmup > 1 else settings.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def sort_names(settings: OptimSettings, names: Iterable[str]) -> dict[str, list[str]]:
    """Parameter names by group (its pattern, or `default`); empty groups are left out.

    Raises:
        ConfigError: a pattern fits no name.
    """
    names = list(names)
    for group in settings.groups:
        if not any(fnmatchcase(name, group.match) for name in names):
            raise ConfigError(f"no parameter is called {group.match!r}", did_you_mean(group.match, names[:200]))
    patterns = [group.match for group in settings.groups]
    sorted_: dict[str, list[str]] = {pattern: [] for pattern in [*patterns, REST]}
    for name in names:
        sorted_[next((p for p in patterns if fnmatchcase(name, p)), REST)].append(name)
    return {pattern: members for pattern, members in sorted_.items() if members}


def freeze(settings: OptimSettings, module: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """Stop gradients for the frozen groups and return the parameters that train, by group.

    Raises:
        ConfigError: a pattern fits no name, or nothing is left to train.
    """
    parameters = dict(module.named_parameters())
    frozen = {group.match for group in settings.groups if group.freeze}
    trained: dict[str, list[torch.nn.Parameter]] = {}
    for pattern, names in sort_names(settings, parameters).items():
        if pattern in frozen:
            for name in names:
                parameters[name].requires_grad_(False)
        elif live := [parameters[name] for name in names if parameters[name].requires_grad]:
            trained[pattern] = live
    if not trained:
        raise ConfigError("no parameter is left to train", "unfreeze a group, or give the objective parameters")
    return trained


def build(settings: OptimSettings, trained: dict[str, list[torch.nn.Parameter]]) -> torch.optim.Optimizer:
    """The torch optimiser over the groups that `freeze` returned. Each of its groups carries `name` and `base_lr`."""
    import torch

    own = {group.match: group for group in settings.groups}
    groups: list[dict[str, Any]] = []
    for name, parameters in trained.items():
        group = own.get(name)
        lr = settings.lr if group is None or group.lr is None else group.lr
        decay = settings.weight_decay if group is None or group.weight_decay is None else group.weight_decay
        matrices = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        for members, its_decay in ((matrices, decay), (others, 0.0)):
            if members:
                groups.append({"params": members, "lr": lr, "weight_decay": its_decay, "name": name, "base_lr": lr})
    if settings.use == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    kind = torch.optim.AdamW if settings.use == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, fused=True)
