"""The one results table, as data, and its renderings for a terminal, Markdown and LaTeX.

A mark is a verdict of the comparison, never a higher mean: `best` is significantly better than every other system after
Holm's correction, `tied` is the highest mean and whatever cannot be told apart from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lodesmith.core.results import Comparison, Evaluation
from lodesmith.reports.findings import (
    Systems,
    average,
    best_group,
    by_dataset,
    common_systems,
    find_pair,
    ranked,
)
from lodesmith.reports.text import NONE, clip, columns, count, fit, one_line, probability, rate, signed, size, value

Mark = Literal["", "best", "tied", "significant"]
MEASURES = ("nDCG@10", "RR@10", "R@100")
ANSWERS = ("CoverEM", "EM", "F1", "R@1", "R@3", "R@5")
"""What is shown of systems that answer."""

_Costs = tuple[tuple[str, str, Callable[[float | None], str]], ...]
_COSTS: _Costs = (
    ("encode_docs_per_s", "docs/s", rate),
    ("query_ms_p50", "ms/query", rate),
    ("index_bytes", "index", size),
    ("parameters", "parameters", count),
)
_ANSWER_COSTS: _Costs = (("context_tokens", "context tokens", rate), *_COSTS[1:])
_LEGEND: dict[Mark, str] = {
    "best": "significantly better than every other system on this measure, after Holm's correction",
    "tied": "the highest mean and the systems that these queries cannot tell apart from it",
    "significant": "difference to the baseline significant at 5 % after Holm's correction",
}


@dataclass(frozen=True)
class Cell:
    """A figure, what stands smaller beside it (interval or p), and its verdict."""

    text: str
    detail: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Row:
    """One system on one dataset; `cells` in the order of the table's columns."""

    system: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Block:
    """The systems on one dataset, or their average over datasets."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """The results: `columns` titles those after the system's name; `marks` are the verdicts that occur."""

    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    marks: tuple[Mark, ...] = ()

    @property
    def legend(self) -> tuple[str, ...]:
        """A sentence for each mark that occurs."""
        return tuple(_LEGEND[mark] for mark in self.marks)


def comparison_table(
    evaluations: Sequence[Evaluation], comparison: Comparison, measures: Sequence[str] | None = None
) -> Table:
    """Quality, difference to the baseline and cost of every system: one block a dataset, highest mean first.

    Args:
        evaluations: at most one a system and dataset.
        comparison: its baseline and measure give the difference; measures that it did not test get no marks.
        measures: the first one is shown with its 95 % interval; None for `ANSWERS` of systems that answer, else
            `MEASURES`.

    Raises:
        InputError: there are no evaluations, or two of one system on one dataset.
    """
    blocks = by_dataset(evaluations)
    answer = all("CoverEM" in evaluation.measures for evaluation in evaluations)
    measures, costs = (ANSWERS if answer else MEASURES) if measures is None else measures, _costs(evaluations)
    shown = [_block(dataset, systems, comparison, measures, costs) for dataset, systems in blocks.items()]
    if len(blocks) > 1 and common_systems(blocks):
        shown.append(_average_block(blocks, comparison, measures, costs))
    used = {cell.mark for block in shown for row in block.rows for cell in row.cells}
    titles = (f"{measures[0]} [95\u00a0%]", *measures[1:]) if measures else ()
    against = f"Δ {comparison.measure} to {clip(one_line(comparison.baseline), 24)}"
    return Table(
        (*titles, against, *(title for _, title, _ in costs)),
        tuple(shown),
        tuple(mark for mark in _LEGEND if mark in used),
    )


def _costs(evaluations: Sequence[Evaluation]) -> _Costs:
    """What systems that read a context cost, or any others."""
    return _ANSWER_COSTS if any("context_tokens" in evaluation.cost for evaluation in evaluations) else _COSTS


