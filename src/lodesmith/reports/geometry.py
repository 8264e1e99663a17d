"""The page of a geometry: its figures, how to read them, and three pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from lodesmith.reports.geometry_plots import cosine_plot, map_plot, spectrum_plot
from lodesmith.reports.markup import Markup, foreign, join, tag, text
from lodesmith.reports.sections import WIDTHS, section
from lodesmith.reports.text import value

if TYPE_CHECKING:
    from lodesmith.evaluation.geometry import Geometry

__all__ = ["pictures", "render"]


def render(title: str, geometry: Geometry, *, notes: Sequence[str] = ()) -> str:
    """The page as HTML, all in one file.

    Args:
        title: the model and the data.
        geometry: of its vectors.
        notes: how they came about, one sentence each.
    """
    body = [_opening(title, geometry), _table(geometry), *pictures(geometry)]
    if notes:
        items = tag("ul", *(foreign(note, "li") for note in notes), class_="notes")
        body.append(section("method", "How this was measured", "", items))
    page = Template(_part("page.html"))
    style = _part("report.css") + _part("plots.css")
    return page.substitute(title=text(title), style=style, body=join(body, "\n"), data="", script="")


def pictures(geometry: Geometry) -> list[Markup]:
    """A section for each of the three."""
    return [
        section(
            "spectrum",
            "Spectrum",
            "How much of the spread lies along each principal axis. Flat at 1 is isotropic; a steep fall means that "
            "few directions carry most of it.",
            _figure(lambda width: spectrum_plot(geometry.spectrum, width=width)),
        ),
        section(
            "cosines",
            "Cosines",
            "Of random pairs of documents, and of positive pairs: a query and a relevant document. The less the two "
            "overlap, the better the cosine tells relevant from random.",
            _figure(lambda width: cosine_plot(geometry.histogram.random, geometry.histogram.positive, width=width)),
        ),
        section(
            "map",
            "Map",
            f"The first two principal axes, which carry {_two(geometry):.1%} of the "
            "variance: near on the map is not near in the space.",
            _figure(lambda width: map_plot(geometry.picture.documents, geometry.picture.queries, width=width)),
        ),
    ]


def _two(geometry: Geometry) -> float:
    squares = [share**2 for share in geometry.spectrum]
    return sum(squares[:2]) / (sum(squares) or 1.0)


def _opening(title: str, geometry: Geometry) -> Markup:
    shape = geometry.sigreg_scaled
    facts = [
        (
            "How Gaussian?",
            f"T/N {shape / geometry.items:.2g}",
            f"SIGReg T {shape:.3g} where {geometry.floor:.2f} is a Gaussian, after rescaling",
        ),
        ("One direction?", value(geometry.mean_cosine), "mean cosine of random pairs; 0 is none"),
    ]
    if geometry.positives:
        facts.append(
            ("Do pairs meet?", value(geometry.positives.cosine), "mean cosine of a query and its relevant document")
        )
    if geometry.hubness:
        facts.append(
            ("Hubs?", f"{geometry.hubness.skewness:.2f}", f"skew of N_{geometry.hubness.k}; 0 is even, 1 already skew")
        )
    shown = [tag("div", tag("dt", q), tag("dd", big, class_="big"), tag("dd", below)) for q, big, below in facts]
    headline = f"The vectors spread over {geometry.effective_rank:.0f} of {geometry.dimension} dimensions"
    return tag("header", foreign(title, "p", class_="title"), tag("h1", headline), tag("dl", *shown, class_="facts"))


def _table(geometry: Geometry) -> Markup:
    head = tag(
        "tr",
        *(tag("th", name, scope="col") for name in ("measure", "figure")),
        tag("th", "how to read it", scope="col", style="text-align:left"),
    )
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", figure), tag("td", note, style=_NOTE))
        for name, figure, note in geometry.rows()
    ]
    box = tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), **_SCROLL)
    return section("measures", "Measures", "", box)


_NOTE = "text-align:left;white-space:normal;min-width:8.5rem"
_SCROLL: dict[str, str | bool] = {"class_": "scroll", "role": "region", "aria_label": "Measures", "tabindex": "0"}


def _figure(draw: Callable[[int], str]) -> Markup:
    """The plot for a phone and for a screen."""
    return tag("figure", *(tag("div", Markup(draw(width)), class_=name) for name, width in WIDTHS))


def _part(name: str) -> str:
    return resources.files("lodesmith.reports").joinpath(name).read_text(encoding="utf-8")
