"""`lode hybrid`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, say, show
from lodesmith.cli.index import PASSAGES

TARGET = (
    "what the router predicts: overlap (the student misses much of the teacher's first ten; no labels are read) or "
    "judged (the teacher's nDCG@10 is higher)"
)


def hybrid(  # noqa: PLR0913, PLR0917 - the options of the verb
    student: Annotated[
        str, typer.Argument(help="a model in the teacher's space: a run of distil, or its model/ folder")
    ],
    teacher: Annotated[str, typer.Argument(help="the model whose vectors of the documents are searched")],
    dataset: Annotated[str, typer.Argument(help="dataset folder, or a pulled BEIR set")],
    out: Annotated[Path, typer.Option(help="folder to write; a system to evaluate: FOLDER, or FOLDER@THRESHOLD")],
    split: Annotated[str, typer.Option(help="whose queries the router learns from")] = "train",
    test: Annotated[str, typer.Option(help="whose queries the curve is measured on")] = "test",
    target: Annotated[str, typer.Option(metavar="overlap|judged", help=TARGET)] = "overlap",
    level: Annotated[float, typer.Option(help="overlap: the share of the first ten that is enough")] = 0.5,
    passages: Annotated[int | None, typer.Option(min=8, help=PASSAGES)] = None,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn")] = 0,
    as_json: Json = False,
) -> None:
    """Train a router that gives each query to a fast student or its slow teacher, over one index of the teacher's.

    Prints quality against latency at five thresholds, beside routing at random and the best that could be done.

    Example: lode hybrid runs/distil-1a2b3c4d minilm scifact --out scifact-hybrid
    """
    from lodesmith.recipes.hybrid import hybrid as make
    from lodesmith.reports.hybrid_table import hybrid_text

    with progress():
        found = make(
            student, teacher, dataset, out, split=split, test=test, target=target, level=level,  # type: ignore[arg-type]
            passages=passages, seed=seed,
        )  # fmt: skip
    say(f"wrote {out} (the picture: {out / 'curve.svg'})")
    told = found.to_json()
    show(as_json, told, hybrid_text(told))


VERBS = (hybrid,)
