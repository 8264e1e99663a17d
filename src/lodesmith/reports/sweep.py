"""What a sweep adds to the page: its table over seeds, validation curves, the measure by each value, what failed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lodesmith.core.errors import InputError
from lodesmith.reports.curves import Line, curve_plot, swept_plot
from lodesmith.reports.markup import Markup, foreign, join, tag, text
from lodesmith.reports.sections import WIDTHS, fitting, section
from lodesmith.reports.tables import Cell

__all__ = ["added", "curve_section", "failure_section", "geometry_section", "setting_section", "swept_section"]

_PLACE = '<section id="intervals">'


def added(page: str, sections: Sequence[str]) -> str:
    """The page of `reports.page.render` with further sections after its results.

    Raises:
        InputError: it is another page.
    """
    if page.count(_PLACE) != 1:
        raise InputError("this page has no results to add to", "make it with reports.page.render")
    return page.replace(_PLACE, join([part for part in sections if part], "\n") + "\n" + _PLACE)


def setting_section(columns: Sequence[str], rows: Mapping[str, Sequence[Cell]], *, lead: str = "") -> Markup:
    """The settings with their spread over seeds, in a box that scrolls sideways.

    Args:
        columns: titles of the columns after the name.
        rows: setting → as many cells.
        lead: how to read it.
    """
    return section("settings", "Settings and seeds", lead, _table("Settings", columns, rows))


def geometry_section(columns: Sequence[str], rows: Mapping[str, Sequence[Cell]], *, lead: str = "") -> Markup:
    """What a setting finds, and how its vectors lie; as `setting_section`."""
    return section("shapes", "Geometry beside retrieval", lead, _table("Geometry", columns, rows))


def _table(label: str, columns: Sequence[str], rows: Mapping[str, Sequence[Cell]]) -> Markup:
    head = tag("tr", *(tag("th", title, scope="col") for title in ("setting", *columns)))
    body = [
        tag("tr", tag("th", tag("bdi", _name(name), dir="auto"), scope="row"), *map(_cell, cells))
        for name, cells in rows.items()
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def _name(name: str) -> Markup:
    """A setting's name that breaks between its parts, not within its figures."""
    return Markup(re.sub("([=_/])", r"\1<wbr>", text(name)))


def _cell(cell: Cell) -> Markup:
    sign = tag("span", "*", class_="mark significant") if cell.mark == "significant" else ""
    return tag("td", tag("span", cell.text, sign), tag("small", cell.detail) if cell.detail else "")


def curve_section(lines: Mapping[str, Line], *, measure: str) -> Markup:
    """How each run came to its figures."""
    plots = [curve_plot(lines, measure=measure, width=width) for _, width in WIDTHS]
    lead = "Measured while training. A line is a setting, as the mean of its seeds; thin lines are the seeds."
    return section("curves", "Validation curves", lead, tag("figure", fitting(plots)) if any(plots) else "")


def swept_section(
    charts: Mapping[str, tuple[Sequence[str], Mapping[str, Mapping[str, Sequence[float]]]]],
    *,
    measure: str,
    references: Mapping[str, float],
) -> Markup:
    """The measure by each varied setting.

    Args:
        charts: key → labels of its values, and series → label → the measure seed by seed.
        measure: what was measured.
        references: baseline → its mean.
    """
    figures = []
    for key, (labels, series) in charts.items():
        drawn = [
            swept_plot(series, labels, key=key, measure=measure, references=references, width=width)
            for _, width in WIDTHS
        ]
        if any(drawn):
            figures.append(tag("figure", tag("figcaption", foreign(key)), fitting(drawn)))
    lead = "Each large dot is a setting: the mean of its seeds, which are the small dots on the bar of their range."
    return section("swept", f"{measure} by value", lead, *figures)


def failure_section(failures: Mapping[str, str]) -> Markup:
    """Runs that did not finish, and why.

    Args:
        failures: run → reason.
    """
    items = [tag("li", foreign(name, "b"), ": ", foreign(reason)) for name, reason in failures.items()]
    lead = "Their settings are not compared: they would stand on fewer seeds than the others."
    return section("failed", "Failed runs", lead, tag("ul", *items, class_="notes") if items else "")
