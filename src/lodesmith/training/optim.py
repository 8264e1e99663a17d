"""Optimiser, schedule and parameter groups, as settings and as torch objects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    optional: bool = Field(False, description="that it fits no parameter is no mistake: what it names may be frozen")
    freeze_epochs: int = Field(0, ge=0, description="keep them so for the first epochs of the stage, then train them")

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.freeze and self.freeze_epochs:
            raise ValueError("give freeze or freeze_epochs, not both")
        return self


class Plateau(BaseModel):
    """When the schedule `plateau` lowers the learning rates."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    factor: float = Field(0.5, gt=0, lt=1, description="of the rate before")
    patience: int = Field(2, ge=1, description="after so many validations without a better monitored measure")
    minimum: float = Field(0.01, ge=0, le=1, description="lowest share of the stage's rate")


class OptimSettings(BaseModel):
    """How a stage moves its parameters. The first group whose pattern fits a parameter's name takes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    use: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0, description="vectors and scalars (biases, norms) are exempt")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of adamw and adam")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "cosine"
    plateau: Plateau = Field(Plateau.model_validate({}), description="of the schedule of that name")
    warmup: float = Field(0.05, ge=0, description="share of the stage's steps; a number above 1 counts steps")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm over all groups; null for no clipping")
    lazy: bool = Field(
        False, description="of adamw and adam: rows of embedding tables that a step has not met stay as they are"
    )
    groups: tuple[Group, ...] = ()

    @property
    def by_rows(self) -> bool:
        """Whether embedding tables move row by row: sgd has no use of it."""
        return self.lazy and self.use != "sgd"


def rate(settings: OptimSettings, step: int, steps: int, lowered: int = 0) -> float:
    """The factor on every learning rate at a step (from 0) of `steps`: a rise, then the schedule down to 0.

    A plateau's is 1 until it has been lowered so many times, and never below its minimum.
    """
    warmup = round(settings.warmup if settings.warmup > 1 else settings.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "plateau":
        return max(settings.plateau.minimum, settings.plateau.factor**lowered)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def sort_names(settings: OptimSettings, names: Iterable[str]) -> dict[str, list[str]]:
    """Parameter names by group (its pattern, or `default`); empty groups are left out.

    Raises:
        ConfigError: a pattern fits no name.
    """
    names = list(names)
    for group in settings.groups:
        if not group.optional and not any(fnmatchcase(name, group.match) for name in names):
            raise ConfigError(f"no parameter is called {group.match!r}", did_you_mean(group.match, names[:200]))
    patterns = [group.match for group in settings.groups]
    sorted_: dict[str, list[str]] = {pattern: [] for pattern in [*patterns, REST]}
    for name in names:
        sorted_[next((p for p in patterns if fnmatchcase(name, p)), REST)].append(name)
    return {pattern: members for pattern, members in sorted_.items() if members}


def freeze(settings: OptimSettings, module: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """Stop gradients for the frozen groups and return the parameters that train, by group: those that are frozen for
    some epochs only among them, and untouched (`waiting` says which).

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
    if not trained.keys() - waiting(settings, 0):
        raise ConfigError("no parameter is left to train in the first epoch", "take freeze_epochs off a group")
    return trained


def waiting(settings: OptimSettings, epoch: int) -> set[str]:
    """The groups that are still frozen in an epoch (from 0) of the stage, and train later."""
    return {group.match for group in settings.groups if epoch < group.freeze_epochs}


def build(
    settings: OptimSettings, trained: dict[str, list[torch.nn.Parameter]], rows: Iterable[torch.Tensor] = ()
) -> torch.optim.Optimizer:
    """The torch optimiser over the groups that `freeze` returned. Each of its groups carries `name` and `base_lr`.

    Args:
        settings: of the stage.
        trained: parameters by group.
        rows: the embedding tables, of which a lazy optimiser moves the rows with a gradient alone.
    """
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
    optimizer = _optimizer(settings, groups, rows)

    # Fused optimisers do not say that they have changed anything, and digests of weights rely on it.
    def tell(moved: torch.optim.Optimizer, *_: Any) -> None:
        torch.autograd.graph.increment_version([p for group in moved.param_groups for p in group["params"]])

    optimizer.register_step_post_hook(tell)
    return optimizer


def _optimizer(
    settings: OptimSettings, groups: list[dict[str, Any]], rows: Iterable[torch.Tensor]
) -> torch.optim.Optimizer:
    import torch

    if settings.use == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=True)
    if settings.lazy:
        from lodesmith.training.gradients import LazyAdam

        decoupled = settings.use == "adamw"
        return LazyAdam(groups, rows, lr=settings.lr, betas=settings.betas, decoupled_weight_decay=decoupled)
    kind = torch.optim.AdamW if settings.use == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=settings.betas, fused=True)
