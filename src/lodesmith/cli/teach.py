"""`lode data teach`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, show


class Dtype(StrEnum):
    """The numbers that vectors are stored in."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


def teach(  # noqa: PLR0913, PLR0917 - the options of the verb
    folder: Annotated[Path, typer.Argument(help="dataset folder")],
    model: Annotated[
        str, typer.Option("--with", help="the teacher: a model folder, hub name, run or minilm; a cross-encoder too")
    ],
    split: Annotated[str, typer.Option(help="whose queries")] = "train",
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first so many queries, and the documents that they need")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="scores of candidate lists instead of vectors")] = False,
    candidates: Annotated[str, typer.Option(help="the column with the candidates")] = "negatives",
    dtype: Annotated[Dtype, typer.Option(help="of stored vectors")] = Dtype.FLOAT16,
    store: Annotated[Path | None, typer.Option(help="where vectors are kept, instead of the cache")] = None,
    name: Annotated[str | None, typer.Option(help="of what is written: teacher, or teacher_scores")] = None,
    as_json: Json = False,
) -> None:
    """Store what a teacher knows: vectors of every document and query, or scores. Interrupted, the same continues.

    Each distinct text is encoded once, whichever dataset or recipe asks; columns/teacher.meta.json says where.

    Example: lode data teach medquad --with minilm --dtype float16
    """
    from lodesmith.recipes.teaching import Part, teach_scores, teach_vectors, teaching_text

    part = Part(split, limit, candidates)
    with progress():
        if scores:
            info = teach_scores(folder, model, part, store=store, name=name or "teacher_scores")
        else:
            info = teach_vectors(folder, model, part, dtype=dtype.value, store=store, name=name or "teacher")
    show(as_json, info, teaching_text(info))
