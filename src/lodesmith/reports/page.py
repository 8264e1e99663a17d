"""The report: one HTML file that holds everything, for a phone and a screen, in light and dark, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from lodesmith.core.files import write_text
from lodesmith.core.results import Comparison, Evaluation, Recommendation
from lodesmith.reports.examples import Answer, Example, Passage
from lodesmith.reports.findings import extremes, main_pair
from lodesmith.reports.geometry import pictures
from lodesmith.reports.markup import embedded, join, text
from lodesmith.reports.method import method_section, pair_section
from lodesmith.reports.sections import (
    answer_section,
    context_section,
    data_of,
    difference_section,
    example_section,
    interval_section,
    latency_section,
    opening,
    table_section,
)
from lodesmith.reports.story import Story
from lodesmith.reports.tables import comparison_table

if TYPE_CHECKING:
    from lodesmith.evaluation.geometry import Geometry

__all__ = ["Answer", "Example", "Passage", "extremes", "main_pair", "render", "save"]


def render(  # noqa: PLR0913 - what is compared, and the page's optional parts by name
    title: str,
    evaluations: Sequence[Evaluation],
    comparison: Comparison,
    *,
    recommendation: str | Recommendation = "",
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
    answers: Sequence[Answer] = (),
    geometry: Geometry | None = None,
) -> str:
    """The page as HTML.

    Args:
        title: what was compared.
        evaluations: at most one a system and dataset.
        comparison: of these systems; its measure and baseline lead the page.
        recommendation: the recommended system's name, or `"name: why"`; any other text is shown as it is. The notes
            of a `Recommendation` go to the page's own.
        examples: queries won and lost by the pair that `main_pair` names for this recommendation.
        notes: the caller's notes on the method, such as how queries were made.
        answers: sample questions with the passages that the recommended system returns.
        geometry: of a trained model's vectors, shown as pictures.

    Raises:
        InputError: there are no evaluations, or two of one system on one dataset.
    """
    if isinstance(recommendation, Recommendation):
        notes = [*recommendation.notes, *notes]
        recommendation = f"{recommendation.system}: {recommendation.reason}"
    story = Story.of(evaluations, comparison, recommendation)
    body = [
        opening(title, story),
        table_section(comparison_table(evaluations, comparison), story),
        interval_section(story),
        context_section(story),
        latency_section(story),
        difference_section(story),
        example_section(examples, story),
        answer_section(answers, story),
        *([] if geometry is None else pictures(geometry)),
        pair_section(story),
        method_section(story, notes),
    ]
    return Template(_part("page.html")).substitute(
        title=text(title),
        style=_part("report.css") + _part("plots.css"),
        body=join([part for part in body if part], "\n"),
        data=embedded(data_of(story), "data"),
        script=_part("report.js"),
    )


def save(path: Path | str, page: str) -> None:
    """Write the page atomically."""
    write_text(path, page)


def _part(name: str) -> str:
    return resources.files("lodesmith.reports").joinpath(name).read_text(encoding="utf-8")
