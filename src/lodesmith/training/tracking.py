"""Experiment trackers as consumers of the event stream: TensorBoard, W&B, trackio, any number of them at once.

    for event in tracked(fit(stages), ["tensorboard", "wandb"], folder="run", name="bag-7"):
        ...

Each tracker has a thread of its own: one that is slow, down or broken never holds or stops the training.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import netrc
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from lodesmith.core import events
from lodesmith.core.errors import InputError, MissingExtraError
from lodesmith.core.events import Event
from lodesmith.core.files import read_json, write_json

__all__ = ["NAMES", "Begin", "Name", "Tracker", "check", "figures", "tracked"]

_log = logging.getLogger(__name__)

Name = Literal["tensorboard", "wandb", "trackio"]
NAMES: tuple[Name, ...] = ("tensorboard", "wandb", "trackio")

WAITING = 10_000
"""Reports that wait for a slow tracker; further ones are dropped, and counted."""
CLOSING = 30.0
"""Seconds that a tracker has to finish after the last event."""
_OFF = {"offline", "disabled", "dryrun"}


class Tracker(Protocol):
    """Takes figures."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures of a step; steps never fall."""
        ...

    def close(self) -> None:
        """Finish, and write what is left."""
        ...


@dataclass(frozen=True)
class Begin:
    """What a tracker is opened with.

    Args:
        folder: of the run; what a tracker keeps in files lies below `tracking/` in it.
        name: of the run.
        identity: the same for a resumed run as for the one it resumes.
        config: settings, as JSON.
        resumed: the step that the run goes on from; None for one that starts.
    """

    folder: Path
    name: str
    identity: str
    config: Mapping[str, Any]
    resumed: int | None = None


Opener = Callable[[Begin], Tracker]


