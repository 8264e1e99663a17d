"""`lode doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from lodesmith.cli.console import Json, show


def doctor(
    subject: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|MODEL]", help="a run directory or metrics.jsonl; a model folder or name"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Examine this machine; or explain why a training went as it did; or whether a model loads here.

    A run is explained from its metrics.jsonl alone: what went wrong, the figures that show it, and what to try; models
    of memory tokens in it are examined too. Of a model, headers and settings are read, not weights, and files are
    compared with their SHA-256 where that is known. Exits with 0 where nothing is wrong, and with 2 otherwise.

    Example: lode doctor runs/isotropic-1a2b3c4d
    """
    from lodesmith.recipes.doctoring import doctor as examine

    report = examine(subject)
    show(as_json, report.to_json(), report.to_text())
    return 0 if report.healthy else 2


VERBS = (doctor,)
