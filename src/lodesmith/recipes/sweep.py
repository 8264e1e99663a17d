"""An ablation in one command: every combination of settings is trained over the same seeds, measured and compared.

Stop it at any time: the same command goes on. Finished runs are not trained again; a run whose folder was begun with
other settings is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lodesmith import __version__
from lodesmith.core.errors import ConfigError, DivergedError, LodesmithError
from lodesmith.core.events import Checkpoint, Done, Event, Resumed, Step
from lodesmith.core.files import locked, read_json, write_json
from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.results import Evaluation
from lodesmith.recipes import train
from lodesmith.recipes._run_folder import UNTRAINED, finished
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.recipe import Recipe
from lodesmith.recipes.steps import Steps
from lodesmith.recipes.sweep_grid import Grid, Setting, folder_name, grid
from lodesmith.recipes.sweep_report import Report, write
from lodesmith.recipes.sweep_results import CLOCK, Outcome, Result, averaged, curve_of, seconds_of
from lodesmith.recipes.systems import Resolver, renamed
from lodesmith.recipes.tracing import as_trained
from lodesmith.training.diagnosis import diagnose
from lodesmith.training.health import StoppedError
from lodesmith.training.metrics import read_lenient

__all__ = ["Run", "Sweep", "plan", "run"]

Follow = Callable[[Iterator[Event]], object]
Shown = Callable[[], AbstractContextManager[Any]]


def run(
    recipes: str | Sequence[str],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    sweeps: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    *,
    out: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Train, measure and compare every combination; see `plan` for the arguments and `Sweep.run` for what is written.

    Example:
        `run("isotropic", {"data": "my-dataset"}, {"temperature": [0.02, 0.05], "seed": [0, 1, 2]})`
    """
    return plan([recipes] if isinstance(recipes, str) else recipes, overrides, sweeps, out=out).run(say=say)


def plan(
    recipes: Sequence[str],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    sweeps: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    *,
    out: Path | None = None,
) -> Sweep:
    """Resolve and check every run of a sweep; nothing is trained yet.

    Args:
        recipes: shipped names or YAML paths; several are compared with each other.
        overrides: settings of all runs: `["data=DIR"]` or a mapping.
        sweeps: `["temperature=0.02,0.05", "seed=0,1,2"]` or a mapping of keys to values. A key is dotted as an override
            is, or as much of its end as one place of the recipe has; `stages.*.…` means every stage. The first
            combination is what the others are held against.
        out: folder for everything; `sweeps/NAME-HASH` where None.

    Raises:
        ConfigError: a key, value or combination is wrong; the whole sweep is refused.
        InputError: the data is missing, or lacks the split that the recipe evaluates on.
        ResumeError: a run in `out` was begun with other settings.
    """
    if ranks()[1] > 1:
        raise ConfigError("a sweep trains its runs one after another, in one process", "leave torchrun out")
    found = grid(recipes, _texts(overrides), _sweep_texts(sweeps))
    out = out or Path("sweeps") / f"{folder_name(found.title)}-{found.key[:8]}"
    seeds = list(dict.fromkeys(seed for setting in found.settings for seed in setting.seeds))
    runs = [_run(setting, seed, out) for seed in seeds for setting in found.settings if seed in setting.seeds]
    _check_same_data(runs)
    if wanted := next((n for run in runs if (n := run.training.recipe.engine.processes or 1) > 1), None):
        raise ConfigError(
            f"engine.processes is {wanted}: a sweep trains its runs one after another, in one process", "set it to null"
        )
    sweep = Sweep(found, tuple(runs), out)
    sweep.dataset.split(sweep.split, "set evaluation.split")
    return sweep


def _texts(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()]


def _sweep_texts(sweeps: Sequence[str] | Mapping[str, Sequence[Any]]) -> list[str]:
    if not isinstance(sweeps, Mapping):
        return list(sweeps)
    return [f"{key}={','.join(json.dumps(value, ensure_ascii=False) for value in own)}" for key, own in sweeps.items()]


def _run(setting: Setting, seed: int, out: Path) -> Run:
    name = setting.run_name(seed)
    try:
        training = train.plan(
            setting.source,
            [*setting.overrides, f"seed={seed}"],
            out=out / "runs" / name,
            resume="auto",
            reported=False,
        )
    except ConfigError as error:
        raise ConfigError(f"{setting.name}: {error.what}", error.do) from None
    assert isinstance(training, train.Training)  # `grid` refuses recipes of word vectors
    return Run(setting, seed, name, training)


def _check_same_data(runs: Sequence[Run]) -> None:
    first = runs[0].training.recipe
    for other in runs[1:]:
        found = other.training.recipe
        for name, a, b in (
            ("data", first.data.path, found.data.path),
            ("evaluation.split", first.evaluation.split, found.evaluation.split),
        ):
            if a != b:
                raise ConfigError(
                    f"{name} is {a} in {runs[0].setting.name!r} and {b} in {other.setting.name!r}",
                    f"compare on the same queries: give {name}=… for all",
                )


