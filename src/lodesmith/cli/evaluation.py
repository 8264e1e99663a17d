"""`lode evaluate` and `lode compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lodesmith.cli.asking import As, Candidates, Documents, Limit, Pool, measure_answers, show_answers
from lodesmith.cli.console import Json, progress, say, show
from lodesmith.cli.index import PASSAGES
from lodesmith.core.errors import InputError

if TYPE_CHECKING:
    from lodesmith.recipes.benchmarking import Benchmark
    from lodesmith.recipes.compressing import Compressed
    from lodesmith.recipes.retention import Retention
    from lodesmith.recipes.tracing import Controls
    from lodesmith.reports.paper_tables import PaperTable

MARKDOWN = "table for a paper to write, a row a dataset and their average, as Markdown"
LATEX = "the same as LaTeX (booktabs)"
CODEC = (
    "measure the vectors in fewer bytes too: float16, int8, binary:rescore=4, pq:m=48, matryoshka:m=128,then=int8; "
    "give it several times for a table of quality against bytes (--out and --run are folders then)"
)
TRACES = (
    "measure with each query's reasoning trace, without, and with another query's: append (behind the query) or fuse "
    "(their scores), with weight=, words=, column=, seed= (--out and --run are folders then)"
)
OUT = "file to write (of several datasets, --codec, --traces or --as a folder; finished datasets, and ways, are kept)"
REPORT = "with --teacher, --traces or --as: HTML page to write"
TEACHER = "hold the system, a student, against this one: what it keeps, how much faster it is, and where it loses"


def evaluate(  # noqa: PLR0913, PLR0917 - the options of the verb
    system: Annotated[
        str, typer.Argument(help="bm25, random, minilm, a model, run or index folder, a TREC run, or A+B")
    ],
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET...", help="dataset folders, or pulled BEIR sets: beir/scifact, beir:quick, beir:standard …"
        ),
    ],
    split: Annotated[str, typer.Option(help="which judgements")] = "test",
    measures: Annotated[str, typer.Option(help="more measures, such as nDCG@20,R@50")] = "",
    passages: Annotated[int | None, typer.Option(min=8, help=PASSAGES)] = None,
    codec: Annotated[list[str] | None, typer.Option(metavar="NAME[:SETTING=VALUE,…]", help=CODEC)] = None,
    teacher: Annotated[str | None, typer.Option(metavar="SYSTEM", help=TEACHER)] = None,
    traces: Annotated[str | None, typer.Option(metavar="append|fuse[:SETTING=VALUE,…]", help=TRACES)] = None,
    ways: As = None,
    pool: Pool = None,
    documents: Documents = None,
    candidates: Candidates = None,
    limit: Limit = None,
    report: Annotated[Path | None, typer.Option(help=REPORT)] = None,
    out: Annotated[Path | None, typer.Option(help=OUT)] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run file to write (with several datasets: a folder)")] = None,
    markdown: Annotated[Path | None, typer.Option(help=MARKDOWN)] = None,
    latex: Annotated[Path | None, typer.Option(help=LATEX)] = None,
    as_json: Json = False,
) -> None:
    """Measure a system on the judged queries of a split. Of several datasets there is a table with their average.

    Example: lode evaluate minilm scifact --out minilm.json

    Example: lode evaluate runs/clara squad --as closed,text,full --pool oracle --out answers
    """
    _distinct(out, run, markdown, latex, report)
    _writable(markdown, latex, report)
    extra = [name for name in measures.split(",") if name]
    _one_way(teacher=teacher, codec=codec, traces=traces, **{"as": ways})
    given = {"pool": pool, "documents": documents, "candidates": candidates, "limit": limit}
    if ways is not None:
        _not_with_as(measures=measures, passages=passages)
        answered = measure_answers(system, datasets, ways, given, split=split, out=out, run=run)
        show_answers(as_json, answered, markdown, latex, report)
        return
    _only_with_as(**given)
    common: dict[str, Any] = {"split": split, "measures": extra, "out": out, "passages": passages}
    if teacher is not None:
        _only_teacher(run)
        from lodesmith.recipes.retention import retention_datasets

        with progress():
            held = retention_datasets(system, teacher, datasets, **common)
        _show_retention(as_json, held, markdown, latex, report)
        return
    if traces is not None:
        from lodesmith.recipes.tracing import TraceUse, controls_datasets

        use = TraceUse.parse(traces)
        with progress():
            told = controls_datasets(system, datasets, use, run=run, **common)
        _show_controls(as_json, told, markdown, latex, report)
        return
    if report is not None:
        do = "compare evaluation files: lode compare --report"
        raise InputError(f"--report is written {REPORT.partition(':')[0]}", do)
    if codec:
        from lodesmith.recipes.compressing import compressed_datasets

        with progress():
            kept = compressed_datasets(system, datasets, codec, run=run, **common)
        _show_codecs(as_json, kept, markdown, latex)
        return
    from lodesmith.recipes.benchmarking import evaluate_datasets

    with progress():
        plain = evaluate_datasets(system, datasets, run=run, **common)
    _show_evaluations(as_json, plain, extra, markdown, latex)


def _show_evaluations(
    as_json: bool, found: Benchmark, extra: list[str], markdown: Path | None, latex: Path | None
) -> None:
    """A system's measures on each dataset, on the screen and where asked; of several with their average."""
    from lodesmith.reports.paper_tables import averages, paper_table, paper_text
    from lodesmith.reports.tables import MEASURES, evaluation_text

    if found.kept:
        say(f"finished before, not measured again: {', '.join(found.kept)}")
    results = list(found.evaluations)
    shown = list(dict.fromkeys([*MEASURES, *(name for name in results[0].measures if name in extra)]))
    table = paper_table(results, measures=shown)
    _write_tables(table, markdown, latex)
    if len(results) == 1:
        show(as_json, results[0].to_json(), evaluation_text(results[0]))
        return
    value = {"evaluations": [result.to_json() for result in results], "average": averages(results)}
    details = "\n\n".join(evaluation_text(result) for result in results)
    show(as_json, value, f"{details}\n\n{paper_text(table)}")


