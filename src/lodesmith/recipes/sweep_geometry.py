"""The geometry of a sweep's vectors beside what they find: a table of its own, as wide as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lodesmith.core.gaussianity import knots_of
from lodesmith.recipes.sweep_results import MEASURE, Result, Table, spread
from lodesmith.reports.tables import Cell
from lodesmith.reports.text import NONE

__all__ = ["FIGURES", "geometry_lead", "geometry_table"]

FIGURES = {
    "sigreg": "SIGReg T",
    "sigreg/n": "T/N",
    "sigreg_scaled": "T, scaled",
    "isoscore": "IsoScore*",
    "effective_rank": "effective rank",
    "mean_cosine": "mean cosine",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "hubness": "hubness",
}
"""What is told of the vectors, and the titles of the columns."""


def geometry_lead() -> str:
    """How to read the table."""
    return (
        "Of the documents' vectors and the validation's pairs, with the weights that were kept; means over seeds, with "
        f"their standard deviation. SIGReg's T is {knots_of().floor:.4f} for a standard normal sample and grows with "
        "the number of documents; scaled, the vectors first get unit variance on average."
    )


def geometry_table(results: Sequence[Result]) -> Table | None:
    """The settings in their order: the measure, and beside it the geometry; None where no run has told any."""
    shown = [name for name in FIGURES if any(name in result.geometry for result in results)]
    if not shown:
        return None
    rows = {}
    for result in results:
        told = [_cell(result.geometry.get(name)) for name in shown]
        rows[result.name] = (_cell(spread(result.evaluations).get(MEASURE)), *told)
    return Table((MEASURE, *(FIGURES[name] for name in shown)), rows)


def _cell(found: Mapping[str, float | None] | None) -> Cell:
    """Mean and standard deviation; these figures have no common scale."""
    if not found:
        return Cell(NONE)
    return Cell(_short(found["mean"], 3), "" if found["sd"] is None else f"± {_short(found['sd'], 1)}")


def _short(number: float | None, digits: int) -> str:
    """So many significant digits, without an exponent where the number is large."""
    assert number is not None
    return (f"{number:,.0f}" if abs(number) >= 10**digits else f"{number:.{digits}g}").replace("-", "−")
