"""The files of a finished sweep: comparison, `sweep.json`, `sweep.md`, the page and the picture of its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lodesmith.core.files import write_json, write_text
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.evaluation.compare import compare
from lodesmith.recipes.sweep_geometry import geometry_lead, geometry_table
from lodesmith.recipes.sweep_grid import RECIPE, Grid, folder_name
from lodesmith.recipes.sweep_results import MEASURE, Curve, Result, Table, means, table, to_markdown, to_text

__all__ = ["Report", "write"]

SEEDS = 3
"""Fewer carry no claim about a setting."""
_LEAD = (
    "Means over seeds, with their standard deviation and range. Differences, intervals and p are over queries, on each "
    "query's mean over the same seeds; p is Holm's over all pairs of the sweep, * marks significance at 5 %."
)


@dataclass(frozen=True)
class Report:
    """What a sweep found, and where it lies.

    Args:
        out: the folder.
        grid: what was varied.
        results: one a setting, in the grid's order.
        baselines: untrained systems on the same queries.
        comparison: of all settings without a failed run, and the baselines.
    """

    out: Path
    grid: Grid
    results: tuple[Result, ...]
    baselines: tuple[Evaluation, ...]
    comparison: Comparison

    @property
    def table(self) -> Table:
        """Settings and baselines as texts."""
        return table(self.results, self.baselines, self.comparison)

    @property
    def shapes(self) -> Table | None:
        """The settings' geometry as texts."""
        return geometry_table(self.results)

    @property
    def failures(self) -> dict[str, str]:
        """Run → why it failed."""
        return {f"{r.name}, seed {o.seed}": o.reason for r in self.results for o in r.failed}

    def to_json(self) -> dict[str, Any]:
        """The content of `sweep.json`."""
        first = self.baselines[0]
        return {
            "out": str(self.out),
            "recipe": self.grid.title,
            "dataset": first.dataset,
            "split": first.split,
            "queries": first.queries,
            "measure": MEASURE,
            "axes": {key: list(labels) for key, labels in self.grid.axes.items()},
            "settings": [result.to_json() for result in self.results],
            "baselines": [{"name": e.system, "measures": means(e)} for e in self.baselines],
            "comparison": self.comparison.to_json(),
            "failed": self.failures,
        }

    def to_text(self) -> str:
        """The table, what failed, and the page's path."""
        beside = [] if self.shapes is None else ["", to_text(self.shapes)]
        lines = [to_text(self.table), *beside, *(f"failed: {name}: {reason}" for name, reason in self.failures.items())]
        return "\n".join([*lines, f"Report: {self.out / 'report.html'}"])


def write(
    out: Path, grid: Grid, results: Sequence[Result], baselines: Sequence[Evaluation], notes: Sequence[str]
) -> Report:
    """Compare all pairs and write every file of the sweep's folder.

    Args:
        out: the folder.
        grid: what was varied.
        results: in the grid's order.
        baselines: random and BM25 first.
        notes: for the readers of table and page.
    """
    settings = [found for result in results if (found := result.evaluation) is not None]
    reference = settings[0].system if len(settings) > 1 else baselines[-1].system
    comparison = compare([*settings, *baselines], measure=MEASURE, baseline=reference)
    report = Report(out, grid, tuple(results), tuple(baselines), comparison)
    _save_evaluations(out / "evaluations", [*settings, *baselines])
    comparison.save(out / "comparison.json")
    lines = _lines(results)
    _write_curves(out / "curves.svg", lines)
    write_json(out / "sweep.json", report.to_json())
    write_text(out / "sweep.md", _markdown(report, notes, curves=bool(lines)))
    write_text(out / "report.html", _page(report, [*settings, *baselines], lines, notes))
    return report


