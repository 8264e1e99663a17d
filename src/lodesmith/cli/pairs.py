"""`lode data pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, show

_ALL = "title,heading,inverse_cloze,neighbours"


def pairs(
    folder: Annotated[Path, typer.Argument(help="dataset folder")],
    methods: Annotated[str, typer.Option(help="which, with commas between")] = _ALL,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many documents, drawn by hash")] = None,
    split: Annotated[str, typer.Option(help="documents that other splits judge are left out")] = "train",
    everything: Annotated[
        bool, typer.Option("--everything", help="use documents whatever split judges them: they are read, not asked")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the sample and the sentences taken out")] = 0,
    as_json: Json = False,
) -> None:
    """Make pairs for training without questions into columns/pairs.jsonl.

    title: a title and the passage that begins under it. heading: a heading and its section. inverse_cloze: a sentence
    and the passage that it is taken out of. neighbours: a passage and the next of the same source (ids SOURCE#n).
    Passages, titles and sentences that nearly repeat others are left out.

    Example: lode data pairs my-dataset --methods title,inverse_cloze --limit 100000
    """
    from lodesmith.data.pairs import make_pairs, pairs_text

    names = [name.strip() for name in methods.split(",") if name.strip()]
    with progress():
        info = make_pairs(folder, methods=names, limit=limit, split=None if everything else split, seed=seed)
    show(as_json, info, pairs_text(info))
