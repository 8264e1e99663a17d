"""`lode quickstart`, `lode train` and `lode recipes`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lodesmith.cli.console import Json, first, progress, say, show


class World(StrEnum):
    """What the quickstart runs on."""

    docs = "docs"
    clara = "clara"


def quickstart(
    world: Annotated[
        World,
        typer.Argument(
            help="docs: documents, yours or the Python documentation; clara: a small world of facts, a language model "
            "that learns to read it, and memory tokens of its documents"
        ),
    ] = World.docs,
    docs: Annotated[
        list[Path] | None, typer.Option(help="your documents: a file or folder (repeat for several)")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="your queries, with relevant document ids where you have them")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for everything it makes; quickstart or quickstart-clara")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="a fifth of the passages; a smaller world")] = False,
    passages: Annotated[int | None, typer.Option(min=200, help="how many passages of the Python documentation")] = None,
    as_json: Json = False,
) -> None:
    """Which retriever is best on my documents? Dataset, baselines, training, comparison, index and report in one go.

    Without --docs it takes the Python documentation found in this interpreter. Stop it at any time: the same command
    goes on from the last finished step.

    Example: lode quickstart --docs manuals/ --out manuals-report

    Example: lode quickstart clara --fast
    """
    if world is World.clara:
        _clara(out or Path("quickstart-clara"), fast, as_json, docs or queries or passages)
        return
    from lodesmith.recipes.quickstart import run

    out = out or Path("quickstart")
    with progress():
        result = run(out, docs=docs or [], queries=queries, fast=fast, passages=passages, say=say)
    show(as_json, result.to_json(), result.to_text())


def _clara(out: Path, fast: bool, as_json: bool, documents: object) -> None:
    from lodesmith.core.errors import ConfigError
    from lodesmith.recipes.quickstart_clara import run

    if documents:
        raise ConfigError("the world of clara has documents of its own", "leave --docs, --queries and --passages out")
    with progress():
        result = run(out, fast=fast, say=say)
    show(as_json, result.to_json(), result.to_text())


def train(  # noqa: PLR0913, PLR0917 - one an option
    recipe: Annotated[str, typer.Argument(help="a shipped recipe or a YAML path; several, with commas, are compared")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="such as data=DIR seed=1")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run directory; runs/RECIPE-HASH where not given")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with an interrupted run, to the same bits")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything and forecast memory and time, no more")
    ] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="measure what this machine can do, and choose chunks and processes by it")
    ] = False,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=a,b", help="train every combination and compare; seed=0,1 repeats (give it several times)"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe through all its stages; with --sweep, every combination of settings, in one report.

    A sweep goes on where it was stopped when the same command is given again.

    Example: lode train isotropic data=my-dataset stages.0.epochs=5 --out my-run

    --auto keeps batch sizes and everything else that is learned: it chooses how many texts are in memory at once, and
    how many processes share a batch, says why, and writes both into the run's recipe.yaml.

    Example: lode train isotropic data=my-dataset --sweep temperature=0.02,0.05,0.1 --sweep seed=0,1,2
    """
    from lodesmith.cli.fitting import fitted, launched
    from lodesmith.cli.live import follow
    from lodesmith.cli.sweeping import several, train_all
    from lodesmith.recipes.train import forecast, plan

    settings = overrides or []
    if sweep or len(several(recipe)) > 1:
        train_all(recipe, settings, sweep or [], out=out, dry_run=dry_run, auto=auto, as_json=as_json)
        return
    chosen = fitted(recipe, settings, out=out, resume=resume, auto=auto)
    if chosen is not None:
        own = [chosen.overrides, settings] if resume else [settings, chosen.overrides]  # the last one counts
        settings, out = [*own[0], *own[1]], chosen.out
    training = plan(recipe, settings, out=out, resume=resume)
    if dry_run:
        report = forecast(training) | ({} if chosen is None else {"auto": chosen.to_json()})
        show(as_json, report, "\n".join(f"{key}: {value}" for key, value in report.items() if key != "auto"))
        return
    if chosen is not None and not resume:
        chosen.save()
    if (code := launched(training, recipe, settings, resume=resume, as_json=as_json)) is not None:
        raise typer.Exit(code)
    report = follow(training) | training.summary
    if first():
        show(as_json, report, "\n".join(f"{key}: {value}" for key, value in report.items()))


def recipes(
    name: Annotated[str | None, typer.Argument(help="print this recipe")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON Schema of a recipe, for editors")] = False,
    as_json: Json = False,
) -> None:
    """List the shipped recipes, or print one with all its settings.

    Example: lode recipes isotropic
    """
    import json

    from lodesmith.recipes.recipe import Recipe, load_any, shipped

    if schema:
        kind = Recipe if name is None else type(load_any(name))
        show(True, kind.model_json_schema(), "")
    elif name is None:
        lines = {key: _first_comment(path) for key, path in shipped().items()}
        show(as_json, {"recipes": lines}, "\n".join(f"{key:<20}{line}" for key, line in lines.items()))
    else:
        recipe = load_any(name)
        show(as_json, json.loads(recipe.model_dump_json()), recipe.to_yaml())


def _first_comment(path: Path) -> str:
    lines = [
        line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    return next((line for line in lines[1:] if line), "")


VERBS = (quickstart, train, recipes)
