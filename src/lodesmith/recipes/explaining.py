"""What a report shows beside figures: the queries that two systems answer most differently, with their passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lodesmith.core.files import read_json
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.reports.page import Answer, Example, Passage, extremes, main_pair

__all__ = ["examples", "page_answers"]

Top = Mapping[str, Sequence[tuple[str, float]]]

SHOWN = 3
"""Passages of each system."""


def examples(
    dataset: Dataset, evaluations: Sequence[Evaluation], comparison: Comparison, recommendation: str, runs: Path
) -> list[Example]:
    """The queries won and lost most by the pair of systems that the page is about.

    Args:
        dataset: the documents and judgements.
        evaluations: of one split.
        comparison: of these evaluations.
        recommendation: as `render` gets it.
        runs: folder of `SYSTEM.top.json` files: query id → [[document id, score], …].
    """
    names = main_pair(evaluations, comparison, recommendation)
    by_name = {evaluation.system: evaluation for evaluation in evaluations}
    a, b = (by_name[name] for name in names)
    run_a, run_b = (read_json(runs / f"{name}.top.json") for name in names)
    won, lost = extremes(a, b, comparison.measure)
    return [_example(dataset, query, a, b, run_a, run_b, comparison.measure) for query in (*won, *lost)]


def _example(
    dataset: Dataset, query: str, a: Evaluation, b: Evaluation, run_a: Top, run_b: Top, measure: str
) -> Example:
    judged = dataset.split(a.split)[query]
    relevant = [key for key, grade in judged.items() if grade > 0][:SHOWN]
    return Example(
        query,
        dataset.queries[query].text,
        a.per_query[query][measure],
        b.per_query[query][measure],
        tuple(_passage(dataset, key, None, judged) for key in relevant),
        _top(dataset, run_a, query, judged),
        _top(dataset, run_b, query, judged),
    )


def _top(dataset: Dataset, run: Top, query: str, judged: Mapping[str, int]) -> tuple[Passage, ...]:
    ranking = run.get(query, [])[:SHOWN]
    return tuple(_passage(dataset, key, score, judged) for key, score in ranking)


def _passage(dataset: Dataset, key: str, score: float | None, judged: Mapping[str, int]) -> Passage:
    document = dataset.documents.get(key)
    title, text = (document.title, document.text) if document else ("", "")
    return Passage(key, text, title, score, judged[key] > 0 if key in judged else None)


def page_answers(answers: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Sample questions as the page shows them."""
    return [
        Answer(found["query"], tuple(Passage(h["id"], h["text"], h["title"], h["score"]) for h in found["hits"]))
        for found in answers
    ]