def _block(dataset: str, systems: Systems, comparison: Comparison, measures: Sequence[str], shown: _Costs) -> Block:
    groups = {measure: best_group(comparison, systems, dataset, measure) for measure in measures}
    rows = []
    for name in ranked(systems, comparison.measure):
        evaluation = systems[name]
        quality = [_quality(evaluation, m, groups[m], interval=i == 0) for i, m in enumerate(measures)]
        costs = [Cell(show(evaluation.cost.get(key))) for key, _, show in shown]
        rows.append(Row(one_line(name), (*quality, _difference(evaluation, comparison), *costs)))
    first = next(iter(systems.values()))
    return Block(f"{one_line(dataset)} · {one_line(first.split)} · {first.queries:,} queries", tuple(rows))


def _quality(evaluation: Evaluation, measure: str, group: tuple[str, ...], *, interval: bool) -> Cell:
    estimate = evaluation.measures.get(measure)
    if estimate is None:
        return Cell(NONE)
    mark: Mark = "" if evaluation.system not in group else "best" if len(group) == 1 else "tied"
    detail = f"[{value(estimate.low)}, {value(estimate.high)}]" if interval else ""
    return Cell(value(estimate.mean), detail, mark)


def _difference(evaluation: Evaluation, comparison: Comparison) -> Cell:
    if evaluation.system == comparison.baseline:
        return Cell("baseline")
    pair = find_pair(comparison, evaluation.system, comparison.baseline, evaluation.dataset)
    if pair is None:
        return Cell(NONE)
    return Cell(signed(pair.difference), probability(pair.p_holm), "significant" if pair.significant else "")


def _average_block(
    blocks: Mapping[str, Systems], comparison: Comparison, measures: Sequence[str], costs: _Costs
) -> Block:
    means = {name: average(blocks, name, comparison.measure) for name in common_systems(blocks)}
    base = average(blocks, comparison.baseline, comparison.measure)
    rows = []
    for name in sorted(means, key=lambda n: -1.0 if (mean := means[n]) is None else mean, reverse=True):
        mean = means[name]
        gap = None if mean is None or base is None else mean - base
        delta = Cell("baseline") if name == comparison.baseline else Cell(signed(gap))
        quality = [Cell(value(average(blocks, name, measure))) for measure in measures]
        rows.append(Row(one_line(name), (*quality, delta, *(Cell(NONE) for _ in costs))))
    return Block(f"average of {len(blocks)} datasets", tuple(rows))


# --- a terminal -------------------------------------------------------------------------------------------------------

_SIGNS: dict[Mark, str] = {"": "", "best": "* ", "tied": "≈ ", "significant": "* "}


