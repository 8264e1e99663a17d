"""`lode data …`: import and check datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, show
from lodesmith.cli.generate import questions, trace
from lodesmith.cli.mine import mine
from lodesmith.cli.pairs import pairs
from lodesmith.cli.pull import pull
from lodesmith.cli.teach import teach
from lodesmith.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Import and check datasets.")
app.command()(mine)
app.command()(pairs)
app.command()(pull)
app.command()(trace)
app.command()(questions)
app.command()(teach)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="dataset folder in BEIR layout")],
    fix: Annotated[
        Path | None, typer.Option(help="write a clean copy here, and what was left out to rejects.jsonl")
    ] = None,
    as_json: Json = False,
) -> int:
    """Count and locate every problem of a dataset. Exit code 2 where there are errors.

    Example: lode data check my-dataset --fix my-dataset-clean
    """
    from lodesmith.data.check import check as run

    with progress():
        report = run(folder, fix=fix)
    show(as_json, report.to_json(), report.to_text())
    return 0 if report.ok or fix else 2


@app.command("import")
def import_(  # noqa: PLR0913, PLR0917 - the options of the verb
    paths: Annotated[
        list[Path], typer.Argument(help="files and folders: txt, md, rst, html, pdf; JSONL, JSON, TSV, Parquet, TREC")
    ],
    out: Annotated[Path, typer.Option(help="the dataset folder to write")],
    name: Annotated[str | None, typer.Option(help="what tables call it")] = None,
    words: Annotated[int, typer.Option(help="most words of a passage that is cut from a text")] = 200,
    split: Annotated[
        str | None, typer.Option(help="split of judgements whose file name does not say train, dev or test")
    ] = None,
    pages: Annotated[bool, typer.Option("--pages", help="PDF files as page images, not as passages of text")] = False,
    dpi: Annotated[float, typer.Option(help="resolution of page images; of huge pages lower")] = 150,
    pages_range: Annotated[str, typer.Option(help="which pages of PDF files, such as 1-10,15,20-")] = "",
    as_json: Json = False,
) -> int:
    """Turn files into a dataset: texts and PDF files into passages (or page images), rows into what they are.

    Recognised by content: BEIR and TREC (documents, topics, qrels), MS MARCO (collection, queries, qrels, triples),
    SQuAD, Natural Questions, DPR, HotpotQA, CLaRa, rows of query, pos and neg, and Parquet files of any of them.

    Example: lode data import manuals/ faq.html --out my-dataset

    Example: lode data import reports/*.pdf --pages --pages-range 1-10 --out my-pages
    """
    from lodesmith.data.importing import Pages, import_paths
    from lodesmith.data.pdf import parse_ranges

    for path in paths:
        if not path.exists():
            raise InputError("no such file or folder", path=path)
    chosen = Pages(pages, dpi, parse_ranges(pages_range) if pages_range else ())
    with progress():
        report = import_paths(paths, out, name=name, words=words, pages=chosen, split=split)
    show(as_json, report.to_json(), report.to_text())
    return 0