def _save_evaluations(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write them, and remove those of settings that the sweep no longer has."""
    kept = {folder / f"{folder_name(evaluation.system)}.json": evaluation for evaluation in evaluations}
    for path, evaluation in kept.items():
        evaluation.save(path)
    for path in folder.glob("*.json"):
        if path not in kept:
            path.unlink()


# ------------------------------------------------------------------------ tables


def _lead(results: Sequence[Result]) -> str:
    """How to read the table of settings."""
    seeds = max(len(result.outcomes) for result in results)
    return _LEAD + (
        "" if seeds >= SEEDS else f" A claim about a setting rests on at least {SEEDS} seeds: here is less."
    )


def _title(grid: Grid) -> str:
    keys = [key for key in grid.axes if key != RECIPE]
    return f"{grid.title}: {', '.join(keys)}" if keys else grid.title


def _markdown(report: Report, notes: Sequence[str], *, curves: bool) -> str:
    failed = [f"- failed: {name}: {reason}" for name, reason in report.failures.items()]
    first = report.baselines[0]
    where = f"{first.dataset}, {first.split} split, {first.queries:,} queries."
    lead = _lead(report.results)
    parts = [f"# {_title(report.grid)}", f"{where} {lead}", to_markdown(report.table).strip(), "\n".join(failed)]
    if (shapes := report.shapes) is not None:
        parts += ["## Geometry", geometry_lead(), to_markdown(shapes).strip()]
    picture = "![Validation curves](curves.svg)" if curves else ""
    return "\n\n".join(part for part in (*parts, picture, "\n".join(f"- {note}" for note in notes)) if part) + "\n"


# ------------------------------------------------------------------------ pictures and page


def _measure_of(curves: Sequence[Curve]) -> str:
    """What the curves show: the sweep's measure where every validation has it, else the first that all have."""
    measured = [point.measures for curve in curves for point in curve.points]
    shared = [name for name in measured[0] if all(name in own for own in measured)] if measured else []
    return MEASURE if MEASURE in shared else next(iter(shared), "")


def _lines(results: Sequence[Result]) -> Mapping[str, Any]:
    """Setting → its line for the plot of curves; empty where nothing was validated."""
    from lodesmith.reports.curves import Line

    measure = _measure_of([o.curve for r in results for o in r.outcomes if o.evaluation is not None])
    if not measure:
        return {}
    lines = {}
    for result in results:
        own = [outcome.curve for outcome in result.outcomes if outcome.evaluation is not None]
        seeds = [[(point.epochs, point.measures[measure]) for point in curve.points] for curve in own]
        lines[result.name] = Line(_mean_line(own, measure), seeds)
    return lines


def _mean_line(curves: Sequence[Curve], measure: str) -> list[tuple[float, float]]:
    """The mean over seeds, as far as all of them were trained."""
    at = [{(p.stage, round(p.epoch, 3)): (p.epochs, p.measures[measure]) for p in curve.points} for curve in curves]
    shared = [place for place in at[0] if all(place in own for own in at)] if at else []
    return [(fmean(own[place][0] for own in at), fmean(own[place][1] for own in at)) for place in shared]


def _write_curves(path: Path, lines: Mapping[str, Any]) -> None:
    from lodesmith.reports.curves import curve_plot, portable

    plot = curve_plot(lines, measure=MEASURE, width=840) if lines else ""
    if plot:
        write_text(path, portable(plot))
    else:
        path.unlink(missing_ok=True)


def _page(report: Report, evaluations: Sequence[Evaluation], lines: Mapping[str, Any], notes: Sequence[str]) -> str:
    from lodesmith.reports import sweep
    from lodesmith.reports.page import render

    first = evaluations[0]
    page = render(f"{_title(report.grid)} on {first.dataset}", evaluations, report.comparison, notes=notes)
    references = {e.system: e.measures[MEASURE].mean for e in report.baselines if e.system != "random"}
    shapes = report.shapes
    sections = [
        sweep.setting_section(report.table.columns, report.table.rows, lead=_lead(report.results)),
        "" if shapes is None else sweep.geometry_section(shapes.columns, shapes.rows, lead=geometry_lead()),
        sweep.curve_section(lines, measure=MEASURE),
        sweep.swept_section(_charts(report), measure=MEASURE, references=references),
        sweep.failure_section(report.failures),
    ]
    return sweep.added(page, sections)


def _charts(report: Report) -> dict[str, tuple[tuple[str, ...], dict[str, dict[str, list[float]]]]]:
    """Key → the labels of its values, and the measure by them, for each combination of the other keys."""
    charts = {}
    for key, labels in report.grid.axes.items():
        if len(labels) < 2:
            continue
        series: dict[str, dict[str, list[float]]] = {}
        for result in report.results:
            others = ", ".join(
                f"{other.rpartition('.')[2]}={label}" if other != RECIPE else label
                for other, label in result.setting.labels.items()
                if other != key and len(report.grid.axes[other]) > 1
            )
            values = [evaluation.measures[MEASURE].mean for evaluation in result.evaluations]
            if values:
                series.setdefault(others, {})[result.setting.labels[key]] = values
        charts[key] = (labels, series)
    return charts
