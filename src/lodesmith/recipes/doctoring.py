"""`lode doctor`: this machine, why a training went as it did, whether a model loads here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object
from lodesmith.training.diagnosis import Diagnosis, Problem, diagnose
from lodesmith.training.metrics import read_lenient

if TYPE_CHECKING:
    from lodesmith.recipes._machine import Machine
    from lodesmith.recipes._transformer_checks import Checkup

__all__ = ["Report", "RunReport", "doctor", "examine_machine", "examine_model", "examine_run"]


class Report(Protocol):
    """What an examination found."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        ...

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        ...

    def to_text(self) -> str:
        """For people."""
        ...


def doctor(subject: str | None = None) -> Report:
    """Examine this machine, or a run or model.

    Args:
        subject: a run directory or its `metrics.jsonl`; a model folder, hub name or `minilm`; None for the machine.

    Raises:
        InputError: there is no such run or model.
    """
    if subject is None:
        return examine_machine()
    path = Path(subject)
    if path.is_file() or (path / "metrics.jsonl").is_file():
        return examine_run(path)
    if (path / "recipe.yaml").is_file() and not (path / "model").is_dir():
        return examine_run(path)
    return examine_model(subject)


# ------------------------------------------------------------------------ a run


@dataclass(frozen=True)
class RunReport:
    """The diagnosis of a run directory.

    Args:
        run: the folder.
        diagnosis: from its metrics.
        broken: lines that could not be read, each with its place.
        recipe: whether `recipe.yaml` is there.
        models: its models of memory tokens, where it has such.
    """

    run: Path
    diagnosis: Diagnosis
    broken: tuple[str, ...] = ()
    recipe: bool = False
    models: tuple[Checkup, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether the training ended, and nothing looks wrong."""
        return self.diagnosis.healthy and not self.broken and all(model.healthy for model in self.models)

    @property
    def command(self) -> str:
        """The command that trains it, without settings."""
        return f"lode train {self.run / 'recipe.yaml' if self.recipe else 'RECIPE data=DIR'}"

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        found = self.diagnosis.to_json() | {"healthy": self.healthy, "run": str(self.run), "broken": list(self.broken)}
        found |= {"models": [model.to_json() for model in self.models]} if self.models else {}
        return found | {"resume": self.resume} if self.diagnosis.state in ("incomplete", "empty") else found

    @property
    def resume(self) -> str:
        """The command that goes on with it."""
        return f"{self.command} --out {self.run} --resume"

    def to_text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = self.diagnosis
        yield f"{self.run}: {found.state}: {found.reason}"
        yield from (_stage_line(stage) for stage in found.to_json()["stages"])
        for problem in found.problems:
            yield from self._problem(problem)
        for line in self.broken:
            yield f"\nbroken line: {line}"
        if whole := [model.name for model in self.models if model.healthy]:
            yield f"  whole, and nothing speaks against loading them here: {', '.join(whole)}"
        for model in self.models:
            yield from (f"\nwrong with {model.name}: {fault.what}\n  {fault.do}" for fault in model.faults)
        if found.notes:
            yield "\nnotes:"
            yield from (f"  {note}" for note in found.notes)
        if found.state in ("incomplete", "empty") and not found.problems:
            yield f"\ngo on with it: {self.resume}"
        if self.healthy:
            yield "\nnothing looks wrong."

    def _problem(self, problem: Problem) -> Iterator[str]:
        yield f"\n{problem.cause} (stage {problem.stage}, noticed at step {problem.step})"
        yield f"  evidence: {problem.message}"
        yield f"  cure:     {problem.cure}"
        if problem.tries:
            settings = (f"'{own}'" if "[" in own else own for own in problem.tries)
            yield f"  try:      {self.command} {' '.join(settings)} --out {self.run.name or 'run'}-again"


def _stage_line(stage: Mapping[str, Any]) -> str:
    of = f" of {stage['planned']:,}" if stage["planned"] else ""
    parts = [f"  stage {stage['name']}: step {stage['last_step']:,}{of}"]
    if stage["loss"]:
        parts.append(f"loss {stage['loss'][0]:.4g} → {stage['loss'][1]:.4g}")
    if stage["best"] is not None:
        at = "" if stage["best_step"] is None else f" at step {stage['best_step']:,}"
        parts.append(f"{stage['measure']} best {stage['best']:.4f}{at}, last {stage['last'] or 0:.4f}")
    if stage["throughput"]:
        parts.append(f"{stage['throughput']:,.0f} examples/s")
    return ", ".join(parts)


def examine_run(path: Path) -> RunReport:
    """Why a training went as it did: from its metrics, with the recipe's own values where it is there; and whether its
    models of memory tokens are whole and load here, where it has such.

    Args:
        path: a run directory; or its `metrics.jsonl`, and nothing else is looked at but the recipe.

    Raises:
        InputError: it cannot be read.
    """
    from lodesmith.recipes._checkup import models_of

    file = path if path.is_file() else path / "metrics.jsonl"
    run = file.parent
    rows, broken = read_lenient(file) if file.exists() else ([], [])
    recipe = _recipe(run / "recipe.yaml")
    models = () if path.is_file() else tuple(models_of(run))
    return RunReport(run, diagnose(rows, recipe), tuple(broken), recipe is not None, models)


def _recipe(path: Path) -> Mapping[str, Any] | None:
    """The recipe as a tree; None where there is none that can be read: the diagnosis does without."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return tree if isinstance(tree, dict) else None


# ------------------------------------------------------------------------ a model


@dataclass(frozen=True)
class ModelReport:
    """What was found out about a model; `found.raise_first()` raises what is wrong with it."""

    found: Checkup

    @property
    def healthy(self) -> bool:
        """Whether nothing speaks against loading it here."""
        return self.found.healthy

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return self.found.to_json()

    def to_text(self) -> str:
        """For people."""
        found = self.found
        lines = [f"{found.name}: {found.kind}, {found.folder}"]
        lines += [f"  {name}: {_amount(name, value)}" for name, value in found.facts.items()]
        lines += [f"  note: {note}" for note in found.notes]
        for fault in found.faults:
            lines += [f"\nwrong: {fault.what}", f"  {fault.do}"]
        return "\n".join([*lines, "\nnothing speaks against loading it here." if found.healthy else ""]).rstrip()


def _amount(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return f"{value / 2**20:,.1f} MiB"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def examine_model(name: str) -> ModelReport:
    """Whether a model loads here, without loading it.

    Args:
        name: a folder (of a model, an adapter or a finished run), a hub name or `minilm`.

    Raises:
        InputError: it is not here and cannot be fetched.
    """
    from lodesmith.recipes._checkup import checkup

    path, digests = Path(name), None
    if (path / "recipe.yaml").is_file():
        digests = read_object(path / "manifest.json").get("model_files") if (path / "manifest.json").is_file() else None
        path = path / "model"
    if not path.is_dir():
        from lodesmith.encoders._loading import find_model

        path = find_model(name)
    found = checkup(name, path, digests)
    _weigh(found)
    return ModelReport(found)


def _weigh(found: Checkup) -> None:
    """Whether its weights fit into the memory that is free."""
    from lodesmith.recipes._machine import memory

    free, needed = memory()["available"], found.facts.get("bytes", 0)
    if free is not None and needed > free:
        found.faults.append(
            InputError(
                f"its weights need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free",
                "end other programs, or take a smaller or quantised model",
                path=found.folder,
            )
        )


# ------------------------------------------------------------------------ the machine


@dataclass(frozen=True)
class MachineReport:
    """What this machine and installation are."""

    found: Machine

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.found.healthy

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return self.found.to_json()

    def to_text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        own = self.found
        cpu, memory, hub = own.processor, own.memory, own.hub
        bits = "multiplies bfloat16" if cpu["multiplies_bfloat16"] else "no bfloat16 instructions: float32 is faster"
        free = "" if memory["available"] is None else f", {memory['available'] / 2**30:.1f} GiB available"
        yield f"python     {own.python['version']}, {own.python['executable']}, {own.python['system']}"
        yield f"processor  {cpu['name']}: {cpu['cores']} cores, torch uses {cpu['threads']} threads; {bits}"
        yield f"memory     {memory['total'] / 2**30:.1f} GiB{free}"
        yield f"disk       {own.disk['free'] / 2**30:.1f} GiB free at {own.disk['folder']}"
        yield f"GPU        {'; '.join(own.accelerators) or 'none'}"
        yield f"hub        {hub['endpoint']}: {hub['state']}; HF_TOKEN is {'set' if hub['token'] else 'not set'}"
        for name, cache in own.caches.items():
            yield f"cache      {name}: {cache['bytes'] / 2**20:,.1f} MiB in {cache['folder']}"
        yield f"packages   {', '.join(f'{name} {version}' for name, version in own.packages.items())}"
        for name, extra in own.extras.items():
            if extra["missing"]:
                yield f"extra      {name}: {', '.join(extra['missing'])} missing; {extra['install']}"
            else:
                yield f"extra      {name}: {', '.join(f'{key} {value}' for key, value in extra['packages'].items())}"
        for what, do in own.problems:
            yield f"\nwrong: {what}\n  {do}"
        if self.healthy:
            yield "\nnothing looks wrong."


def examine_machine() -> MachineReport:
    """Look at this machine and installation."""
    from lodesmith.recipes._machine import machine

    return MachineReport(machine())
