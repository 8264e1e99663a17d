"""What a training tells while it runs: `fit` yields these; progress bars, metrics files and health checks read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GEOMETRY = "geometry/"
"""How names begin, among what a validation returns, that go to `Validation.geometry`."""


@dataclass(frozen=True)
class Step:
    """One optimiser step. `terms` are the unweighted loss terms by name, `total` their weighted sum;
    `lr` and `grad_norm` (before clipping) are by parameter group; `throughput` is examples a second.

    `chance` is what a term is when the model guesses, where that is known; `evidence` is what the objective says of
    its vectors and scores (such as `spread`, 1 − the mean cosine of two queries of the batch); neither enters the loss.
    """

    step: int
    epoch: int
    stage: str
    terms: Mapping[str, float]
    total: float
    lr: Mapping[str, float] = field(default_factory=dict)
    grad_norm: Mapping[str, float] = field(default_factory=dict)
    throughput: float = 0.0
    steps: int | None = None
    """The step with which the stage is planned to end, where it is known. Steps count on from stage to stage."""
    weights: Mapping[str, float] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """Measures on the validation split; `geometry` describes the vectors, and decides nothing."""

    step: int
    epoch: int
    stage: str
    measures: Mapping[str, float]
    best: bool = False
    geometry: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint was written."""

    step: int
    epoch: int
    stage: str
    path: Path


@dataclass(frozen=True)
class Warning:
    """Something looks wrong; training goes on. `cure` says what to try; `cause` is its short name, for programs."""

    step: int
    epoch: int
    stage: str
    message: str
    cure: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Done:
    """Training ended, by reaching its end or by stopping early."""

    step: int
    epoch: int
    stage: str
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Resumed:
    """Training goes on from a checkpoint: the first event of a resumed run. What was told after `step` is void."""

    step: int
    epoch: int
    stage: str
    path: Path


Event = Step | Validation | Checkpoint | Warning | Done | Resumed
