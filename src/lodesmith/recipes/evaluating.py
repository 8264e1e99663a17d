"""Evaluate systems on datasets, and compare evaluation files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lodesmith.core.errors import InputError
from lodesmith.core.files import write_text
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.core.run import Run
from lodesmith.evaluation import compare as comparing
from lodesmith.evaluation import measures as measuring
from lodesmith.evaluation.evaluate import evaluate as measure_run
from lodesmith.recipes.systems import System, latency

__all__ = ["compare_files", "evaluate_system"]


def evaluate_system(
    system: System, dataset: Dataset, split: str = "test", measures: Sequence[str] = ()
) -> tuple[Evaluation, Run]:
    """Measure a resolved system on the judged queries of a split, with the contract's measures and `measures`."""
    chosen = list(measuring.DEFAULT)
    for spelling in measures:
        measure = measuring.parse(spelling)
        if measure not in chosen:
            chosen.append(measure)
    queries = {key: query.content for key, query in dataset.queries_of(split).items()}
    depth = max([100, *(measure.cutoff or 1000 for measure in chosen)])
    run = system.retriever.search(queries, depth + dataset.drop_same_id)
    cost = dict(system.cost)
    cost["query_ms_p50"] = latency(system.retriever, queries) if system.timed else None
    evaluation = measure_run(
        run,
        dataset.split(split),
        system=system.name,
        dataset=dataset.name,
        split=split,
        measures=chosen,
        drop_same_id=dataset.drop_same_id,
        cost=cost,
        fingerprints=dict(system.fingerprints) | {"dataset": dataset.fingerprint},
    )
    return evaluation, run


def compare_files(
    files: Sequence[Path],
    *,
    baseline: Path | None = None,
    measure: str | None = None,
    report: Path | None = None,
    out: Path | None = None,
) -> tuple[list[Evaluation], Comparison]:
    """Compare evaluation files; write the comparison file and the page where asked.

    Args:
        files: of two systems at least.
        baseline: that of the system the others are held against.
        measure: what is tested; None for CoverEM where all files have answers, else nDCG@10.
        report: the page to write.
        out: the comparison file to write.

    Raises:
        InputError: fewer than two systems, or files that do not belong together.
    """
    evaluations = [Evaluation.load(path) for path in files]
    name = None
    if baseline is not None:
        first = Evaluation.load(baseline)
        name = first.system
        if not any((e.system, e.dataset, e.split) == (name, first.dataset, first.split) for e in evaluations):
            evaluations.insert(0, first)
    if len({e.system for e in evaluations}) < 2:
        raise InputError("there is only one system in these files", "give the evaluation files of at least two")
    if measure is None:
        measure = "CoverEM" if all("CoverEM" in e.measures for e in evaluations) else "nDCG@10"
    comparison = comparing.compare(evaluations, measure=measure, baseline=name)
    if out is not None:
        comparison.save(out)
    if report is not None:
        from lodesmith.reports.page import render

        write_text(report, render("Comparison", evaluations, comparison))
    return evaluations, comparison
