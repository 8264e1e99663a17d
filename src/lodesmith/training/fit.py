"""The training loop, as a generator of events.

    for event in record(fit([stage], checkpoints="run/checkpoints", resume=True), "run/metrics.jsonl"):
        ...

Stopping early is `break`: nothing half-written stays behind. SIGTERM and SIGINT end it after a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lodesmith.core import events
from lodesmith.core.errors import ConfigError, DivergedError, InputError, IntegrityError, NotFiniteError
from lodesmith.core.events import Event
from lodesmith.core.registry import did_you_mean
from lodesmith.training.checkpoint import Checkpoints, Snapshot, read
from lodesmith.training.health import Finding, Health, crowded, diverged, misplaced
from lodesmith.training.interrupt import Asked, interruptions
from lodesmith.training.optim import rate
from lodesmith.training.position import Position, check_identity, check_processes, identity, surroundings
from lodesmith.training.stage import Batches, Engine, Stage
from lodesmith.training.window import Window

__all__ = ["Batches", "Engine", "Stage", "fit"]


def fit(
    stages: Sequence[Stage],
    *,
    engine: Engine | None = None,
    checkpoints: Checkpoints | Path | str | None = None,
    resume: bool = False,
    recipe: Mapping[str, Any] | None = None,
    log_every: int = 10,
) -> Iterator[Event]:
    """Train the stages one after another.

    Every rank yields the same events, so that a consumer that breaks does so on all of them.

    Args:
        stages: what to train; their objectives may share modules.
        engine: None for a `TorchEngine` with its defaults.
        checkpoints: where to keep them; None for no checkpoints (then nothing can be resumed).
        resume: go on from the newest good checkpoint, to the same bits; without one, start at the beginning.
        recipe: what identifies the training beside the stages' own settings, as JSON: a checkpoint of another one is
            refused.
        log_every: steps between `Step` events; each is the mean over the steps since the last.

    Yields:
        `Step`, `Validation`, `Checkpoint` and `Warning` as they happen; first `Resumed` where that is so; last `Done`.

    Raises:
        DivergedError: a loss or gradient became NaN or infinite.
        ResumeError: the checkpoint is another training's, or of another number of processes.
        InputError: the folder holds checkpoints and `resume` is off.
        IntegrityError: every checkpoint is damaged.
        Terminated: SIGTERM came; a checkpoint was written.
        KeyboardInterrupt: SIGINT came; a checkpoint was written.
    """
    if not stages:
        raise ConfigError("there are no stages", "give at least one")
    if log_every < 1:
        raise ConfigError(f"log_every must be at least 1, not {log_every}")
    if engine is None:
        from lodesmith.training.engine import TorchEngine

        engine = TorchEngine()
    if isinstance(checkpoints, Path | str):
        checkpoints = Checkpoints(checkpoints)
    with interruptions() as asked, engine:
        loop = _Loop(stages, engine, checkpoints, asked, log_every)
        yield from loop.run(identity(stages, engine, recipe or {}), resume)


class _Loop:
    """The state of one call of `fit`."""

    def __init__(
        self, stages: Sequence[Stage], engine: Engine, checkpoints: Checkpoints | None, asked: Asked, log_every: int
    ) -> None:
        self.stages = stages
        self.engine = engine
        self.checkpoints = checkpoints
        self.asked = asked
        self.log_every = log_every
        self.identity: dict[str, Any] = {}
        self.at = Position()
        self.window = Window(engine)
        self.health = Health()
        self.best_weights: Mapping[str, Any] | None = None
        self.restored: Snapshot | None = None

    @property
    def objectives(self) -> list[Any]:
        return [stage.objective for stage in self.stages]

    def _here(self, stage: Stage) -> tuple[int, int, str]:
        """Step, epoch (from 1) and stage, as events say them."""
        return self.at.step, self.at.shown_epoch, stage.name

    def run(self, identity: dict[str, Any], resume: bool) -> Iterator[Event]:
        """All stages that are not yet done."""
        start = time.monotonic()
        self.identity = identity
        yield from self._begin(resume)
        while self.at.stage < len(self.stages):
            stage = self.stages[self.at.stage]
            yield from self._stage(stage)
        yield events.Done(*self._here(self.stages[-1]), self.at.reason, time.monotonic() - start)
        if self.asked:
            self.asked.obey()

    # ------------------------------------------------------------ start, resume

    def _begin(self, resume: bool) -> Iterator[Event]:
        if self.checkpoints is None:
            if resume:
                raise ConfigError("resume needs a folder of checkpoints", "give checkpoints")
            return
        if not resume and self.checkpoints.paths():
            raise InputError(
                "this folder holds the checkpoints of a training",
                "resume it, delete it, or choose another folder",
                path=self.checkpoints.folder,
            )
        if resume and (found := self.checkpoints.last()):
            yield from self._restore(found.snapshot, found.path, found.damaged)

    def _restore(self, snapshot: Snapshot, path: Path, damaged: Sequence[IntegrityError]) -> Iterator[Event]:
        state = snapshot.state
        check_identity(state["identity"], self.identity, path)
        check_processes(state["surroundings"], self.engine, path)
        self.at = Position(**state["position"])
        self.engine.load_weights(self.objectives, snapshot.tensors["model"])
        self.window.load(state["window"])
        self.health = Health(state["health"])
        self.restored = snapshot
        stage = self.stages[min(self.at.stage, len(self.stages) - 1)]
        yield events.Resumed(*self._here(stage), path)
        for error in damaged:
            yield events.Warning(*self._here(stage), f"a damaged checkpoint is passed over: {error.what}", error.do)
        now = surroundings(self.engine)
        for name, then in state["surroundings"].items():
            if then != now.get(name):
                message = f"resumed with {name} {now.get(name)}, begun with {then}: the bits will differ"
                yield events.Warning(*self._here(stage), message, f"use {name} {then} for the same result")
        self.engine.wait()
        if self.checkpoints is not None and self.engine.rank == 0:
            self.checkpoints.drop_after(self.at.step)

    # ------------------------------------------------------------------- stages

    def _stage(self, stage: Stage) -> Iterator[Event]:
        at = self.at
        self.engine.prepare(stage.objective, stage.optim)
        if self.restored is not None:
            self._restore_stage(stage, self.restored)
            self.restored = None
        if at.stage_step == 0:
            for begin in (stage.begin, getattr(stage.objective, "begin", None)):
                if begin is not None:
                    begin()
        if not at.planned:
            at.planned = stage.steps or (stage.epochs or 0) * math.ceil(len(stage.batches) / self.engine.accumulate)
        if at.stage_step == 0:
            trains = {name: parameter.requires_grad for name, parameter in stage.objective.named_parameters()}
            yield from self._warnings(stage, [*misplaced(stage.optim, trains, stage.epochs), *crowded(stage.batches)])
        if at.stage_step == 0 and stage.validate_first:
            yield from self._validate(stage)
        while not self._over(stage):
            yield from self._epoch(stage)
        yield from self._end(stage)

    def _restore_stage(self, stage: Stage, snapshot: Snapshot) -> None:
        own = Snapshot(snapshot.tensors, snapshot.state["engine"])
        if snapshot.state["batches"] is None:
            self.engine.load_random(own)
        else:
            self.engine.load(own)
            stage.batches.load_state_dict(snapshot.state["batches"])

    def _over(self, stage: Stage) -> bool:
        at = self.at
        if (stage.patience is not None and at.stale >= stage.patience) or stage.is_enough(at.best):
            return True
        if stage.steps is not None:
            return at.stage_step >= stage.steps
        return at.epoch >= (stage.epochs or 0)

    def _epoch(self, stage: Stage) -> Iterator[Event]:
        """The rest of the epoch in progress."""
        at = self.at
        count = len(stage.batches)
        if count == 0:
            raise InputError(f"stage {stage.name!r} has no batches", "give it training pairs")
        self.engine.epoch(at.epoch)
        source = iter(stage.batches)
        ended = False
        while not ended and not self._over(stage):
            with self.window.timed():
                wanted = min(self.engine.accumulate, count - at.batch)
                group = list(islice(source, wanted))
                if len(group) < wanted:
                    raise InputError(f"{count} batches were announced, {at.batch + len(group)} came")
                row = self.engine.step(group, rate(stage.optim, at.stage_step, at.planned, at.lowered))
            at.step += 1
            at.stage_step += 1
            at.batch += wanted
            ended = at.batch == count
            if ended:
                at.epoch += 1
                at.batch = 0
            self.window.add(row)
            yield from self._after(stage, ended)

    def _after(self, stage: Stage, ended: bool) -> Iterator[Event]:
        """What is due after a step."""
        at = self.at
        over = self._over(stage)
        logged = at.step % self.log_every == 0
        if logged or over:
            yield from self._report(stage)
        if stage.validate is not None and (over or _due(stage.validate_every, at.stage_step, ended)):
            yield from self._validate(stage)
        if self._over(stage):
            return  # the stage's end writes its own checkpoint
        asked = self.engine.any(bool(self.asked)) if self.engine.world == 1 or logged else False
        if self.checkpoints is not None and (asked or _due(stage.checkpoint_every, at.stage_step, ended)):
            yield from self._checkpoint(stage)
        if asked:
            self.asked.obey()

    def _report(self, stage: Stage) -> Iterator[Event]:
        yield from self._read(stage)
        if not len(self.window):
            return
        means = self.window.report()
        steps = self.at.step - self.at.stage_step + self.at.planned
        means |= {"weights": dict(cast(Any, stage.objective).weights), "evidence": self.engine.evidence()}
        step = events.Step(*self._here(stage), lr=self.engine.rates(), steps=steps, **means)
        yield step
        yield from self._warnings(stage, self.health.watch(step))

    def _warnings(self, stage: Stage, findings: Iterable[Finding]) -> Iterator[Event]:
        for finding in findings:
            yield events.Warning(*self._here(stage), finding.message, finding.cure, finding.cause)

    def _read(self, stage: Stage) -> Iterator[Event]:
        """Bring the figures in; what is not finite is told, and then raised."""
        try:
            self.window.read(self.at.step)
        except DivergedError as error:
            yield from self._told(stage, error)
            raise

    def _sound(self, stage: Stage) -> Iterator[Event]:
        """As `_read`, of the weights too, before they are measured or kept: a finite loss may have led to others."""
        yield from self._read(stage)
        trained = (parameter.detach() for parameter in stage.objective.parameters() if parameter.requires_grad)
        bad = any(not math.isfinite(float(weights.float().sum())) for weights in trained)
        if self.engine.any(bad):
            failed = diverged(f"a weight is NaN or infinite after step {self.at.step}")
            yield from self._told(stage, failed)
            raise failed

    def _told(self, stage: Stage, error: DivergedError) -> Iterator[Event]:
        yield events.Warning(*self._here(stage), error.what, error.do, "nan")

    def _end(self, stage: Stage) -> Iterator[Event]:
        """Leave the stage with its best weights."""
        at = self.at
        yield from self._report(stage)
        early = stage.patience is not None and at.stale >= stage.patience
        at.reason = f"{stage.monitor} is enough" if stage.is_enough(at.best) else "complete"
        if early:
            at.reason = f"{stage.monitor} has not become better for {at.stale} validations"
        if stage.enough is not None and not stage.is_enough(at.best):
            message = f"stage {stage.name} ended before {stage.monitor} was {stage.enough}: its best is {at.best}"
            yield events.Warning(*self._here(stage), message, "more steps, or another learning rate")
        if at.best is not None and at.best_step != at.step:
            yield from self._take_best(stage)
            if at.best_step == at.step - at.stage_step:
                message = f"no validation was better than the first, before stage {stage.name} ({at.best:.4f}): its "
                message += f"{at.stage_step} steps are not kept"
                cure = "a lower learning rate; or validate on queries and documents like those of the training"
                yield events.Warning(*self._here(stage), message, cure)
        at.stage += 1
        if at.stage < len(self.stages):
            self.at = Position(step=at.step, stage=at.stage)
        self.health = Health()
        if self.checkpoints is not None:
            yield from self._checkpoint(stage, between=True)
        self.engine.release()

    def _take_best(self, stage: Stage) -> Iterator[Event]:
        weights = self.best_weights
        try:
            if self.checkpoints is not None:
                weights = read(self.checkpoints.best_path).tensors["model"]
            if weights is not None:
                self.engine.load_weights(self.objectives, weights)
                self.at.reason += f"; the weights of step {self.at.best_step} are the best and kept"
        except IntegrityError as error:
            yield events.Warning(*self._here(stage), f"the best weights are damaged, the last stay: {error}", error.do)

    # ------------------------------------------------- validation and checkpoints

    def _validate(self, stage: Stage) -> Iterator[Event]:
        if stage.validate is None or self.at.validated == self.at.step:
            return
        yield from self._sound(stage)
        self.at.validated = self.at.step
        with self.engine.evaluating():
            try:
                told = self.engine.agreed(stage.validate())
            except NotFiniteError as error:  # weights may be finite, and too large to compute with
                failed = diverged(f"{error.what} after step {self.at.step}")
                yield from self._told(stage, failed)
                raise failed from None
        start = events.GEOMETRY
        geometry = {name.removeprefix(start): value for name, value in told.items() if name.startswith(start)}
        measures = {name: value for name, value in told.items() if not name.startswith(start)}
        better = stage.monitor is not None and self._judge(stage, stage.monitor, measures)
        if better:
            self._keep_best()
        validation = events.Validation(*self._here(stage), measures, better, geometry)
        yield validation
        yield from self._warnings(stage, self.health.watch(validation))
        for name, value in measures.items():
            if not math.isfinite(value):
                message = f"the measure {name} is {value}"
                yield events.Warning(*self._here(stage), message, "look for empty judgements or NaN in the vectors")

    def _judge(self, stage: Stage, monitor: str, measures: Mapping[str, float]) -> bool:
        """Whether the monitored measure is the best so far; counts those that are not."""
        if monitor not in measures:
            raise ConfigError(f"the validation gave no {monitor!r}", did_you_mean(monitor, list(measures)))
        at, value = self.at, measures[monitor]
        if not math.isfinite(value):
            better = False
        else:
            better = at.best is None or (value > at.best if stage.higher else value < at.best)
        if better:
            at.best, at.best_step, at.stale, at.waited = value, at.step, 0, 0
        else:
            at.stale += 1
            at.waited += 1
        if stage.optim.schedule == "plateau" and at.waited == stage.optim.plateau.patience:
            at.lowered, at.waited = at.lowered + 1, 0
        return better

    def _keep_best(self) -> None:
        weights = self.engine.weights_of(self.objectives)
        if self.checkpoints is None:
            self.best_weights = weights
        elif self.engine.rank == 0:
            self.checkpoints.save_best(Snapshot({"model": weights}, {"step": self.at.step, "value": self.at.best}))
        self.engine.wait()

    def _checkpoint(self, stage: Stage, between: bool = False) -> Iterator[Event]:
        """Write one. Between two stages there is no optimiser and no position to keep."""
        assert self.checkpoints is not None
        yield from self._sound(stage)
        inner = self.engine.state()
        state = {
            "identity": self.identity,
            "surroundings": surroundings(self.engine),
            "position": self.at.to_json(),
            "batches": None if between else stage.batches.state_dict(),
            "window": self.window.state(),
            "health": self.health.seen,
            "engine": inner.state,
        }
        tensors = {**inner.tensors, "model": self.engine.weights_of(self.objectives)}
        if between:
            tensors.pop("optimizer", None)
        path = self.checkpoints.folder
        if self.engine.rank == 0:
            path = self.checkpoints.save(self.at.step, Snapshot(tensors, state))
        self.engine.wait()
        yield events.Checkpoint(*self._here(stage), path)


def _due(every: int | None, step: int, ended: bool) -> bool:
    """Whether something that happens every so many steps, or at the end of an epoch, happens now."""
    return ended if every is None else step % every == 0