def to_text(table: Table, width: int | None = None) -> str:
    """The table in plain monospaced text, ending in a line end.

    Args:
        width: columns of the terminal; columns that do not fit go below, under the systems' names again.
    """
    names = [row.system for block in table.blocks for row in block.rows]
    room = max(8, min(40, (width or 200) // 3))
    first = max([columns("system"), *(min(columns(name), room) for name in names)])
    widths = [
        max(columns(title), *(columns(_plain(row.cells[i])) for block in table.blocks for row in block.rows))
        for i, title in enumerate(table.columns)
    ]
    bands = list(_bands(widths, first, width))
    parts = ["\n".join(_text_block(table, block, band, widths, first)) for block in table.blocks for band in bands]
    signs = [f"{_SIGNS[mark]}{text}" for mark, text in zip(table.marks, table.legend, strict=True)]
    return "\n\n".join([*parts, *(["\n".join(signs)] if signs else [])]) + "\n"


def _plain(cell: Cell) -> str:
    detail = f" ({cell.detail})" if cell.detail.startswith("p") else f" {cell.detail}" if cell.detail else ""
    return f"{_SIGNS[cell.mark]}{cell.text}{detail}"


def _bands(widths: Sequence[int], first: int, width: int | None) -> Iterable[list[int]]:
    band: list[int] = []
    used = first
    for i, each in enumerate(widths):
        if band and width is not None and used + 2 + each > width:
            yield band
            band, used = [], first
        band.append(i)
        used += 2 + each
    yield band


def _text_block(table: Table, block: Block, band: Sequence[int], widths: Sequence[int], first: int) -> Iterable[str]:
    def line(name: str, cells: Iterable[str]) -> str:
        name = fit(name, first)
        padded = (" " * (widths[i] - columns(text)) + text for i, text in zip(band, cells, strict=True))
        return "  ".join([name + " " * (first - columns(name)), *padded]).rstrip()

    yield block.title
    header = line("system", (table.columns[i] for i in band))
    yield header
    yield "─" * (first + sum(2 + widths[i] for i in band))
    for row in block.rows:
        yield line(row.system, (_plain(row.cells[i]) for i in band))


def comparison_text(evaluations: Sequence[Evaluation], comparison: Comparison, width: int | None = None) -> str:
    """The results table as text; the arguments are those of `comparison_table` and `to_text`."""
    return to_text(comparison_table(evaluations, comparison), width)


def evaluation_text(evaluation: Evaluation) -> str:
    """One system's measures with their 95 % intervals, and its costs, as lines of text."""
    head = " · ".join(map(one_line, (evaluation.system, evaluation.dataset, evaluation.split)))
    lines = [f"{head} · {evaluation.queries:,} queries"]
    room = max(
        [columns(name) for name in evaluation.measures] + [columns(title) for _, title, _ in _costs([evaluation])]
    )
    for name, estimate in evaluation.measures.items():
        lines.append(f"{name:<{room}}  {value(estimate.mean)} [{value(estimate.low)}, {value(estimate.high)}]")
    costs = [(title, show(evaluation.cost.get(key))) for key, title, show in _costs([evaluation])]
    lines += [f"{title:<{room}}  {shown}" for title, shown in costs if shown != NONE]
    if (share := evaluation.cost.get("truncated")) is not None:
        lines.append(f"{'truncated':<{room}}  {share:.1%} of the documents are longer than what the model reads")
    return "\n".join(lines) + "\n"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """A GitHub table for each block; what is bold is significantly better than every other system."""
    parts = []
    for block in table.blocks:
        lines = [f"**{escape_markdown(block.title)}**", ""]
        lines.append("| " + " | ".join(["system", *map(escape_markdown, table.columns)]) + " |")
        lines.append("|---|" + "---:|" * len(table.columns))
        for row in block.rows:
            lines.append("| " + " | ".join([escape_markdown(row.system), *map(_markdown_cell, row.cells)]) + " |")
        parts.append("\n".join(lines))
    signs: dict[Mark, str] = {"best": "**bold**", "tied": "≈ best", "significant": "\\*"}
    legend = [f"{signs[mark]}: {escape_markdown(text)}" for mark, text in zip(table.marks, table.legend, strict=True)]
    return "\n\n".join([*parts, *legend]) + "\n"


def escape_markdown(text: str) -> str:
    """Any text as that text in a cell of a GitHub table."""
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    if cell.mark == "best":
        text = f"**{text}**"
    mark = {"tied": " ≈ best", "significant": "\\*"}.get(cell.mark, "")
    return f"{text}{mark} {escape_markdown(cell.detail)}".rstrip()


# --- LaTeX ------------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≈": r"$\approx$",
    "−": "$-$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "–": "--",
    "·": r"$\cdot$",
    "\u00a0": "~",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",
    "]": "{]}",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def to_latex(table: Table) -> str:
    """A `tabular` for the booktabs package; what is bold is significantly better than every other system."""
    width = len(table.columns) + 1
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}", "\\toprule"]
    lines.append(" & ".join(["system", *map(escape_latex, table.columns)]) + r" \\")
    for block in table.blocks:
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{escape_latex(block.title)}}}}} \\\\"]
        lines += [" & ".join([escape_latex(row.system), *map(_latex_cell, row.cells)]) + r" \\" for row in block.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {mark}: {text}" for mark, text in zip(table.marks, table.legend, strict=True)]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Any text as that text in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    if cell.mark == "best":
        text = f"\\textbf{{{text}}}"
    mark = {"tied": r"$^{\approx}$", "significant": "$^{*}$"}.get(cell.mark, "")
    return f"{text}{mark} {escape_latex(cell.detail)}".rstrip()
