"""`lode export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, show


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_RUN", help="a model folder, a run directory, a hub name, or minilm")
    ],
    to: Annotated[str, typer.Option(metavar="KIND", help="onnx, openvino, int8 or onnx-int8")],
    out: Annotated[Path, typer.Option(help="the folder to write; it must not be there")],
    check: Annotated[Path | None, typer.Option(metavar="DATASET", help="compare on a dataset too")] = None,
    split: Annotated[str, typer.Option(help="whose queries")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="documents of the sample, where not more are relevant")] = 1000,
    as_json: Json = False,
) -> None:
    """Write a model as another program runs it, or in int8, with a report of how far it equals its source.

    The folder loads wherever a model does. onnx and openvino are float32: one whose vectors differ is refused.

    Example: lode export minilm --to int8 --out minilm-int8 --check scifact
    """
    from lodesmith.recipes.exporting import export as write

    with progress():
        found = write(model, to, out, check=check, split=split, limit=limit)
    show(as_json, found.to_json(), found.to_text())


VERBS = (export,)
