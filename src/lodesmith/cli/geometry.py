"""`lode geometry`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, say, show


def geometry(
    model: Annotated[str, typer.Argument(help="a model folder, a run directory, a hub name, or minilm")],
    dataset: Annotated[Path, typer.Argument(help="dataset folder")],
    split: Annotated[
        str | None, typer.Option(help="whose relevant documents are the positive pairs; test where there is one")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="most documents, drawn at random")] = 20_000,
    out: Annotated[Path | None, typer.Option(help="folder for geometry.json and report.html")] = None,
    as_json: Json = False,
) -> None:
    """Measure how evenly a model's vectors fill their space: isotropy, spectrum, hubs, and how positive pairs lie.

    SIGReg with its floor, IsoScore, effective rank, mean cosine, uniformity, alignment, hubness.

    Example: lode geometry minilm scifact --out minilm-geometry
    """
    from lodesmith.recipes.geometry import geometry as examine

    with progress():
        found = examine(model, dataset, split=split, limit=limit, out=out)
    if out is not None:
        say(f"wrote {out / 'report.html'}")
    show(as_json, found.to_json(), found.to_text())


VERBS = (geometry,)
