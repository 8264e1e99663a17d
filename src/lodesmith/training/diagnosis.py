"""Why a training went as it did, from the lines of its `metrics.jsonl` alone. No torch, nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal

from lodesmith.core import events
from lodesmith.training._rules import WIDE
from lodesmith.training.health import CAUSES, Finding, Health

__all__ = ["Diagnosis", "Problem", "StageSummary", "diagnose"]

Row = Mapping[str, Any]
State = Literal["finished", "failed", "incomplete", "empty"]

IMPROVING = 0.01
"""A last validation that is better by this share than the one before had not yet ended its rise."""


@dataclass(frozen=True)
class Problem:
    """Something that went wrong.

    Args:
        cause: its short name, one of `health.CAUSES`.
        stage: where.
        step: when it was noticed.
        message: what, with the figures.
        cure: what to try, in words.
        tries: overrides of the recipe that do so.
    """

    cause: str
    stage: str
    step: int
    message: str
    cure: str
    tries: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageSummary:
    """How a stage went: its steps, loss at begin and end, the best validation, the median throughput."""

    name: str
    last_step: int
    planned: int | None
    loss: tuple[float, float] | None = None
    measure: str | None = None
    best: float | None = None
    best_step: int | None = None
    last: float | None = None
    throughput: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What became of a training.

    Args:
        state: finished; failed (it ended by an error that it told); incomplete; empty (nothing was told).
        reason: of its end, or where it stands.
        problems: roots before what follows from them.
        notes: what is no fault but worth knowing.
        stages: how each went.
    """

    state: State
    reason: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    stages: tuple[StageSummary, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether it ended, and nothing looks wrong."""
        return self.state == "finished" and not self.problems

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return {"healthy": self.healthy, **asdict(self)}


def diagnose(rows: Sequence[Row], recipe: Mapping[str, Any] | None = None) -> Diagnosis:
    """Explain a training.

    Args:
        rows: the lines of `metrics.jsonl`, in order.
        recipe: the resolved recipe, as a tree, where there is one: cures then name its own values.
    """
    if not rows:
        return Diagnosis("empty", "it told nothing: it ended before its first report")
    state, reason = _state(rows)
    names = list(dict.fromkeys(row["stage"] for row in rows))
    problems: list[Problem] = []
    for number, name in enumerate(names):
        own = [row for row in rows if row["stage"] == name]
        plan = _Plan(*_stage_of(recipe, name, number), name, own)
        problems += [plan.problem(finding, step) for finding, step in _findings(own)]
    order: dict[str, int] = {cause: place for place, cause in enumerate(CAUSES)}
    problems.sort(key=lambda p: (names.index(p.stage), order.get(p.cause, len(order)), p.step))
    stages = tuple(_summary(name, [row for row in rows if row["stage"] == name]) for name in names)
    return Diagnosis(state, reason, tuple(problems), tuple(_notes(rows, stages)), stages)


# ------------------------------------------------------------------------ how it ended


def _state(rows: Sequence[Row]) -> tuple[State, str]:
    last = rows[-1]
    if last["event"] == "done":
        return "finished", str(last.get("reason") or "complete")
    if last["event"] == "warning" and last.get("cause") == "nan":
        return "failed", str(last.get("message", "it diverged"))
    planned = next((row["steps"] for row in reversed(rows) if row.get("steps")), None)
    of = f" of {planned} planned" if planned else ""
    return (
        "incomplete",
        f"its last line is of step {last['step']}{of}, in stage {last['stage']}: stopped or killed there",
    )


# ------------------------------------------------------------------------ what was wrong


def _findings(rows: Sequence[Row]) -> Iterator[tuple[Finding, int]]:
    """What the training itself warned of, and what the rules say where it did not."""
    told = set()
    for row in rows:
        if row["event"] == "warning" and (cause := row.get("cause")):
            told.add(cause)
            yield Finding(cause, str(row.get("message", "")), str(row.get("cure", ""))), row["step"]
    health = Health()
    for row in rows:
        if (event := _event(row)) is not None:
            for finding in health.watch(event):
                if finding.cause not in told:
                    yield finding, row["step"]


def _event(row: Row) -> events.Step | events.Validation | None:
    place = (row["step"], row["epoch"], row["stage"])
    if row["event"] == "step":
        own = {name: _numbers(row.get(name, {})) for name in ("grad_norm", "weights", "chance", "evidence")}
        step = events.Step(*place, _numbers(row.get("terms", {})), _number(row.get("total")))
        return replace(step, **own)  # type: ignore[arg-type]
    if row["event"] == "validation":
        return events.Validation(*place, _numbers(row.get("measures", {})), bool(row.get("best")))
    return None


def _number(value: Any) -> float:
    """The file says null where the number was none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


# ------------------------------------------------------------------------ what to try


def _stage_of(recipe: Mapping[str, Any] | None, name: str, number: int) -> tuple[int, Mapping[str, Any]]:
    """The stage's place and part in the recipe; where there is none, its place among those that told something."""
    stages = (recipe or {}).get("stages")
    if isinstance(stages, list):
        for place, stage in enumerate(stages):
            if isinstance(stage, dict) and stage.get("name") == name:
                return place, stage
    return number, {}


@dataclass(frozen=True)
class _Plan:
    """What is known of a stage, to name the override that would help."""

    number: int
    recipe: Mapping[str, Any]
    name: str
    rows: Sequence[Row]

    def problem(self, finding: Finding, step: int) -> Problem:
        tries = tuple(f"stages.{self.number}.{setting}" for setting in self._settings(finding.cause))
        return Problem(finding.cause, self.name, step, finding.message, finding.cure, tries)

    def _settings(self, cause: str) -> list[str]:
        slower, faster = f"optim.lr={self._rate / 10:.2g}", f"optim.lr={self._rate * 10:.2g}"
        calmer = [slower] if self._of("optim", "clip") else [slower, "optim.clip=1.0"]
        cures = {
            "nan": calmer,
            "exploding": calmer,
            "vanishing": [faster],
            "guessing": [faster],
            "join": [faster],
            "frozen": ["optim.groups=[]"],
            "collapse": self._apart(slower),
            "zero": self._harder(),
            "duplicates": [f"batch_size={max(2, self._batch // 2)}"],
            "overfitting": ["patience=3", f"epochs={self._best_epoch}", "optim.weight_decay=0.1"],
        }
        return cures.get(cause, [])

    def _apart(self, slower: str) -> list[str]:
        """Nothing for a tower that never told two texts apart: no setting can mend it."""
        spreads = (row["evidence"]["spread"] for row in self.rows if "spread" in row.get("evidence", {}))
        if next(spreads, 1.0) < WIDE:
            return []
        return [slower, "objective.use=contrast"] if self._triplet else [slower]

    def _harder(self) -> list[str]:
        if not self._triplet or self._batch < 2:
            return [f"batch_size={max(64, 2 * self._batch)}"]
        picked = self._of("objective", "negatives")
        return [f"objective.negatives={'batch_hard' if picked == 'semi_hard' else 'semi_hard'}"]

    @property
    def _rate(self) -> float:
        """The recipe's learning rate, else the highest that was reported."""
        told = [rate for row in self.rows for rate in row.get("lr", {}).values() if rate]
        return float(self._of("optim", "lr") or max(told, default=1e-3))

    @property
    def _batch(self) -> int:
        """Examples of a batch: the recipe's number, else the candidates that the loss of guessing tells of."""
        if size := self.recipe.get("batch_size"):
            return int(size)
        levels = [row["chance"]["infonce"] for row in self.rows if "infonce" in row.get("chance", {})]
        return round(math.exp(median(levels))) if levels else 64

    @property
    def _triplet(self) -> bool:
        use = self._of("objective", "use")
        return use == "triplet" if use else any("triplet" in row.get("terms", {}) for row in self.rows)

    @property
    def _best_epoch(self) -> int:
        best = [row["epoch"] for row in self.rows if row["event"] == "validation" and row.get("best") and row["step"]]
        return max(1, best[-1]) if best else 1

    def _of(self, *path: str) -> Any:
        place: Any = self.recipe
        for name in path:
            place = place.get(name) if isinstance(place, Mapping) else None
        return place


# ------------------------------------------------------------------------ how it went


def _summary(name: str, rows: Sequence[Row]) -> StageSummary:
    steps = [row for row in rows if row["event"] == "step"]
    validations = [row for row in rows if row["event"] == "validation"]
    totals = [row["total"] for row in steps if row.get("total") is not None]
    rates = [row["throughput"] for row in steps if row.get("throughput")]
    measure = _monitored(validations)
    values = [(row["measures"][measure], row["step"]) for row in validations if measure in row.get("measures", {})]
    best = next(((value, step) for value, step in reversed(values) if _is_best(validations, step)), None)
    return StageSummary(
        name,
        rows[-1]["step"],
        next((row["steps"] for row in reversed(steps) if row.get("steps")), None),
        (totals[0], totals[-1]) if totals else None,
        measure,
        best[0] if best else max((v for v, _ in values if v is not None), default=None),
        best[1] if best else None,
        values[-1][0] if values else None,
        median(rates) if rates else None,
    )


def _is_best(validations: Sequence[Row], step: int) -> bool:
    return any(row["step"] == step and row.get("best") for row in validations)


def _monitored(validations: Sequence[Row]) -> str | None:
    """The measure that decided which weights are best: the first that rose, or fell, at each `best` and only there."""
    names: list[str] = list(validations[0].get("measures", {})) if validations else []
    for name in names:
        for sign in (1, -1):
            top, fits = -math.inf, True
            for row in validations:
                value = _number(row.get("measures", {}).get(name)) * sign
                fits = fits and (value > top) == bool(row.get("best"))
                top = max(top, value)
            if fits:
                return name
    return names[0] if names else None


def _notes(rows: Sequence[Row], stages: Sequence[StageSummary]) -> Iterator[str]:
    for row in rows:
        if row["event"] == "warning" and not row.get("cause"):
            yield f"step {row['step']}: {row.get('message', '')}" + (f" ({row['cure']})" if row.get("cure") else "")
    for number, stage in enumerate(stages):
        own = [row for row in rows if row["stage"] == stage.name and row["event"] == "validation"]
        values = [_number(row["measures"].get(stage.measure)) for row in own if stage.measure]
        if len(values) < 2:
            continue
        if stage.best_step == own[-1]["step"] and values[-1] > (1 + IMPROVING) * values[-2]:
            yield (
                f"stage {stage.name}: {stage.measure} was still rising when it ended ({values[-2]:.4f}, "
                f"{values[-1]:.4f}): try stages.{number}.epochs={2 * own[-1]['epoch']}"
            )
