"""`lode data …`: import and check datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, show
from lodesmith.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Import and check datasets.")


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
def import_(
    paths: Annotated[
        list[Path], typer.Argument(help="files and folders: txt, md, rst, html, pdf, JSONL, TSV, BEIR, TREC")
    ],
    out: Annotated[Path, typer.Option(help="the dataset folder to write")],
    name: Annotated[str | None, typer.Option(help="what tables call it")] = None,
    as_json: Json = False,
) -> int:
    """Turn files into a dataset of passages.

    Example: lode data import manuals/ faq.html --out my-dataset
    """
    from lodesmith.data.importing import import_paths

    for path in paths:
        if not path.exists():
            raise InputError("no such file or folder", path=path)
    with progress():
        report = import_paths(paths, out, name=name)
    show(as_json, report.to_json(), report.to_text())
    return 0