@dataclass(frozen=True)
class Run:
    """One training of a sweep."""

    setting: Setting
    seed: int
    name: str
    training: train.Training

    @property
    def state(self) -> str:
        """finished, begun or new."""
        if finished(self.training.out):
            return "finished"
        return "begun" if (self.training.out / "manifest.json").exists() else "new"


@dataclass
class Sweep:
    """A planned sweep. `run` does what is left of it."""

    grid: Grid
    runs: tuple[Run, ...]
    out: Path

    @cached_property
    def dataset(self) -> Dataset:
        """What all runs are trained and measured on, read once."""
        return self.runs[0].training.source

    @property
    def split(self) -> str:
        """What is measured after training."""
        return self.runs[0].training.recipe.evaluation.split

    @property
    def measures(self) -> list[str]:
        """All that the recipes ask for beyond the usual ones."""
        return list(dict.fromkeys(m for run in self.runs for m in run.training.recipe.evaluation.measures))

    # ------------------------------------------------------------ beforehand

    def forecast(self) -> dict[str, Any]:
        """The runs and what those that are not finished will take, from one forecast a setting.

        Encoding with a frozen base counts once for each base: its vectors are stored.
        """
        told = {run.setting.name: train.forecast(self._fresh(run)) for run in reversed(self._open())}
        runs = [{"name": run.name, "state": run.state, "out": str(run.training.out)} for run in self.runs]
        for run, line in zip(self.runs, runs, strict=True):
            if line["state"] != "finished":
                line |= {key: told[run.setting.name][key] for key in ("pairs", "steps")}
        return {"out": str(self.out), "runs": runs, "sum": self._sum(told)}

    def _open(self) -> list[Run]:
        return [run for run in self.runs if run.state != "finished"]

    def _sum(self, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        each = [(run.training.recipe.base, told[run.setting.name]) for run in self._open()]
        encoding = {base: own.get("encoding_seconds_at_most", 0.0) for base, own in each}
        return {
            "runs": len(self.runs),
            "to_train": len(each),
            "steps": sum(sum(own["steps"].values()) for _, own in each),
            "training_seconds": round(sum(own.get("training_seconds", 0.0) for _, own in each), 1),
            "encoding_seconds_at_most": round(sum(encoding.values()), 1),
            "memory_bytes": max((own.get("memory_bytes", 0) for _, own in each), default=0),
        }

    # ------------------------------------------------------------ the work

    def run(
        self,
        *,
        say: Callable[[str], None] = lambda line: None,
        follow: Follow | None = None,
        shown: Shown = nullcontext,
        command: str = "",
    ) -> Report:
        """Train and measure what is not finished, and write the results.

        In `out`: `runs/NAME/` (run directories, each with its `evaluation.json`), `evaluations/` (settings as means
        over their seeds, and baselines), `comparison.json`, `sweep.json`, `sweep.md`, `report.html` and, where there
        were validations, `curves.svg`.

        Args:
            say: told a line at each run.
            follow: takes the events of a training to their end and shows them.
            shown: gives a context that shows the progress of what is measured in it.
            command: that the reports name.

        Raises:
            BusyError: another process works in this folder.
        """
        with locked(self.out):
            with shown():
                self._check()
            steps = _Steps(self.out, say, shown)
            outcomes = [self._outcome(number, run, steps, follow or _tell) for number, run in enumerate(self.runs, 1)]
            results = [
                Result(setting, tuple(o for run, o in zip(self.runs, outcomes, strict=True) if run.setting is setting))
                for setting in self.grid.settings
            ]
            notes = [repr(self.dataset), f"lodesmith {__version__}", *([f"Command: {command}"] if command else [])]
            return write(self.out, self.grid, results, self._baselines(steps), notes)

    def _check(self) -> None:
        """Build the encoder and objectives of each setting once: some values only their constructors can refuse, and
        the whole sweep is refused before anything is trained.
        """
        for run in {run.setting.name: run for run in reversed(self._open())}.values():
            training = self._fresh(run)
            try:
                encoders = training.learner.encoders()
                for stage in training.recipe.stages:
                    component = stage.objective
                    find("objectives", component.use)(**encoders, known=training.pairs.known, **component.settings)
            except ConfigError as error:
                raise ConfigError(f"{run.setting.name}: {error.what}", error.do) from None

    def _fresh(self, run: Run) -> train.Training:
        """A training over the shared dataset, which is let go with all that it loads."""
        training = replace(run.training)
        training.source = self.dataset
        return training

    def _outcome(self, number: int, run: Run, steps: Steps, follow: Follow) -> Outcome:
        steps.say(f"[{number}/{len(self.runs)}] {run.setting.name}, seed {run.seed}: {run.state}")
        error = self._train(run, follow)
        out = run.training.out
        rows = read_lenient(out / "metrics.jsonl")[0] if (out / "metrics.jsonl").exists() else []
        short = Outcome(run.seed, f"runs/{run.name}", curve=curve_of(rows), seconds=seconds_of(out, rows))
        if error is not None:
            steps.say(f"failed: {error.what}")
            found = diagnose(rows, run.training.recipe.model_dump(mode="json")).to_json()
            return replace(short, diagnosis=found | {"state": "failed", "reason": error.what})
        file = out / "evaluation.json"
        name = f"{run.setting.name}, seed {run.seed}"
        self._measure(str(out), name, file, steps, read_json(out / "manifest.json"), run.training.recipe)
        return replace(short, evaluation=Evaluation.load(file))

    def _train(self, run: Run, follow: Follow) -> LodesmithError | None:
        """Train to the end; a training that ends by itself without a model gives its error."""
        try:
            follow(clocked(self._fresh(run).events(), run.training.out))
        except (DivergedError, StoppedError) as error:
            return error
        return None

    def _measure(
        self,
        spelling: str,
        name: str,
        file: Path,
        steps: Steps,
        manifest: Mapping[str, Any],
        recipe: Recipe | None = None,
    ) -> None:
        inputs = {
            "dataset": self.dataset.fingerprint,
            "split": self.split,
            "measures": self.measures,
            "model": manifest.get("model_files", spelling),
            "v": __version__,
        }

        def work() -> None:
            system = renamed(Resolver(self.dataset).resolve(spelling), name)
            system = system if recipe is None else as_trained(system, recipe, self.dataset, self.split)
            evaluate_system(system, self.dataset, self.split, self.measures)[0].save(file)

        steps.once(f"evaluate {name}", inputs, work, products=[file])

    # ------------------------------------------------------------ baselines

    def _baselines(self, steps: Steps) -> list[Evaluation]:
        """Random, BM25, each base that was built upon, and each recipe's model as it was drawn, before training."""
        found = [self._baseline(name, name, steps, {}) for name in ("random", "bm25")]
        for base in dict.fromkeys(run.training.recipe.base for run in self.runs if not _untrained(run)):
            found.append(self._baseline(Path(base).name, base, steps, {}))
        return [*found, *self._scratch(steps)]

    def _scratch(self, steps: Steps) -> list[Evaluation]:
        """The first setting of each recipe as it was drawn; once where recipes begin with the same weights."""
        firsts = {run.setting.source: run.setting for run in reversed(self.runs) if _untrained(run)}
        drawn: dict[str, Evaluation] = {}
        for setting in sorted(firsts.values(), key=self.grid.settings.index):
            each = [self._drawn(run, steps) for run in self.runs if run.setting is setting]
            found = averaged(each, f"untrained {Path(setting.source).stem}")
            drawn.setdefault(found.fingerprints["model"], found)
        if len(drawn) > 1:
            return list(drawn.values())
        return [replace(only, system="untrained") for only in drawn.values()]

    def _baseline(self, name: str, spelling: str, steps: Steps, manifest: Mapping[str, Any]) -> Evaluation:
        taken = {setting.name for setting in self.grid.settings}
        name = f"{name} (baseline)" if name in taken else name
        file = self.out / "evaluations" / f"{folder_name(name)}.json"
        self._measure(spelling, name, file, steps, manifest)
        return Evaluation.load(file)

    def _drawn(self, run: Run, steps: Steps) -> Evaluation:
        file = run.training.out / "untrained.json"
        folder, manifest = run.training.out / UNTRAINED, {"model_files": run.training.recipe.fingerprint}
        self._measure(str(folder), f"untrained {run.setting.name}, seed {run.seed}", file, steps, manifest)
        return Evaluation.load(file)


def _untrained(run: Run) -> bool:
    """Whether the run kept its model as it was drawn: it was trained from scratch."""
    return (run.training.out / UNTRAINED).is_dir()


class _Steps(Steps):
    """Steps whose work is shown."""

    def __init__(self, folder: Path, say: Callable[[str], None], shown: Shown) -> None:
        super().__init__(folder, say)
        self.shown = shown

    def once(self, name: str, inputs: Any, work: Callable[[], object], *, products: list[Path]) -> None:
        with self.shown():
            super().once(name, inputs, work, products=products)


def _tell(happenings: Iterator[Event]) -> None:
    for event in happenings:
        if isinstance(event, Step):
            tell("train", event.step, event.steps, "steps")


def clocked(happenings: Iterator[Event], out: Path) -> Iterator[Event]:
    """Pass events on and keep count of the seconds in a file: what was trained after the last checkpoint is trained
    again by who goes on, and counts once.
    """
    start, before = 0.0, 0.0
    try:
        for event in happenings:
            if not start:
                start = time.monotonic()
                if isinstance(event, Resumed) and (out / CLOCK).is_file():
                    before = float(read_json(out / CLOCK)["seconds"])
            if isinstance(event, Checkpoint):
                write_json(out / CLOCK, {"seconds": round(before + time.monotonic() - start, 3)})
            elif isinstance(event, Done) and event.seconds:
                write_json(out / CLOCK, {"seconds": round(before + event.seconds, 3)})
            yield event
    finally:
        if close := getattr(happenings, "close", None):
            close()