def compare(  # noqa: PLR0913, PLR0917 - the options of the verb
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="evaluation files of two systems or more")],
    baseline: Annotated[Path | None, typer.Option(help="the evaluation file that the others are held against")] = None,
    measure: Annotated[str | None, typer.Option(help="the measure to test; nDCG@10, or of answers CoverEM")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page to write")] = None,
    out: Annotated[Path | None, typer.Option(help="comparison file to write")] = None,
    markdown: Annotated[Path | None, typer.Option(help=MARKDOWN)] = None,
    latex: Annotated[Path | None, typer.Option(help=LATEX)] = None,
    as_json: Json = False,
) -> None:
    """Compare systems query by query: difference, interval, p by randomisation, Holm's correction.

    Example: lode compare bm25.json minilm.json --baseline bm25.json --report report.html
    """
    from lodesmith.recipes.evaluating import compare_files
    from lodesmith.reports.paper_tables import paper_table
    from lodesmith.reports.tables import comparison_text

    _distinct(report, out, markdown, latex)
    _writable(markdown, latex)
    evaluations, comparison = compare_files(files, baseline=baseline, measure=measure, report=report, out=out)
    _write_tables(paper_table(evaluations, comparison), markdown, latex)
    for path in (report, out):
        if path is not None:
            say(f"wrote {path}")
    show(as_json, comparison.to_json(), comparison_text(evaluations, comparison))


def _one_way(**given: object) -> None:
    """Refuse two ways to measure a system."""
    if len(several := [f"--{name}" for name, value in given.items() if value]) > 1:
        raise InputError(f"{' and '.join(several)} do not go together", "measure one at a time")


def _not_with_as(**given: object) -> None:
    """Refuse what says nothing of answers."""
    if several := [f"--{name}" for name, value in given.items() if value]:
        raise InputError(f"{several[0]} and --as do not go together", "leave one out")