def check(names: Sequence[str]) -> None:
    """See that the trackers' packages are there, without loading them.

    Raises:
        MissingExtraError: one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, name)


def tracked(
    happenings: Iterator[Event],
    names: Sequence[Name] | Mapping[str, Opener],
    folder: Path | str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    rank: int | None = None,
) -> Iterator[Event]:
    """Pass events on, and their figures to trackers. Only the first of several processes tracks.

    A tracker that fails is left out from then on; a `Warning` event says so.

    Args:
        happenings: of `fit`.
        names: which trackers; or name → what opens it, for one's own.
        folder: of the run.
        name: of the run.
        config: settings that are shown beside it.
        rank: of this process; None for what torchrun says.

    Raises:
        MissingExtraError: a tracker's package is not installed.
    """
    if not isinstance(names, Mapping):
        check(names)
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    openers = names if isinstance(names, Mapping) else {own: _OPENERS[own] for own in names}
    couriers: list[_Courier] = []
    aside = _Aside()
    try:
        for event in happenings:
            if aside.usual is None and rank == 0 and openers:
                aside.install()
                begin = _begin(Path(folder), name, config or {}, event)
                couriers = [_Courier(own, opener, begin) for own, opener in openers.items()]
            values = figures(event)
            for courier in couriers:
                courier.take(values, event.step)
            if isinstance(event, events.Done):
                _close(couriers)
            yield from _complaints(couriers, event)
            yield event
    finally:
        _close(couriers)
        aside.remove()
        if close := getattr(happenings, "close", None):
            close()


def _begin(folder: Path, name: str, config: Mapping[str, Any], first: Event) -> Begin:
    path = folder / "tracking" / "identity.json"
    resumed = first.step if isinstance(first, events.Resumed) else None
    identity = uuid.uuid4().hex[:12]
    if resumed is not None:
        try:
            identity = str(read_json(path)["identity"])
        except (InputError, KeyError, TypeError) as error:
            _log.info("the trackers' run is a new one: %s", error)
    try:
        write_json(path, {"identity": identity})
    except OSError as error:
        _log.warning("a resumed run will be a new one to its trackers: %s", error)
    return Begin(folder, name, identity, config, resumed)


def _complaints(couriers: Sequence[_Courier], event: Event) -> Iterator[Event]:
    for courier in couriers:
        if complaint := courier.complaint():
            yield events.Warning(event.step, event.epoch, event.stage, complaint, "training goes on without it")


def _close(couriers: Sequence[_Courier]) -> None:
    for courier in couriers:
        courier.end()
    for courier in couriers:
        courier.join()


def figures(event: Event) -> dict[str, float]:
    """What trackers get of an event: figures by name, such as `train/infonce`, `validation/nDCG@10`."""
    if isinstance(event, events.Step):
        groups = {"train": event.terms, "lr": event.lr, "grad_norm": event.grad_norm, "evidence": event.evidence}
        found = {f"{group}/{name}": float(value) for group, values in groups.items() for name, value in values.items()}
        return found | {"train/total": event.total, "train/throughput": event.throughput, "train/epoch": event.epoch}
    if isinstance(event, events.Validation):
        told = {"validation": event.measures, "geometry": event.geometry}
        return {f"{group}/{name}": float(value) for group, values in told.items() for name, value in values.items()}
    if isinstance(event, events.Warning) and event.cause:
        return {f"health/{event.cause}": 1.0}
    return {}


# ------------------------------------------------------------------------ one thread a tracker


@dataclass
class _Courier:
    """Brings figures to a tracker, in a thread of its own."""

    name: str
    opener: Opener
    begin: Begin
    waiting: queue.Queue[tuple[Mapping[str, float], int] | None] = field(default_factory=lambda: queue.Queue(WAITING))
    dropped: int = 0
    problem: str = ""
    told: bool = False
    ended: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name=f"tracking-{self.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            tracker = self.opener(self.begin)
            try:
                while (item := self.waiting.get()) is not None:
                    tracker.log(*item)
            finally:
                tracker.close()
        except BaseException as error:  # whatever a tracker throws, sys.exit among it, ends here
            self.problem = f"tracking by {self.name} has stopped: {type(error).__name__}: {error}".partition("\n")[0]
            _log.debug("%s", self.problem, exc_info=True)

    def take(self, values: Mapping[str, float], step: int) -> None:
        """Never waits."""
        if not values or self.ended or not self.thread.is_alive():
            return
        try:
            self.waiting.put_nowait((values, step))
        except queue.Full:
            self.dropped += 1

    def end(self) -> None:
        """Say that nothing more comes."""
        if not self.ended:
            self.ended = True
            while True:
                try:
                    return self.waiting.put_nowait(None)
                except queue.Full:
                    self.waiting.get_nowait()
                    self.dropped += 1

    def join(self) -> None:
        """Wait, but not for ever."""
        if self.problem or self.told:
            return
        self.thread.join(CLOSING)
        if self.thread.is_alive():
            self.problem = f"{self.name} did not finish within {CLOSING:.0f} s"
        elif self.dropped and not self.problem:
            self.problem = f"{self.name} was too slow: {self.dropped:,} reports are missing there"

    def complaint(self) -> str:
        """What is to be told, once."""
        if not self.problem or self.told:
            return ""
        self.told = True
        return self.problem


class _Aside:
    """Standard output, but for the threads of trackers: what they print goes to standard error.

    Standard output carries results, `--json` among them: a tracker's remarks do not belong there.
    """

    def __init__(self) -> None:
        self.usual: Any = None

    def install(self) -> None:
        """Take the place of standard output."""
        self.usual, sys.stdout = sys.stdout, cast(Any, self)

    def remove(self) -> None:
        """Give it back, unless somebody else has taken it meanwhile."""
        if sys.stdout is self:
            sys.stdout = self.usual

    def write(self, text: str) -> int:
        """To one or the other."""
        aside = threading.current_thread().name.startswith("tracking-")
        return int((sys.stderr if aside else self.usual).write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.usual, name)


# ------------------------------------------------------------------------ the libraries


@dataclass(frozen=True)
class _Calls:
    """A tracker of two functions."""

    log: Callable[[Mapping[str, float], int], Any]
    close: Callable[[], Any]


def _tensorboard(begin: Begin) -> Tracker:
    """Files below `tracking/tensorboard`; a resumed run hides what was told after its step."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(
        str(begin.folder / "tracking" / "tensorboard"),
        purge_step=0 if begin.resumed is None else begin.resumed + 1,
    )

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return _Calls(log, writer.close)


def _wandb(begin: Begin) -> Tracker:
    """Online where there is a key (or WANDB_MODE says so); else files below `tracking/wandb`, for `wandb sync`."""
    wandb: Any = importlib.import_module("wandb")
    mode = os.environ.get("WANDB_MODE") or ("online" if _wandb_key() else "offline")
    folder = begin.folder / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    run: Any = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "lodesmith"),
        name=begin.name,
        id=begin.identity,
        resume="allow" if mode not in _OFF else None,
        mode=mode,
        dir=str(folder),
        config=dict(begin.config),
        settings=wandb.Settings(silent=True, console="off"),
    )
    return _Calls(lambda values, step: run.log(dict(values), step=step), run.finish)


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False


def _trackio(begin: Begin) -> Tracker:
    """The local database of trackio (TRACKIO_DIR), for `trackio show`."""
    trackio: Any = importlib.import_module("trackio")
    run: Any = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", "lodesmith"),
        name=f"{begin.name}-{begin.identity[:6]}",
        config=dict(begin.config),
        resume="never" if begin.resumed is None else "allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return _Calls(lambda values, step: run.log(dict(values), step=step), run.finish)


_OPENERS: Mapping[str, Opener] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
