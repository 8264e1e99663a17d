"""Results over many datasets as one table for a paper: a row a dataset and their average, Markdown or LaTeX.

Columns are the systems where there are several, and the measures where there is one. What is bold is significantly
better than every other system on that dataset, by the comparison's p after Holm's correction; a mean marks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lodesmith.core.errors import ConfigError
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.reports.findings import Systems, best_group, by_dataset, mean_of
from lodesmith.reports.tables import MEASURES, escape_latex, escape_markdown
from lodesmith.reports.text import NONE, columns, fit, one_line, value

__all__ = ["PaperTable", "Spread", "averages", "paper_latex", "paper_markdown", "paper_table", "paper_text"]

Spread = Literal["interval", "half", "none"]
"""What stands beside a mean: the 95 % interval, half its width after ±, or nothing."""

_WHOLE = ("beir/cqadupstack",)
"""Sets that are published in parts: their score is the mean over the parts, and counts once in an average."""


@dataclass(frozen=True)
class Figure:
    """A cell: the mean, what stands beside it, and whether it is the best by the tests."""

    mean: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table for a paper.

    Args:
        corner: the title of the first column.
        columns: titles of the others.
        rows: dataset → its figures.
        last: what the last row is called, and its averages; None where there is one dataset, or none in common.
        notes: what a caption should say.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Figure, ...]], ...]
    last: tuple[str, tuple[Figure, ...]] | None
    notes: tuple[str, ...]


def paper_table(
    evaluations: Sequence[Evaluation],
    comparison: Comparison | None = None,
    *,
    measures: Sequence[str] = MEASURES,
    spread: Spread = "interval",
) -> PaperTable:
    """The table of evaluations.

    Args:
        evaluations: at most one a system and dataset.
        comparison: gives the verdicts, and the measure where there are several systems; nothing is bold without it.
        measures: the columns where there is one system; of several systems only the comparison's measure is shown, or
            the first of these.
        spread: what stands beside each mean; averages have none.

    The average is taken over those datasets on which every system has been measured, and says so; the parts of
    cqadupstack count as one dataset.

    Raises:
        InputError: there are no evaluations, or two of one system on one dataset.
        ConfigError: `spread` is none of the three.
    """
    if spread not in get_args(Spread):
        raise ConfigError(f"no spread is called {spread!r}", f"choose one of: {', '.join(get_args(Spread))}")
    blocks = by_dataset(evaluations)
    systems = list(dict.fromkeys(evaluation.system for evaluation in evaluations))
    if len(systems) == 1:
        keys = [(systems[0], measure) for measure in measures]
        corner, titles, notes = "dataset", tuple(measures), [f"system: {one_line(systems[0])}"]
    else:
        measure = comparison.measure if comparison else measures[0]
        keys = [(system, measure) for system in systems]
        corner, titles, notes = f"{measure}", tuple(map(one_line, systems)), []
    rows = tuple((_title(name, blocks[name]), _figures(blocks[name], keys, comparison, spread)) for name in blocks)
    notes += _notes(rows, spread, len(systems))
    return PaperTable(corner, titles, rows, _average(blocks, keys), tuple(notes))


def _title(name: str, systems: Systems) -> str:
    split = next(iter(systems.values())).split
    return one_line(name) if split == "test" else f"{one_line(name)} ({one_line(split)})"


def _figures(
    systems: Systems, keys: Sequence[tuple[str, str]], comparison: Comparison | None, spread: Spread
) -> tuple[Figure, ...]:
    return tuple(_figure(systems.get(system), measure, systems, comparison, spread) for system, measure in keys)


def _figure(
    evaluation: Evaluation | None, measure: str, systems: Systems, comparison: Comparison | None, spread: Spread
) -> Figure:
    estimate = None if evaluation is None else evaluation.measures.get(measure)
    if evaluation is None or estimate is None:
        return Figure(NONE)
    group = best_group(comparison, systems, evaluation.dataset, measure) if comparison else ()
    beside = {
        "none": "",
        "half": f"± {value((estimate.high - estimate.low) / 2)}",
        "interval": f"[{value(estimate.low)}, {value(estimate.high)}]",
    }[spread]
    return Figure(value(estimate.mean), beside, group == (evaluation.system,))


def _average(blocks: Mapping[str, Systems], keys: Sequence[tuple[str, str]]) -> tuple[str, tuple[Figure, ...]] | None:
    """The means over the datasets that every column has a figure of."""
    groups: dict[str, list[list[float]]] = {}
    for name, block in blocks.items():
        means = [None if system not in block else mean_of(block[system], measure) for system, measure in keys]
        known = [mean for mean in means if mean is not None]
        if len(known) == len(means):
            groups.setdefault(_whole(name), []).append(known)
    if len(blocks) < 2 or not groups:
        return None
    fewer = sum(map(len, groups.values())) < len(blocks)
    title = f"average of {len(groups)}" + (" in common" if fewer else "")
    return title, tuple(Figure(value(mean)) for mean in _means([_means(parts) for parts in groups.values()]))


def averages(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Measure → mean over the datasets of one system, of the measures that all of them have, as the table averages."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(_whole(evaluation.dataset), []).append(evaluation)
    names = [n for n in evaluations[0].measures if all(n in e.measures for e in evaluations)] if evaluations else []
    rows = [_means([[e.measures[name].mean for name in names] for e in own]) for own in groups.values()]
    return dict(zip(names, _means(rows), strict=True)) if rows else {}


def _whole(dataset: str) -> str:
    return next((whole for whole in _WHOLE if dataset.startswith(f"{whole}/")), dataset)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _notes(rows: Sequence[tuple[str, Sequence[Figure]]], spread: Spread, systems: int) -> list[str]:
    beside = {"none": "", "half": "±: half of the 95 % interval", "interval": "in brackets: the 95 % interval"}[spread]
    notes = [f"{beside} (bootstrap over queries)"] if beside else []
    if any(figure.best for _, figures in rows for figure in figures):
        notes.append("bold: significantly better than every other system (randomisation test, Holm's correction)")
    elif systems > 1:
        notes.append("no system is significantly better than every other one on any dataset")
    return notes


# --- renderings -------------------------------------------------------------------------------------------------------


def _lines(table: PaperTable) -> list[tuple[str, tuple[Figure, ...]]]:
    return [*table.rows, *([table.last] if table.last else [])]


def paper_text(table: PaperTable, width: int = 40) -> str:
    """The table for a terminal; names are cut to `width` columns, and what is best has a star."""
    shown = [
        (fit(name, width), [f"{'* ' if f.best else ''}{f.mean} {f.spread}".rstrip() for f in figures])
        for name, figures in _lines(table)
    ]
    titles = [fit(title, width) for title in table.columns]
    first = max(columns(text) for text in [table.corner, *(name for name, _ in shown)])
    widths = [max(columns(t), *(columns(cells[i]) for _, cells in shown)) for i, t in enumerate(titles)]

    def line(name: str, cells: Sequence[str]) -> str:
        padded = [" " * (room - columns(cell)) + cell for room, cell in zip(widths, cells, strict=True)]
        return "  ".join([name + " " * (first - columns(name)), *padded]).rstrip()

    rule = "─" * (first + sum(room + 2 for room in widths))
    notes = [note.replace("bold:", "*:") for note in table.notes]
    return "\n".join([line(table.corner, titles), rule, *(line(*row) for row in shown), "", *notes]) + "\n"


def paper_markdown(table: PaperTable) -> str:
    """A GitHub table with its notes below."""
    lines = ["| " + " | ".join(map(escape_markdown, (table.corner, *table.columns))) + " |"]
    lines.append("|---|" + "---:|" * len(table.columns))
    for name, figures in _lines(table):
        cells = [f"{f'**{f.mean}**' if f.best else f.mean} {escape_markdown(f.spread)}".rstrip() for f in figures]
        lines.append("| " + " | ".join([escape_markdown(name), *cells]) + " |")
    return "\n".join([*lines, "", *(f"{escape_markdown(note)}  " for note in table.notes)]).rstrip() + "\n"


def paper_latex(table: PaperTable) -> str:
    """A `tabular` for the booktabs package; its notes are comments, for the caption."""
    lines = ["% needs \\usepackage{booktabs}", *(f"% {note}" for note in table.notes)]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}", "\\toprule"]
    lines.append(" & ".join(map(escape_latex, (table.corner, *table.columns))) + r" \\")
    lines.append("\\midrule")
    lines += [_latex_row(*row) for row in table.rows]
    if table.last:
        lines += ["\\midrule", _latex_row(*table.last)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex_row(name: str, figures: Sequence[Figure]) -> str:
    cells = [f"\\textbf{{{f.mean}}}" if f.best else escape_latex(f.mean) for f in figures]
    spreads = [escape_latex(f.spread) for f in figures]
    return (
        " & ".join([escape_latex(name), *(f"{c} {s}".rstrip() for c, s in zip(cells, spreads, strict=True))]) + r" \\"
    )
