"""What the loop is given: stages, each an objective over batches; and what it asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lodesmith.core.errors import ConfigError
from lodesmith.training.checkpoint import Snapshot
from lodesmith.training.optim import OptimSettings

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Batches(Protocol):
    """The training batches, with an exact position."""

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch in progress. The position is always after the last batch handed out; after an epoch's
        last batch it is the start of the next epoch."""
        ...

    def __len__(self) -> int:
        """Batches of a whole epoch; the same for every epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training.

    Args:
        name: how events call it.
        objective: a torch module that is a `core.protocols.Objective`: batch → named scalar terms, and `weights`. Where
            it has `chance` (term → the value of guessing), a loss that stays there is pointed out; where it has
            `evidence` (name → scalar tensor, of the last batch), reports carry it. Where it has a method `begin`, that
            is called when the stage begins, before its first validation and step, and once more where a training is
            resumed before that step: twice must be as once.
        batches: what it is trained on.
        optim: optimiser, schedule, groups.
        epochs: how long (this or `steps`).
        steps: how long (this or `epochs`), in optimiser steps.
        validate: returns measures; called without gradients and dropout. Names that begin with `geometry/` describe the
            vectors: they are told, and decide nothing.
        validate_every: steps between validations; None for the end of each epoch.
        validate_first: validate before the first step too, so that the untrained model can be the best.
        monitor: the measure that decides which weights are best; those are the stage's result.
        higher: whether more of it is better.
        patience: stop after so many validations without a better one.
        enough: stop once the monitored measure is as good as that.
        checkpoint_every: steps between checkpoints; None for the end of each epoch.
        begin: called when the stage begins, before its objective's own `begin`, and as that once more after a resume.

    Raises:
        ConfigError: the settings contradict each other.
    """

    name: str
    objective: nn.Module
    batches: Batches
    optim: OptimSettings = field(default_factory=lambda: OptimSettings.model_validate({}))
    epochs: int | None = None
    steps: int | None = None
    validate: Callable[[], Mapping[str, float]] | None = None
    validate_every: int | None = None
    validate_first: bool = False
    monitor: str | None = None
    higher: bool = True
    patience: int | None = None
    enough: float | None = None
    checkpoint_every: int | None = None
    begin: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"stage {self.name!r}: epochs is {self.epochs}, steps is {self.steps}", "give one of them"
            )
        for name in ("epochs", "steps", "validate_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"stage {self.name!r}: {name} must be at least 1, not {value}")
        if self.monitor is not None and self.validate is None:
            raise ConfigError(f"stage {self.name!r} monitors {self.monitor!r} but has no validation", "give validate")
        for name in ("patience", "enough"):
            if getattr(self, name) is not None and self.monitor is None:
                raise ConfigError(
                    f"stage {self.name!r} has {name} but monitors nothing", "give monitor a measure's name"
                )
        if self.optim.schedule == "plateau" and self.monitor is None:
            raise ConfigError(
                f"stage {self.name!r} has the schedule plateau but monitors nothing",
                "give it a validation split and monitor a measure, or another schedule",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the result, as JSON, for the checkpoint's identity."""
        names = ("name", "epochs", "steps", "validate_every", "validate_first", "monitor", "higher", "patience")
        found = {name: getattr(self, name) for name in names} | {"optim": self.optim.model_dump(mode="json")}
        return found if self.enough is None else found | {"enough": self.enough}

    def is_enough(self, best: float | None) -> bool:
        """Whether the monitored measure is as good as it needs to be."""
        if self.enough is None or best is None:
            return False
        return best >= self.enough if self.higher else best <= self.enough


class Engine(Protocol):
    """What the loop asks of an array library; `training.engine.TorchEngine` says what each member means."""

    accumulate: int

    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def scaled(self) -> bool: ...
    def __enter__(self) -> Engine: ...
    def __exit__(self, *error: object) -> None: ...
    def any(self, flag: bool) -> bool: ...
    def agreed(self, values: Mapping[str, float]) -> dict[str, float]: ...
    def wait(self) -> None: ...
    def prepare(self, objective: Any, settings: OptimSettings) -> None: ...
    def epoch(self, number: int) -> None: ...
    def release(self) -> None: ...
    def step(self, batches: Sequence[Any], factor: float) -> Any: ...
    def read(self, rows: Sequence[Any]) -> list[list[float]]: ...
    def evidence(self) -> dict[str, float]: ...
    def rates(self) -> dict[str, float]: ...
    def evaluating(self) -> AbstractContextManager[None]: ...
    def weights_of(self, objectives: Sequence[Any]) -> dict[str, Any]: ...
    def load_weights(self, objectives: Sequence[Any], weights: Mapping[str, Any]) -> None: ...
    def state(self) -> Snapshot: ...
    def load(self, snapshot: Snapshot) -> None: ...
    def load_random(self, snapshot: Snapshot) -> None: ...