def _only_with_as(**given: object) -> None:
    """Refuse what speaks of answers where none are asked for."""
    if several := [f"--{name}" for name, value in given.items() if value is not None]:
        raise InputError(f"{several[0]} is of answers, and none are asked for", "say how: --as full")


def _only_teacher(run: Path | None) -> None:
    """Refuse what `--teacher` does not measure."""
    if run is not None:
        raise InputError("--teacher and --run do not go together", "measure one at a time")


def _show_controls(
    as_json: bool, found: Controls, markdown: Path | None, latex: Path | None, report: Path | None
) -> None:
    """A system with traces and its controls, on the screen and where asked."""
    from lodesmith.core.files import write_text
    from lodesmith.reports.page import render
    from lodesmith.reports.paper_tables import paper_table
    from lodesmith.reports.tables import comparison_text

    _write_tables(paper_table(found.evaluations, found.comparison), markdown, latex)
    if report is not None:
        write_text(report, render("Traces and their controls", found.evaluations, found.comparison, notes=found.notes))
        say(f"wrote {report}")
    value = {
        "evaluations": [each.to_json() for each in found.evaluations],
        "comparison": found.comparison.to_json(),
        "missing": dict(found.missing),
    }
    show(as_json, value, "\n".join([comparison_text(found.evaluations, found.comparison), *found.notes]))


def _show_retention(
    as_json: bool, found: list[Retention], markdown: Path | None, latex: Path | None, report: Path | None
) -> None:
    """Student against teacher, on the screen and where asked."""
    from lodesmith.core.files import write_text
    from lodesmith.reports.retention_table import losses_text, parts_table, retention_notes, retention_table
    from lodesmith.reports.tables import to_latex, to_markdown, to_text

    told = [each.to_json() for each in found]
    tables = [retention_table(told), parts_table(told)]
    for path, render in ((markdown, to_markdown), (latex, to_latex)):
        if path is not None:
            write_text(path, "\n".join(render(table) for table in tables))
            say(f"wrote {path}")
    if report is not None:
        from lodesmith.recipes.retention import retention_page

        write_text(report, retention_page(found, retention_notes(told)))
        say(f"wrote {report}")
    show(as_json, {"retentions": told}, "\n".join([*map(to_text, tables), losses_text(told)]))


def _show_codecs(as_json: bool, found: Compressed, markdown: Path | None, latex: Path | None) -> None:
    """The table of codecs, on the screen and where asked."""
    from lodesmith.core.files import write_text
    from lodesmith.reports.codec_table import codec_table
    from lodesmith.reports.tables import to_latex, to_markdown, to_text

    table = codec_table(found.evaluations, found.comparison)
    for path, render in ((markdown, to_markdown), (latex, to_latex)):
        if path is not None:
            write_text(path, render(table))
            say(f"wrote {path}")
    value = {"evaluations": [each.to_json() for each in found.evaluations], "comparison": found.comparison.to_json()}
    show(as_json, value, to_text(table))


def _write_tables(table: PaperTable, markdown: Path | None, latex: Path | None) -> None:
    from lodesmith.core.files import write_text
    from lodesmith.reports.paper_tables import paper_latex, paper_markdown

    for path, render in ((markdown, paper_markdown), (latex, paper_latex)):
        if path is not None:
            write_text(path, render(table))
            say(f"wrote {path}")


def _distinct(*paths: Path | None) -> None:
    """Refuse one path for two outputs."""
    given = [path.resolve() for path in paths if path is not None]
    if len(set(given)) < len(given):
        raise InputError("two outputs have the same path", "give each its own", path=given[0])


def _writable(*paths: Path | None) -> None:
    """Refuse what could not be written before anything is measured."""
    for path in paths:
        if path is None:
            continue
        above = next(folder for folder in (path.parent, *path.parent.parents) if folder.exists())
        if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
            raise InputError("no file can be written there", "choose another path", path=path)


VERBS = (evaluate, compare)
