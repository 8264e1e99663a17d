"""What the runs of a sweep came to: repetitions averaged query by query, a row for each setting, tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from lodesmith.core.errors import ConfigError
from lodesmith.core.files import read_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.results import Comparison, Estimate, Evaluation
from lodesmith.evaluation.measures import parse
from lodesmith.evaluation.significance import bootstrap_means, interval
from lodesmith.recipes.sweep_grid import Setting
from lodesmith.recipes.validating import LOSS
from lodesmith.reports.tables import Cell
from lodesmith.reports.text import NONE, probability, signed, value

__all__ = ["CLOCK", "MEASURE", "Curve", "Outcome", "Result", "averaged", "curve_of", "spread"]

MEASURE = "nDCG@10"
"""What settings are compared by."""
SHOWN = ("RR@10", "R@100")
"""Further measures of the table."""
CLOCK = "clock.json"
"""The file of a run that counts its seconds over interruptions."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A validation: how many epochs into the training, over all stages, what was measured, and how the vectors lay."""

    stage: int
    epoch: float
    epochs: float
    measures: Mapping[str, float]
    best: bool
    geometry: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """The validations of one run."""

    points: tuple[Point, ...] = ()
    stages: tuple[str, ...] = ()

    @property
    def best(self) -> Point | None:
        """The best validation of the last stage: the weights that the run ends with."""
        last = len(self.stages) - 1
        return next((point for point in reversed(self.points) if point.stage == last and point.best), None)


def curve_of(rows: Sequence[Row]) -> Curve:
    """The validations in the lines of a `metrics.jsonl`. Within a stage, epochs go with its steps."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    points: list[Point] = []
    begun, epochs = 0, 0.0
    for number, stage in enumerate(stages):
        own = [row for row in rows if row["stage"] == stage]
        ended, whole = max(row["step"] for row in own), max(row["epoch"] for row in own)
        for row in own:
            if row["event"] == "validation":
                epoch = (row["step"] - begun) / max(ended - begun, 1) * whole
                measures = {name: value for name, value in row["measures"].items() if value is not None}
                shape = {name: value for name, value in row.get("geometry", {}).items() if value is not None}
                points.append(Point(number, epoch, epochs + epoch, measures, bool(row.get("best")), shape))
        begun, epochs = ended, epochs + whole
    return Curve(tuple(points), tuple(stages))


@dataclass(frozen=True)
class Outcome:
    """One run: its evaluation, or why it failed.

    Args:
        seed: its own.
        run: the run directory, relative to the sweep's.
        evaluation: on the recipe's evaluation split; None where the training failed.
        curve: of its validations.
        seconds: of training, over interruptions.
        diagnosis: of a failed training, as `lode doctor` gives it.
    """

    seed: int
    run: str
    evaluation: Evaluation | None = None
    curve: Curve = field(default_factory=Curve)
    seconds: float | None = None
    diagnosis: Mapping[str, Any] | None = None

    @property
    def reason(self) -> str:
        """Why it failed."""
        found = self.diagnosis or {}
        problems = [problem["message"] for problem in found.get("problems", ())]
        return str(problems[0] if problems else found.get("reason", ""))

    def to_json(self) -> dict[str, Any]:
        """Its line in a row of `sweep.json`."""
        best = self.curve.best
        found: dict[str, Any] = {"seed": self.seed, "run": self.run}
        found |= {"state": "failed" if self.evaluation is None else "finished", "seconds": self.seconds}
        found |= {"measures": {} if self.evaluation is None else means(self.evaluation)}
        if best is not None:
            found |= {"best": {"stage": self.curve.stages[-1], "epoch": round(best.epoch, 2), **best.measures}}
        return found | ({} if self.diagnosis is None else {"diagnosis": finite(self.diagnosis)})


def means(evaluation: Evaluation) -> dict[str, float]:
    """Measure → mean."""
    return {name: estimate.mean for name, estimate in evaluation.measures.items()}


def finite(value: Any) -> Any:
    """A JSON value in which NaN and infinity became null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Result:
    """One setting with all its repetitions."""

    setting: Setting
    outcomes: tuple[Outcome, ...]

    @property
    def name(self) -> str:
        """Its setting's."""
        return self.setting.name

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Repetitions whose training failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.evaluation is None)

    @property
    def evaluations(self) -> list[Evaluation]:
        """Of the repetitions that finished."""
        return [outcome.evaluation for outcome in self.outcomes if outcome.evaluation is not None]

    @property
    def evaluation(self) -> Evaluation | None:
        """The mean over all seeds, query by query; None where a repetition failed: it would stand on fewer seeds."""
        return None if self.failed else averaged(self.evaluations, self.name)

    @property
    def seconds(self) -> float | None:
        """The mean over seeds."""
        known = [outcome.seconds for outcome in self.outcomes if outcome.seconds is not None]
        return fmean(known) if known else None

    @property
    def best_epochs(self) -> list[float]:
        """Of the last stage, seed by seed."""
        found = [outcome.curve.best for outcome in self.outcomes if outcome.evaluation is not None]
        return [best.epoch for best in found if best is not None]

    @property
    def validation(self) -> dict[str, float]:
        """The best validation's measures, as means over the seeds that finished."""
        found = [outcome.curve.best for outcome in self.outcomes if outcome.evaluation is not None]
        measured = [best.measures for best in found if best is not None]
        names = [name for name in measured[0] if all(name in own for own in measured)] if measured else []
        return {name: fmean(own[name] for own in measured) for name in names}

    @property
    def geometry(self) -> dict[str, dict[str, float | None]]:
        """Of the weights that were kept, on the documents of the training's dataset: as `spread` gives it."""
        found = [outcome.curve.best for outcome in self.outcomes if outcome.evaluation is not None]
        measured = [best.geometry for best in found if best is not None]
        names = [name for name in measured[0] if all(name in own for own in measured)] if measured else []
        return {name: spread_of([own[name] for own in measured]) for name in names}

    def to_json(self) -> dict[str, Any]:
        """A row of `sweep.json`."""
        return {
            "name": self.name,
            "recipe": self.setting.source,
            "settings": dict(self.setting.values),
            "state": "failed" if self.failed else "finished",
            "seeds": [outcome.seed for outcome in self.outcomes],
            "measures": spread(self.evaluations),
            "validation": self.validation,
            "geometry": self.geometry,
            "seconds": self.seconds,
            "best_epochs": [round(epoch, 2) for epoch in self.best_epochs],
            "runs": [outcome.to_json() for outcome in self.outcomes],
        }


