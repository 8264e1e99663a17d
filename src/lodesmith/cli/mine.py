"""`lode data mine`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, show
from lodesmith.core.errors import ConfigError


class Sampling(StrEnum):
    """Which of the candidates that remain."""

    TOP = "top"
    RANDOM = "random"


def mine(  # noqa: PLR0913, PLR0917 - the options of the verb
    folder: Annotated[Path, typer.Argument(help="dataset folder")],
    system: Annotated[
        str, typer.Option("--with", help="who ranks: bm25, minilm, a model, run or index, A+B, A+rerank:MODEL")
    ],
    split: Annotated[str, typer.Option(help="whose queries")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many queries")] = None,
    negatives: Annotated[int, typer.Option(min=1, help="wanted for each query")] = 7,
    ranks: Annotated[str, typer.Option(help="FIRST-LAST: which ranks to look at, positives not counted")] = "1-100",
    margin_absolute: Annotated[
        float | None, typer.Option(min=0, help="drop candidates above the positive's score less this")
    ] = None,
    margin_relative: Annotated[
        float, typer.Option(min=0, max=1, help="drop candidates above this share of the positive's score; 0: off")
    ] = 0.95,
    judge: Annotated[
        str | None, typer.Option("--filter", help="a cross-encoder whose scores the margins compare instead")
    ] = None,
    sampling: Annotated[Sampling, typer.Option(help="the best ranked that remain, or any of them")] = Sampling.TOP,
    similar: Annotated[
        float, typer.Option(min=0.01, max=1, help="Jaccard similarity from which a text is a positive's duplicate")
    ] = 0.8,
    name: Annotated[str, typer.Option(help="of the column")] = "negatives",
    seed: Annotated[int, typer.Option(help="of random sampling")] = 0,
    as_json: Json = False,
) -> None:
    """Mine hard negatives into columns/negatives.jsonl. Interrupted, the same command continues.

    Where a query has several positives, the one with the lowest score sets the margins. The relative margin of .95
    drops what is above .95 × the positive's score; of scores below 0, what is above 1.05 × it.

    Example: lode data mine medquad --with bm25 --negatives 7 --ranks 1-100
    """
    from lodesmith.recipes.mining import Rules, mine_dataset, mining_text

    first, last = _range(ranks)
    rules = Rules(
        negatives=negatives,
        first=first,
        last=last,
        absolute=margin_absolute,
        relative=margin_relative or None,
        sampling=sampling.value,
        similar=similar,
        seed=seed,
    )
    with progress():
        info = mine_dataset(folder, system, split=split, limit=limit, rules=rules, judge=judge, name=name)
    show(as_json, info, mining_text(info))


def _range(ranks: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+)-([0-9]+)", ranks.strip())
    if not found:
        raise ConfigError(f"{ranks!r} is no range of ranks", "give FIRST-LAST, such as --ranks 1-100")
    return int(found[1]), int(found[2])
