"""The run directory of a training: whether one may begin or go on in it, and what happens there from begin to end."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from lodesmith import __version__
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.events import Done, Event
from lodesmith.core.files import locked, read_object, sweep
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.recipe import Recipe, WordVectorsRecipe, load_any

__all__ = [
    "STAGES",
    "STUDENT",
    "TEACHER_FILE",
    "UNTRAINED",
    "check_processes",
    "differences",
    "enter",
    "finished",
    "folder_of",
    "others",
    "settled",
    "versions",
]

UNTRAINED = "untrained"
"""The folder of a run that keeps a model trained from scratch as it was drawn, or a student as it was before it had
learned anything: a baseline."""
STUDENT = "model_student"
"""The folder of a run that has a student without the projection to its teacher's space."""
STAGES = "stages"
"""The folder of a run that keeps, by name, the model as each stage but the last left it, where they are measured."""
TEACHER_FILE = "teacher.json"
"""Who is mimicked, and how much of its vectors the student's dimensions can hold."""


def folder_of(recipe: Recipe | WordVectorsRecipe, out: Path | None) -> Path:
    """The run directory: what is given, or `runs/NAME-HASH`."""
    return out or Path("runs") / f"{recipe.name}-{recipe.fingerprint[:8]}"


def enter(recipe: Recipe | WordVectorsRecipe, out: Path | None, resume: bool | str) -> tuple[Path, bool]:
    """The run directory of a recipe, and whether a run was begun in it; nothing is written.

    Args:
        recipe: whose.
        out: the folder; `runs/NAME-HASH` where None.
        resume: True goes on with the run in it; `"auto"` does so where there is one.

    Raises:
        InputError: it holds a run and `resume` is off, or something else.
        ResumeError: its run is of another recipe, or there is none to go on with.
    """
    out = folder_of(recipe, out)
    begun = (out / "manifest.json").exists()
    if not begun:
        _refuse_foreign(out)
    if ranks()[0]:
        return out, begun  # the first process looks after the folder
    if begun and not resume:
        raise InputError("a run is here already", "go on with --resume, or choose another --out", path=out)
    if begun:
        _check_same(out, recipe)
    elif resume is True and (out / "recipe.yaml").exists():  # it was ended before its first step
        _refuse_other(out, load_any(out / "recipe.yaml"), recipe)
    elif resume is True:
        raise ResumeError(
            f"{out}: there is no run to resume", "leave --resume out, or give the run's folder with --out"
        )
    return out, begun


def _check_same(out: Path, recipe: Recipe | WordVectorsRecipe) -> None:
    manifest = read_object(out / "manifest.json")
    if manifest.get("recipe") == recipe.fingerprint:
        return
    saved = load_any(out / "recipe.yaml")  # with the defaults of settings that it does not name
    if saved.fingerprint == recipe.fingerprint:
        if finished(out):
            return
        version = manifest.get("versions", {}).get("lodesmith", "of an earlier date")
        raise ResumeError(
            f"{out} was begun by lodesmith {version}, whose recipes had fewer settings",
            "end it with that version, or begin again in another folder",
        )
    _refuse_other(out, saved, recipe)


def _refuse_other(out: Path, saved: Recipe | WordVectorsRecipe, recipe: Recipe | WordVectorsRecipe) -> None:
    if saved.fingerprint == recipe.fingerprint:
        return
    differing = differences(saved.model_dump(mode="json"), recipe.model_dump(mode="json"))
    raise ResumeError(f"{out} was begun with another recipe: {differing}", "give the same settings, or another --out")


def _refuse_foreign(out: Path) -> None:
    """A run's files in the folder of a model or a dataset would make it unreadable."""
    models = ("modules.json", "config.json", "adapter_config.json", "memory.json")
    datasets = ("corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl")
    for kind, names in (("a model", models), ("a dataset", datasets), ("a hybrid", ("router.json",))):
        if any((out / name).is_file() for name in names):
            raise InputError(f"{kind} is here", "choose another --out, for the run alone", path=out)


def differences(a: Any, b: Any, place: str = "") -> str:
    """The places where two JSON values differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        parts = [differences(a.get(k), b.get(k), f"{place}.{k}" if place else k) for k in keys if a.get(k) != b.get(k)]
        return ", ".join(parts)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        both = enumerate(zip(a, b, strict=True))
        return ", ".join(differences(x, y, f"{place}.{i}") for i, (x, y) in both if x != y)
    return f"{place} was {a!r}, is {b!r}"


def finished(out: Path) -> bool:
    """Whether a run directory holds a finished training."""
    return (out / "manifest.json").exists() and "model_files" in read_object(out / "manifest.json")


class Work(Protocol):
    """A training, as the run directory `out` sees it."""

    out: Path

    def _check_data(self) -> None:
        """That a finished run is of the same data."""

    def _begin(self) -> None:
        """Write what the run starts from."""

    def _run(self) -> Iterator[Event]:
        """Train; the last event is `Done`."""
        ...

    def _finish(self) -> None:
        """Write what comes of it."""

    def _report(self) -> None:
        """Make its page, where it is wanted."""


def settled(work: Work, stage: str) -> Iterator[Event]:
    """Train in a run directory that nobody else may use meanwhile; a finished run is not done again.

    The last event comes when everything is saved: who stops listening there loses nothing.

    Args:
        work: the training.
        stage: its last one.

    Raises:
        BusyError: another process trains in this folder.
    """
    with locked(work.out):
        for folder in (work.out, work.out / STAGES):
            sweep(folder)
        last: Event = Done(0, 0, stage, "this run was finished before")
        if finished(work.out):
            work._check_data()
        else:
            work._begin()
            for event in work._run():
                if isinstance(event, Done):
                    last = event
                else:
                    yield event
            work._finish()
        if not (work.out / "report.html").exists():
            work._report()
        yield last


def others(out: Path, stage: str, run: Callable[[], Iterator[Event]]) -> Iterator[Event]:
    """What all but the first process do: train, and leave the folder to the first; nothing where it has a finished
    run, since the first would not come to train.
    """
    if finished(out):
        yield Done(0, 0, stage, "this run was finished before")
        return
    yield from run()


def check_processes(recipe: Recipe) -> None:
    """Refuse to train with another number of processes than the recipe says; it need not say one.

    Raises:
        ConfigError: there are more or fewer.
    """
    wanted, there = recipe.engine.processes, ranks()[1]
    if wanted is not None and wanted != there:
        raise ConfigError(
            f"engine.processes is {wanted}, and this training has {there}",
            "start it by `lode train`, which launches as many, or by torchrun; or set engine.processes to null",
        )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of lodesmith, Python and packages, as a manifest has them."""
    own = {"lodesmith": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in packages}
