"""From a recipe to a run directory: data, stored vectors, stages, model, manifest."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.events import Event
from lodesmith.core.files import read_json, sha256_folder, write_json, write_text
from lodesmith.core.joined import folders_of, load_several
from lodesmith.core.memory import return_freed
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find, parameters
from lodesmith.recipes._checks import check_components
from lodesmith.recipes._data_identity import check_data, data_identity
from lodesmith.recipes._negatives import with_negatives
from lodesmith.recipes._run_folder import (
    STAGES,
    STUDENT,
    TEACHER_FILE,
    UNTRAINED,
    check_processes,
    enter,
    finished,
    others,
    settled,
    versions,
)
from lodesmith.recipes.learners import Learner, learner
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.overlap import notes_of, saved
from lodesmith.recipes.pairs import Pairs, make_pairs
from lodesmith.recipes.recipe import TEACHER, AdaptRecipe, Recipe, StagePlan, WordVectorsRecipe, load, load_any
from lodesmith.recipes.run_report import OVERLAP, report
from lodesmith.recipes.systems import model_of
from lodesmith.recipes.targets import Ceiling
from lodesmith.recipes.tracing import with_traces
from lodesmith.recipes.validating import LOSS, Validating
from lodesmith.recipes.validating_elsewhere import Elsewhere, check_elsewhere, monitor_of
from lodesmith.recipes.word_vectors import WordVectorsTraining
from lodesmith.recipes.word_vectors import plan as plan_word_vectors
from lodesmith.training import tracking

if TYPE_CHECKING:
    from lodesmith.training import Stage

__all__ = ["Training", "finished", "forecast", "plan"]

_log = logging.getLogger(__name__)

_NAMED = {"begun": "model before training"}
"""How what identifies a run is told."""


def plan(
    source: str,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: Path | None = None,
    resume: bool | str = False,
    reported: bool = True,
) -> Training | WordVectorsTraining:
    """Resolve a recipe and its run directory; nothing heavy is loaded yet.

    Args:
        source: a shipped recipe's name or a YAML path.
        overrides: `["seed=1"]` or `{"seed": 1}`.
        out: run directory; `runs/NAME-HASH` where None.
        resume: True goes on with the run in `out`; `"auto"` does so where there is one.
        reported: make the page of the run at the end.

    Raises:
        ConfigError: the recipe is wrong.
        InputError: the data is missing, or the run directory holds a run and `resume` is off.
        ResumeError: the run in `out` is of another recipe.
    """
    recipe = resolved(source, overrides)
    if isinstance(recipe, WordVectorsRecipe):
        return plan_word_vectors(recipe, out=out, resume=resume, reported=reported)
    out, begun = enter(recipe, out, resume)
    return _kind(recipe)(recipe, out, begun, reported and not ranks()[0])


def resolved(source: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe | WordVectorsRecipe:
    """The recipe of a training, checked, with its data found; of word vectors as it is read.

    Raises:
        ConfigError: the recipe is wrong.
        InputError: the data is missing.
    """
    recipe = load_any(source, overrides)
    if isinstance(recipe, WordVectorsRecipe):
        return recipe
    if recipe.data.path is None or not folders_of(recipe.data.path):
        raise ConfigError("the recipe has no data", "add data=DIR, a dataset folder")
    folders = folders_of(recipe.data.path)
    path = ",".join(map(str, folders))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": path})})
    check_components(with_negatives(recipe, look=False))
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"data names a folder twice: {path}", "name each once")
    for folder in folders:
        if not folder.is_dir():
            raise InputError("no such dataset folder", "data=DIR takes a folder in BEIR layout", path=folder)
    recipe = with_negatives(recipe)
    if recipe.base == TEACHER:
        recipe = recipe.model_copy(update={"base": model_of(recipe.teachers[0])})
    check_elsewhere(recipe)
    return recipe


def _kind(recipe: Recipe) -> type[Training]:
    if not isinstance(recipe, AdaptRecipe):
        return Training
    from lodesmith.recipes.adapting import AdaptTraining

    return AdaptTraining


@dataclass
class Training:
    """A planned training. `events` runs it."""

    recipe: Recipe
    out: Path
    resume: bool = False
    reported: bool = True
    """Whether the page of the run is made at the end."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the run found out beside its events."""
        place = self.out / OVERLAP
        notes: list[str] = []
        if self.recipe.teachers and (self.out / TEACHER_FILE).exists():
            found = read_json(self.out / TEACHER_FILE)["ceiling"]
            told = None if found is None else Ceiling(**found)
            notes += [told.to_text()] if told is not None and told.speaks else []
        if place.exists():
            notes += notes_of(saved(place))
        return {"notes": notes} if notes else {}

    @property
    def engine_settings(self) -> dict[str, Any]:
        """What the engine is made with, beside the seed."""
        found = self.recipe.engine.model_dump(exclude={"arrays", "processes"})
        return found if self.recipe.engine.arrays == "torch" else found | {"device": "cpu"}  # where torch meets MLX

    def events(self) -> Iterator[Event]:
        """Run all stages, save the model and finish the manifest. What is finished is not done again.

        Raises:
            BusyError: another process trains in this folder.
            ConfigError: the recipe wants another number of processes than there are.
        """
        check_processes(self.recipe)
        if ranks()[0]:
            yield from others(self.out, self.recipe.stages[-1].name, self._run)
            return
        yield from settled(self, self.recipe.stages[-1].name)

    def _report(self) -> None:
        if self.reported:
            report(self)

    def _begin(self) -> None:
        if self.resume:
            self._check_data()
            begun = read_json(self.out / "manifest.json")
            for name, value in self.learner.identity().items():
                if begun.get(name) != value:
                    raise ResumeError(
                        f"{self.out}: the {_NAMED.get(name, name)} is not what the run was begun with (other weights, "
                        "another version of lodesmith, or another precision on this machine)",
                        "start a new run in another folder",
                    )
        if not self.resume or not any((self.out / "checkpoints").glob("step-*")):
            write_text(self.out / "recipe.yaml", self.recipe.to_yaml())  # later on it is that of the checkpoints
        if not self.resume or not (self.out / UNTRAINED).exists():  # else it may be of other settings
            self._save_untrained()
        write_json(self.out / "manifest.json", self._manifest())

    def _save_untrained(self) -> None:
        """The baseline of what begins elsewhere than at a base; and what is known of a teacher."""
        if self.recipe.teachers:
            ceiling = self.learner.ceiling()
            told = {"teachers": self.recipe.teachers, "ceiling": None if ceiling is None else asdict(ceiling)}
            write_json(self.out / TEACHER_FILE, told)
            self.learner.save_student(self.out / UNTRAINED)
        elif "base" not in self.learner.identity():
            self.learner.save(self.out / UNTRAINED)

    def _check_data(self) -> None:
        check_data(read_json(self.out / "manifest.json"), self._data, self.out)

    def _manifest(self) -> dict[str, Any]:
        names = ("torch", "transformers", "sentence-transformers", "numpy", "accelerate")
        return {
            "recipe": self.recipe.fingerprint,
            **self._data,
            **self.learner.identity(),
            "seed": self.recipe.seed,
            "versions": versions(names),
            "machine": platform.machine(),
        }

    def _run(self) -> Iterator[Event]:
        from lodesmith.training import fit, record
        from lodesmith.training.engine import TorchEngine
        from lodesmith.training.health import heed, probed

        if any(stage.chunk for stage in self.recipe.stages):
            return_freed()
        happenings = fit(
            [self.stage(stage) for stage in self.recipe.stages],
            engine=TorchEngine(seed=self.recipe.seed, **self.engine_settings),
            checkpoints=self.out / "checkpoints",
            resume=True,
            recipe={
                "recipe": self.recipe.fingerprint,
                "dataset": self.dataset.fingerprint,
                **self.learner.identity(),
            },
        )
        happenings = self._with_arrays(happenings)
        for probe in self.learner.probes():
            happenings = probed(happenings, *probe)
        heeded = heed(happenings, self.recipe.stop_on)
        if ranks()[0]:
            yield from heeded
            return
        watched = record(heeded, self.out / "metrics.jsonl")
        name, config = self.out.resolve().name, self.recipe.model_dump(mode="json")
        yield from tracking.tracked(watched, self.recipe.tracking, self.out, name=name, config=config)

    def _with_arrays(self, happenings: Iterator[Event]) -> Iterator[Event]:
        """What happens, with a warning where a run goes on with other arrays than it was begun with."""
        now = self.recipe.engine.arrays
        for event in happenings:
            yield event
            if isinstance(event, events.Resumed) and (begun := load(self.out / "recipe.yaml").engine.arrays) != now:
                message = f"resumed with engine.arrays {now}, begun with {begun}: the bits will differ"
                cure = f"use engine.arrays={begun} for the same result"
                yield events.Warning(event.step, event.epoch, event.stage, message, cure)

    def _finish(self) -> None:
        self.learner.save(self.out / "model")
        files: dict[str, Any] = {"model_files": sha256_folder(self.out / "model")}
        if self.recipe.teachers:
            self.learner.save_student(self.out / STUDENT)
            files["student_files"] = sha256_folder(self.out / STUDENT)
        if (self.out / STAGES).is_dir():
            kept = [self.out / STAGES / stage.name for stage in self.recipe.stages[:-1]]
            files["stage_files"] = {folder.name: sha256_folder(folder) for folder in kept}
        write_json(self.out / "manifest.json", self._manifest() | files)

    # what the stages are made of

    @cached_property
    def source(self) -> Dataset:
        """The data as they are in their folders."""
        return load_several(str(self.recipe.data.path))

    @cached_property
    def dataset(self) -> Dataset:
        """The training data: the source, with traces behind its queries where the recipe wants them."""
        return with_traces(self.recipe, self.source)

    @cached_property
    def _data(self) -> dict[str, Any]:
        return data_identity(self.recipe, self.dataset)

    @cached_property
    def pairs(self) -> Pairs:
        """Training pairs and validation queries."""
        return make_pairs(self.dataset, self.recipe)

    @cached_property
    def learner(self) -> Learner:
        """What is trained, and how it is fed."""
        return learner(self.recipe, self.dataset, self.pairs)

    def stage(self, stage: StagePlan) -> Stage:
        """A stage of the recipe, with what it trains, its batches and its validation."""
        from lodesmith.objectives._cached import cached
        from lodesmith.training import Stage

        batches = self.learner.batches(stage)
        known = getattr(batches, "known", self.pairs.known)  # in the numbers that the batches use
        kind, settings = find("objectives", stage.objective.use), stage.objective.settings
        if "seed" in parameters(kind):
            settings = {"seed": self.recipe.seed, **settings}
        if getattr(kind, "taught", None) == "vectors":
            settings = {"teacher_similarity": self.learner.targets.metric, **settings}
        objective = kind(**cached(self.learner.encoders(), stage.chunk), known=known, **settings)
        validate: Callable[[], Mapping[str, float]] | None = None
        if self.pairs.validation:
            own = getattr(self.learner, "validation", None)
            plain = Validating(self.recipe, stage, self.dataset, self.pairs, self.learner)
            validate = plain if own is None else own(stage)
            if validate is None:
                _log.warning(
                    "%s: nothing to validate the stage %r on: no judged query of %s can be asked; the weights of its "
                    "last step are kept",
                    self.dataset.name,
                    stage.name,
                    self.recipe.data.validation or "validation",
                )
        if self.recipe.evaluation.validate_on:
            validate = Elsewhere(self.recipe, self.learner, validate)
        accumulate = self.recipe.engine.accumulate
        passes, every = stage.passes(len(batches), accumulate), None
        if passes > stage.epochs:  # of a small dataset, which `min_steps` goes over again and again
            every = -(-passes * -(-len(batches) // accumulate) // stage.epochs)
        return Stage(
            name=stage.name,
            objective=objective,
            batches=batches,
            optim=stage.optim,
            epochs=passes,
            validate=validate,
            validate_every=every if validate else None,
            validate_first=validate is not None,
            monitor=monitor_of(self.recipe, stage.monitor, self.learner) if validate else None,
            higher=stage.monitor != LOSS,
            patience=stage.patience if validate else None,
            checkpoint_every=stage.checkpoint_every or every,
            begin=self._keeping(stage),
        )

    def _keeping(self, stage: StagePlan) -> Callable[[], object] | None:
        """What keeps the model as the stage before left it, where stages are measured one by one."""
        number = self.recipe.stages.index(stage)
        if not number or ranks()[0] or not getattr(self.learner, "keeps_stages", False):
            return None
        return partial(self.learner.save, self.out / STAGES / self.recipe.stages[number - 1].name)


def forecast(training: Training | WordVectorsTraining) -> dict[str, Any]:
    """What a training will take, without training: texts, steps, disk, memory, and seconds from a timed sample."""
    if isinstance(training, WordVectorsTraining):
        return training.forecast()
    pairs, accumulate = training.pairs, training.recipe.engine.accumulate
    texts = any(s.pairs == "text" for s in training.recipe.stages)
    made = {"text_pairs": len(training.learner.text_pairs.pairs)} if texts else {}
    alone = len({*(own.image or own.content for own in training.dataset.documents.values()), *pairs.queries.values()})
    alone = min(alone, training.recipe.data.limit or alone)
    numbers = {"judged": len(pairs.pairs), "text": made.get("text_pairs", 0), "none": alone}
    own = getattr(training.learner, "examples_of", lambda stage: numbers[stage.pairs])
    counted = [(s, -(-own(s) // s.batch_size)) for s in training.recipe.stages]
    return {
        "recipe": training.recipe.name,
        "fingerprint": training.recipe.fingerprint[:12],
        "out": str(training.out),
        "pairs": len(pairs.pairs),
        **made,
        "validation_queries": len(pairs.validation),
        "steps": {s.name: s.passes(n, accumulate) * -(-n // accumulate) for s, n in counted},
        **training.learner.forecast(),
    }
