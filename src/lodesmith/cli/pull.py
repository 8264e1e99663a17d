"""`lode data pull`: published collections as dataset folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lodesmith.cli.console import Json, progress, show

__all__ = ["pull"]


def pull(  # noqa: PLR0913, PLR0917 - the options of the contract
    name: Annotated[
        str,
        typer.Argument(
            help="msmarco, wikipedia[:lang[:date]], beir/NAME, beir:quick, beir:standard, beir:full, vidore/NAME, "
            "squad, nq, hotpotqa, colpali_train_set"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the dataset folder, or that of a group; named like the dataset if not given")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="the most queries a split (wikipedia: passages; colpali_train_set: pairs)")
    ] = None,
    split_ratio: Annotated[
        float | None, typer.Option(help="the share of the training queries that stays in train; the rest is test")
    ] = None,
    words: Annotated[int | None, typer.Option(help="wikipedia: the most words of a passage (200)")] = None,
    seed: Annotated[int, typer.Option(help="fixes what is drawn and in which order")] = 0,
    origin: Annotated[
        str | None, typer.Option("--from", help="a mirror's address (same paths), or a folder with the same files")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what it would download and take; write nothing")
    ] = False,
    as_json: Json = False,
) -> int:
    """Download a published collection as a dataset. A pull that was interrupted goes on when it is run again.

    Gated sets need HF_TOKEN, and a mirror of the hub may be named by HF_ENDPOINT: in the environment or in .env.
    Files are compared with their published checksums; a mirror that packs them anew lists its own in SHA256SUMS.

    Example: lode data pull beir/scifact --out scifact
    """
    from lodesmith.data import pulls

    options = {"limit": limit, "split_ratio": split_ratio, "words": words, "seed": seed}
    place = pulls.origin_of(origin)
    group: dict[str, Any] = {"name": name}
    found: Sequence[pulls.Forecast | pulls.Pulled]
    with progress():
        if dry_run:
            found = forecasts = pulls.forecast(name, place, out, **options)
            group["download_bytes"] = pulls.total(forecasts)
        else:
            found = pulls.pull(name, place, out, **options)
    group["members"] = [one.to_json() for one in found]
    single = pulls.expand(name) == (name,)
    show(as_json, group["members"][0] if single else group, "\n".join(one.to_text() for one in found))
    return 0