def spread(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, float | None]]:
    """Measure → mean, standard deviation (n − 1; None for one seed), least and greatest over seeds."""
    names = evaluations[0].measures if evaluations else ()
    return {name: spread_of([evaluation.measures[name].mean for evaluation in evaluations]) for name in names}


def spread_of(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation (n − 1; None for one value), least and greatest."""
    deviation = stdev(values) if len(values) > 1 else None
    return {"mean": fmean(values), "sd": deviation, "min": min(values), "max": max(values)}


def averaged(evaluations: Sequence[Evaluation], name: str) -> Evaluation:
    """One evaluation from those of several seeds: each query's value is its mean over the seeds.

    The intervals are over queries, for these seeds; how far seeds lie apart is `spread`'s to say.
    """
    first = evaluations[0]
    per_query = {
        query: {m: fmean(e.per_query[query][m] for e in evaluations) for m in first.measures}
        for query in first.per_query
    }
    columns = [np.array([row[m] for row in per_query.values()], np.float64) for m in first.measures]
    drawn = bootstrap_means(columns)
    estimates = {}
    for number, measure in enumerate(first.measures):
        mean = math.fsum(columns[number]) / len(per_query)
        estimates[measure] = Estimate(mean, *interval(drawn[:, number], mean))
    prints = [e.fingerprints.get("model") or fingerprint(dict(e.fingerprints)) for e in evaluations]
    return Evaluation(
        system=name,
        dataset=first.dataset,
        split=first.split,
        queries=first.queries,
        measures=estimates,
        per_query=per_query,
        cost={key: _mean([e.cost.get(key) for e in evaluations]) for key in first.cost},
        fingerprints={
            "model": prints[0] if len(set(prints)) == 1 else fingerprint(prints),
            "dataset": first.fingerprints["dataset"],
        },
        missing=max(e.missing for e in evaluations),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def seconds_of(run: Path, rows: Sequence[Row]) -> float | None:
    """What the training of a run took: by the sweep's own clock, else by the last line of its metrics."""
    if (run / CLOCK).is_file():
        return float(read_json(run / CLOCK)["seconds"])
    told = [row["seconds"] for row in rows if row["event"] == "done" and row.get("seconds") is not None]
    return float(told[-1]) if told else None


# ------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Table:
    """The table of a sweep: titles of the columns after the name, and a row of cells for each setting and baseline."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]


def table(results: Sequence[Result], baselines: Sequence[Evaluation], comparison: Comparison) -> Table:
    """The settings in their order, then the baselines: means over seeds with their spread, and the tests."""
    extra = _further(results)
    rows = {}
    for result in results:
        found = spread(result.evaluations)
        others = [value(found.get(name, {}).get("mean")) for name in SHOWN]
        own = [value(result.validation.get(name)) for name in extra]
        epochs = ", ".join(f"{epoch:.3g}" for epoch in result.best_epochs) or NONE
        time = NONE if result.seconds is None else f"{result.seconds:.3g}"
        head = (spread_cell(found.get(MEASURE)), *_against(result, comparison))
        rows[result.name] = (*head, *map(Cell, (*others, *own, epochs, time)))
    for baseline in baselines:
        first, *others = (value(baseline.measures[name].mean) for name in (MEASURE, *SHOWN))
        rest = (*others, *(NONE for _ in extra), NONE, NONE)
        rows[baseline.system] = (Cell(first), *_difference(baseline.system, comparison), *map(Cell, rest))
    seeds = max(len(result.outcomes) for result in results)
    title = f"{MEASURE} ± sd (range) of {seeds} seeds" if seeds > 1 else MEASURE
    columns = (title, f"against {comparison.baseline}", "p (Holm)", *SHOWN, *extra, "best epoch", "training, s")
    return Table(columns, rows)


def _further(results: Sequence[Result]) -> list[str]:
    """Validation measures that are not of retrieval. Losses are left out: those of different objectives, margins or
    temperatures cannot be compared.
    """
    names = dict.fromkeys(name for result in results for name in result.validation)
    return [name for name in names if name != LOSS and not _retrieval(name)]


def _retrieval(name: str) -> bool:
    try:
        parse(name.rpartition("/")[2])  # one of another dataset has that dataset's name before it
    except ConfigError:
        return False
    return True


def spread_cell(found: Mapping[str, float | None] | None) -> Cell:
    """Mean, standard deviation and range over seeds of a measure."""
    if not found:
        return Cell("failed")
    if found["sd"] is None:
        return Cell(value(found["mean"]))
    return Cell(f"{value(found['mean'])} ± {value(found['sd'])}", f"{value(found['min'])}–{value(found['max'])}")


def _against(result: Result, comparison: Comparison) -> tuple[Cell, Cell]:
    if result.failed:
        seeds = ", ".join(str(outcome.seed) for outcome in result.failed)
        return Cell("not compared", f"failed with seed {seeds}"), Cell(NONE)
    return _difference(result.name, comparison)


def _difference(name: str, comparison: Comparison) -> tuple[Cell, Cell]:
    if name == comparison.baseline:
        return Cell(NONE), Cell(NONE)
    pair = comparison.pair(name, comparison.baseline)
    interval = f"[{signed(pair.low)}, {signed(pair.high)}]"
    p = probability(pair.p_holm).removeprefix("p ").removeprefix("= ")
    return Cell(signed(pair.difference), interval, "significant" if pair.significant else ""), Cell(p)


def to_markdown(found: Table) -> str:
    """A table of Markdown."""
    columns = ("setting", *found.columns)
    lines = [columns, tuple("---:" if i else "---" for i in range(len(columns))), *_lines(found)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def to_text(found: Table) -> str:
    """The table for a terminal."""
    lines = [("setting", *found.columns), *_lines(found)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(lines[0]))]
    shown = (
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in shown)


def _lines(found: Table) -> list[tuple[str, ...]]:
    """Each row as texts."""
    return [(name, *map(_one_line, cells)) for name, cells in found.rows.items()]


def _one_line(cell: Cell) -> str:
    shown = cell.text + ("*" if cell.mark == "significant" else "")
    if not cell.detail:
        return shown
    return f"{shown} {cell.detail}" if cell.detail.startswith(("[", "±")) else f"{shown} ({cell.detail})"
