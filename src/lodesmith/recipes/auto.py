"""`lode train … --auto`: fit a training to the machine, and start as many processes as serve it.

What is chosen is how a step is computed, never what it learns: the `chunk` of each stage (gradient caching: the
gradients are those of the whole batch) so that the peak of the memory stays under a share of what is free, and the
number of processes that share each batch. Batch sizes stay as the recipe has them: with negatives in the batch they are
part of its quality. A setting that the recipe or the command gives already is left as it is.

The choice depends on the machine, and on what else runs there while it is measured; the training does not. It is
written into the run's `recipe.yaml` (`stages.N.chunk`, `engine.processes`), so that this recipe gives the same run
without `--auto`, and with the figures behind it into `auto.json`. A resumed run keeps it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import write_json
from lodesmith.core.progress import tell
from lodesmith.recipes import train
from lodesmith.recipes._auto_probe import Probe, Wanted, file_of
from lodesmith.recipes._machine import memory
from lodesmith.recipes._run_folder import folder_of
from lodesmith.recipes.launching import run
from lodesmith.recipes.learners import way
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.recipe import Recipe, load_any
from lodesmith.training.interrupt import Asked

__all__ = ["FILE", "SHARE", "Choice", "choose", "kept", "written"]

_log = logging.getLogger(__name__)

FILE = "auto.json"
"""What was chosen and why, in the run directory."""
SHARE = 0.7
"""Of the free memory, at most so much may be used: batches that were not tried may be larger, and others work too."""
MARGIN = 0.1
"""Of the time: more processes are chosen where they save at least so much."""
WORTH = 60.0
"""Seconds that more processes have to save at least: to start them takes some."""
SMALL = 8
"""Texts of the first chunk that is tried."""
_ANSWERS = "a memory model has no chunks to fit: encoder.batch_tokens and engine.accumulate bound its memory"
_WORDS = "word vectors need no launcher: `workers` is theirs to choose"


@dataclass(frozen=True)
class Machine:
    """What a training may use.

    Args:
        free: bytes of memory (of one accelerator, where there are some).
        threads: of one process that has the processor to itself.
        accelerators: GPUs of CUDA.
    """

    free: int
    threads: int
    accelerators: int = 0

    @property
    def allowed(self) -> int:
        """Bytes that the peak may reach."""
        return int(self.free * SHARE)


@dataclass(frozen=True)
class Choice:
    """What was chosen for a training.

    Args:
        out: the run directory.
        chunks: number of each stage that was fitted → its chunk.
        processes: that share each batch; None where the recipe needs no launcher.
        reasons: lines for people.
        tried: what was measured, in order.
    """

    out: Path
    chunks: Mapping[int, int | None] = field(default_factory=dict)
    processes: int | None = None
    reasons: tuple[str, ...] = ()
    tried: tuple[Mapping[str, Any], ...] = ()

    @property
    def overrides(self) -> list[str]:
        """The choice as overrides of the recipe."""
        chosen = [f"stages.{number}.chunk={_yaml(chunk)}" for number, chunk in self.chunks.items()]
        return chosen if self.processes is None else [*chosen, f"engine.processes={self.processes}"]

    def to_json(self) -> dict[str, Any]:
        """The content of `auto.json`."""
        return {"overrides": self.overrides, "reasons": list(self.reasons), "tried": [dict(own) for own in self.tried]}

    def to_text(self) -> str:
        """What was chosen and why."""
        return "\n".join([*self.reasons, *([f"chosen: {' '.join(self.overrides)}"] if self.overrides else [])])

    def save(self) -> None:
        """Write `auto.json`; nothing where nothing was to choose."""
        if self.overrides:
            write_json(self.out / FILE, self.to_json())


def _yaml(value: int | None) -> str:
    return "null" if value is None else str(value)


def written(out: Path) -> Choice | None:
    """The choice that a run was begun with; None where none was made for it."""
    return _begun(out) if (out / FILE).is_file() and (out / "manifest.json").is_file() else None


def _begun(out: Path) -> Choice:
    """How a run was begun, with `--auto` or without."""
    recipe = load_any(out / "recipe.yaml")
    if not isinstance(recipe, Recipe):
        return Choice(out, reasons=(_WORDS,))
    chunks = {number: stage.chunk for number, stage in enumerate(recipe.stages)}
    return Choice(out, chunks, recipe.engine.processes, (f"{out / 'recipe.yaml'}: as this run was begun",))


def kept(source: str, overrides: Sequence[str] = (), *, out: Path | None = None) -> Choice | None:
    """The choice that a run which is gone on with was begun with; None where none was made for it, or there is no run.

    Args:
        source: a shipped recipe's name or a YAML path.
        overrides: as the run was begun with.
        out: run directory; `runs/NAME-HASH` of the recipe as it is given where None.
    """
    return written(out or folder_of(train.resolved(source, overrides), out))


def choose(source: str, overrides: Sequence[str] = (), *, out: Path | None = None, resume: bool = False) -> Choice:
    """Measure a few real steps and choose; nothing is trained. A run that is gone on with stays as it was begun.

    Args:
        source: a shipped recipe's name or a YAML path.
        overrides: `["data=DIR"]`; a chunk or a number of processes among them stays as it is.
        out: run directory; `runs/NAME-HASH` of the recipe as it is given where None.
        resume: whether a run in `out` is gone on with: nothing is measured then.

    Raises:
        ConfigError: under torchrun; or a step needs more memory than there is even with the smallest chunk.
        InputError: the data is missing or cannot be trained on, or the run directory holds a run and `resume` is off.
        ResumeError: there is no run to go on with.
        Terminated: SIGTERM came.
        KeyboardInterrupt: SIGINT came.
    """
    if ranks()[1] > 1 or "RANK" in os.environ:
        raise ConfigError("--auto starts the processes itself", "leave torchrun out, or --auto")
    if resume:
        out = folder_of(train.resolved(source, overrides), out)
        if (out / "manifest.json").is_file():
            return _begun(out)
    training = train.plan(source, overrides, out=out, resume=resume)
    if not isinstance(training, train.Training):
        return Choice(training.out, reasons=(_WORDS,))
    if way(training.recipe.encoder) == "vectors":
        return Choice(training.out, reasons=("a frozen base is read from stored vectors: there is nothing to fit",))
    if way(training.recipe.encoder) == "memory":
        return Choice(training.out, reasons=(_ANSWERS,))
    return _Fitting(source, tuple(overrides), training.recipe, _machine()).choice(training.out)


def _machine() -> Machine:
    import torch

    if count := torch.cuda.device_count() if torch.cuda.is_available() else 0:
        free = min(torch.cuda.mem_get_info(number)[0] for number in range(count))
        return Machine(free, torch.get_num_threads(), count)
    found = memory()
    return Machine(found["available"] or found["total"], torch.get_num_threads())


# ------------------------------------------------------------------------ the choice


class _Fitting:
    """One choice in the making."""

    def __init__(self, source: str, overrides: tuple[str, ...], recipe: Recipe, machine: Machine) -> None:
        self.source, self.overrides, self.recipe, self.machine = source, overrides, recipe, machine
        self.chunks: dict[int, int | None] = {}
        self.timed: dict[int, Sequence[Probe]] = {}
        self.reasons: list[str] = []
        self.tried: list[Mapping[str, Any]] = []

    def choice(self, out: Path) -> Choice:
        """Chunks first, with the processes that are sure; then whether more processes are worth it."""
        sure = self.recipe.engine.processes or min(max(1, self.machine.accelerators), self._smallest())
        for number, stage in enumerate(self.recipe.stages):
            if stage.chunk is not None:
                self.reasons.append(f"{stage.name}: chunk {stage.chunk}, as the recipe has it")
            self.chunks[number] = stage.chunk or self._chunk(number, sure)
        processes = self._processes(sure)
        return Choice(out, self.chunks, processes, tuple(self.reasons), tuple(self.tried))

    @property
    def _limit(self) -> int:
        return self.machine.allowed

    def _smallest(self) -> int:
        return min(stage.batch_size for stage in self.recipe.stages)

    # ---------------------------------------------------------------- memory

    def _chunk(self, number: int, processes: int) -> int | None:
        """The largest chunk that fits; None where a whole batch does.

        A small chunk is tried first: a batch that is far too large would take the machine down with it.
        """
        name, limit = self.recipe.stages[number].name, self._limit
        chunk = SMALL
        while (small := self._try(number, chunk, processes, steps=0)) is None or self._bytes(small) > limit:
            if chunk == 1:
                needed = "more than there is" if small is None else _size(self._bytes(small))
                raise ConfigError(
                    f"{name}: one text at a time takes {needed}, and {_size(limit)} may be used",
                    "end other programs, choose a smaller base, shorter texts, or a machine with more memory",
                )
            chunk = max(1, chunk // 4)
        fitting = self._larger(number, chunk, small, processes)
        if None in fitting:
            self.reasons.append(f"{name}: a whole batch takes {self._share(fitting[None])}: no chunk")
            return None
        chunk = max(own for own in fitting if own)
        share = self._share(fitting[chunk])
        self.reasons.append(f"{name}: {chunk} texts at once take {share}, a whole batch would take more")
        return chunk

    def _larger(self, number: int, chunk: int, small: list[Probe], processes: int) -> dict[int | None, list[Probe]]:
        """What fits, by its chunk, in order: a small one, twice as much, and then as much as is foreseen to fit, until
        no more does. What a step takes beside its activations is known from two of them, and foreseen anew from the
        last two.
        """
        fitting: dict[int | None, list[Probe]] = {chunk: small}
        sizes = list(self._sizes(number, chunk))
        while sizes:
            last = list(fitting.values())[-2:]
            if len(last) > 1:
                sizes = [own for own in sizes if self._foreseen(last, self._tokens(small, chunk, own)) <= self._limit]
            if not sizes:
                break
            tried = sizes[0] if len(last) == 1 else sizes[-1]
            found = self._try(number, tried, processes, steps=0 if len(last) == 1 and tried else None)
            place = sizes.index(tried)
            if found is None or self._bytes(found) > self._limit:
                sizes = sizes[:place]
                continue
            fitting[tried] = found
            sizes = sizes[place + 1 :]
            if found[0].seconds is not None:
                self.timed[number] = found
        return fitting

    def _sizes(self, number: int, chunk: int) -> Iterator[int | None]:
        """Chunks that are larger, each twice the one before; at last none."""
        while (chunk := 2 * chunk) < self.recipe.stages[number].batch_size:
            yield chunk
        yield None

    def _tokens(self, small: Sequence[Probe], chunk: int, larger: int | None) -> int:
        """Of a larger chunk, at once."""
        return small[0].tokens if larger is None else small[0].at_once * larger // chunk

    def _foreseen(self, last: Sequence[Sequence[Probe]], tokens: int) -> float:
        """Bytes with so many tokens at once: along the line through two trials."""
        each = [
            b.needed + max(0.0, (b.needed - a.needed) / max(1, b.at_once - a.at_once)) * (tokens - b.at_once)
            for a, b in zip(last[0], last[1], strict=True)
        ]
        return max(each) if self.machine.accelerators else sum(each)

    def _bytes(self, probes: Sequence[Probe]) -> int:
        """What has to fit: of each accelerator, or all processes together."""
        peaks = [own.needed for own in probes]
        return max(peaks) if self.machine.accelerators else sum(peaks)

    def _share(self, probes: Sequence[Probe]) -> str:
        return f"{_size(self._bytes(probes))} of {_size(self.machine.allowed)} ({SHARE:.0%} of what is free)"

    # ------------------------------------------------------------- processes

    def _processes(self, sure: int) -> int:
        """As many as are given or as there are accelerators; without those, twice as many while that is faster."""
        if self.recipe.engine.processes:
            self.reasons.append(f"{_named(sure)}, as the recipe has it")
            return sure
        if self.machine.accelerators:
            self.reasons.append(f"{_named(sure)}: one for each GPU, {self.machine.accelerators} in all")
            return sure
        most = min(self.machine.threads, self._smallest())
        if most < 2:
            self.reasons.append(
                f"{_named(1)}: there is one {'thread' if self.machine.threads < 2 else 'text'} to share"
            )
            return 1
        alone = [self.timed.get(number) or self._try(number, chunk, 1) for number, chunk in self.chunks.items()]
        return self._doubled(alone, most)

    def _doubled(self, alone: Sequence[Sequence[Probe] | None], most: int) -> int:
        """Twice as many processes, and twice again, as long as that saves time."""
        steps = [None if own is None else own[0].steps for own in alone]
        best, seconds = 1, self._whole(alone)
        if seconds < WORTH:
            self.reasons.append(f"{_named(1)}: its steps take {_duration(seconds)} in all")
        while 2 * best <= most and seconds >= WORTH:
            more = self._each(2 * best, steps)
            fits = all(own is not None and self._bytes(own) <= self.machine.allowed for own in more)
            taken = self._whole(more)
            if fits and self._saves(seconds, taken):  # once more: something else may have slowed the first one down
                seconds = min(seconds, self._whole(self._each(best, steps)))
            good = fits and self._saves(seconds, taken)
            self.reasons.append(self._compared(best, seconds, taken, good=good, fits=fits))
            if not good:
                break
            best, seconds = 2 * best, taken
        return best

    def _each(self, processes: int, steps: Sequence[int | None]) -> list[list[Probe] | None]:
        """Every stage in so many processes."""
        return [self._try(*own, processes, steps=n) for own, n in zip(self.chunks.items(), steps, strict=True)]

    def _saves(self, before: float, after: float) -> bool:
        return after <= (1 - MARGIN) * before and before - after >= WORTH

    def _whole(self, probes: Sequence[Sequence[Probe] | None]) -> float:
        """Seconds of all steps of all stages; infinite where one of them could not be measured."""
        return sum(float("inf") if own is None else max(p.seconds or 0.0 for p in own) * own[0].total for own in probes)

    def _compared(self, fewer: int, before: float, after: float, *, good: bool, fits: bool) -> str:
        few, many = (_named(number, self.machine.threads // number) for number in (fewer, 2 * fewer))
        if not fits:
            return f"{few}: {many} do not fit into the memory, or could not be started"
        verdict = "faster" if good else f"not faster by {MARGIN:.0%} and {WORTH:.0f} s"
        return f"{many}: {_duration(after)} of steps; {few}: {_duration(before)}: {verdict}"

    # ------------------------------------------------------------- measuring

    def _try(self, number: int, chunk: int | None, processes: int, *, steps: int | None = None) -> list[Probe] | None:
        """What each process measured; None where the memory did not suffice, or several could not be started."""
        tell("fit to the machine", len(self.tried), None, "trials")
        own = [f"stages.{at}.chunk={_yaml(done)}" for at, done in self.chunks.items()]
        settings = (*self.overrides, *own, f"stages.{number}.chunk={_yaml(chunk)}", f"engine.processes={processes}")
        found = _probed(self.source, settings, number, steps, processes, self.machine)
        self.tried.append(
            {"stage": self.recipe.stages[number].name, "chunk": chunk, "processes": processes}
            | {"measured": None if found is None else [asdict(probe) for probe in found]}
        )
        return found


def _probed(
    source: str, overrides: tuple[str, ...], stage: int, steps: int | None, processes: int, machine: Machine
) -> list[Probe] | None:
    with tempfile.TemporaryDirectory(prefix="lodesmith-auto-") as folder:
        wanted = Wanted(source, overrides, stage, steps, folder)
        command = ["-m", "lodesmith.recipes._auto_probe", json.dumps(asdict(wanted))]
        done = run(command, processes, machine.threads, quiet=True)
        files = [file_of(folder, rank) for rank in range(processes)]
        told = [json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in files]
    if done.asked is not None:
        Asked(done.asked).obey()
    for own in told:
        if "error" in own:
            raise InputError(*own["error"])
    if all("probe" in own for own in told):
        return [Probe(**own["probe"]) for own in told]
    if not any("memory" in own for own in told) and done.code != 128 + signal.SIGKILL:
        if processes == 1:
            raise RuntimeError(f"a trial step failed with {done.code}:\n{done.told[-2000:]}")
        _log.warning("%s could not train together: %s", _named(processes), done.told[-2000:])
    return None


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _named(processes: int, threads: int | None = None) -> str:
    text = "1 process" if processes == 1 else f"{processes} processes"
    return text if threads is None else f"{text} of {threads} thread{'' if threads == 1 else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.3g} min"
