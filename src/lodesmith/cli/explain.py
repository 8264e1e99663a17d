"""`lode explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, progress, say, show


def explain(
    model: Annotated[str, typer.Argument(help="a late-interaction model of texts or page images: folder, run or name")],
    dataset: Annotated[Path, typer.Argument(help="dataset folder")],
    query: Annotated[str, typer.Argument(help="id of one of its queries, or any text")],
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("explained.html"),
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="documents to show")] = 3,
    as_json: Json = False,
) -> None:
    """Show why a late-interaction model found what it found: heat maps over pages, or words, for each query token.

    Example: lode explain late my-dataset "how do I renew a passport" --out explained.html
    """
    from lodesmith.recipes.matching import explain as explained

    with progress():
        found = explained(model, dataset, query, out, k=k)
    say(f"wrote {out}")
    lines = [f"{own['score']:.3f}  {own['document']}" for own in found["documents"]]
    show(as_json, found, "\n".join(lines))


VERBS = (explain,)
