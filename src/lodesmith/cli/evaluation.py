"""`lode evaluate` and `lode compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, say, show
from lodesmith.cli.index import PASSAGES
from lodesmith.core.errors import InputError


def evaluate(  # noqa: PLR0913, PLR0917 - the options of the verb
    system: Annotated[
        str, typer.Argument(help="bm25, random, minilm, a model, run or index folder, a TREC run, or A+B")
    ],
    datasets: Annotated[list[Path], typer.Argument(metavar="DATASET...", help="dataset folders")],
    split: Annotated[str, typer.Option(help="which judgements")] = "test",
    measures: Annotated[str, typer.Option(help="more measures, such as nDCG@20,R@50")] = "",
    passages: Annotated[int | None, typer.Option(min=8, help=PASSAGES)] = None,
    out: Annotated[Path | None, typer.Option(help="evaluation file to write (with several datasets: a folder)")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run file to write (with several datasets: a folder)")] = None,
    as_json: Json = False,
) -> None:
    """Measure a system on the judged queries of a split.

    Example: lode evaluate minilm scifact --out minilm.json
    """
    from lodesmith.recipes.evaluating import evaluate_datasets
    from lodesmith.reports.tables import evaluation_text

    _distinct(out, run)
    extra = [name for name in measures.split(",") if name]
    with progress():
        results = evaluate_datasets(system, datasets, split=split, measures=extra, out=out, run=run, passages=passages)
    value = results[0].to_json() if len(results) == 1 else {"evaluations": [r.to_json() for r in results]}
    show(as_json, value, "\n\n".join(evaluation_text(result) for result in results))


def compare(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="evaluation files of two systems or more")],
    baseline: Annotated[Path | None, typer.Option(help="the evaluation file that the others are held against")] = None,
    measure: Annotated[str, typer.Option(help="the measure to test")] = "nDCG@10",
    report: Annotated[Path | None, typer.Option(help="HTML page to write")] = None,
    out: Annotated[Path | None, typer.Option(help="comparison file to write")] = None,
    as_json: Json = False,
) -> None:
    """Compare systems query by query: difference, interval, p by randomisation, Holm's correction.

    Example: lode compare bm25.json minilm.json --baseline bm25.json --report report.html
    """
    from lodesmith.recipes.evaluating import compare_files
    from lodesmith.reports.tables import comparison_text

    _distinct(report, out)
    evaluations, comparison = compare_files(files, baseline=baseline, measure=measure, report=report, out=out)
    for path in (report, out):
        if path is not None:
            say(f"wrote {path}")
    show(as_json, comparison.to_json(), comparison_text(evaluations, comparison))


def _distinct(*paths: Path | None) -> None:
    """Refuse one path for two outputs."""
    given = [path.resolve() for path in paths if path is not None]
    if len(set(given)) < len(given):
        raise InputError("two outputs have the same path", "give each its own", path=given[0])


VERBS = (evaluate, compare)
