"""Several processes on this machine that train together, each with the same command.

torchrun is for several machines: it ends with 1 whatever the workers ended with, ends those that are still saving after
half a minute, and on Ctrl-C tells them twice what the terminal has told them. Here each signal reaches each process
once, and what they end with comes back. They find each other by the variables that torchrun sets.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from lodesmith.recipes import train

__all__ = ["Ended", "end_with_launcher", "environment", "launch", "processes_of", "run"]

_log = logging.getLogger(__name__)

SOON, GRACE = 1.0, 30.0
"""Seconds after which the others are asked to end when one has failed, and after which they are ended."""
_OFTEN, _SELDOM = 0.05, 1.0
"""Seconds between two looks at what was launched, and at who launched."""
_LAUNCHER = "LODESMITH_LAUNCHER"
"""Variable with the number of the process that launched this one."""
_HOST = "127.0.0.1"
_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class Ended:
    """How processes ended.

    Args:
        code: 0; or that of the first that failed, 128 + N where signal N ended it.
        told: what it wrote; empty where it wrote to the terminal.
        asked: the signal that asked this process to end meanwhile.
    """

    code: int
    told: str = ""
    asked: int | None = None


def processes_of(training: object) -> int:
    """How many processes have yet to be launched for a training: 1 where it can go on in this one."""
    wanted = training.recipe.engine.processes if isinstance(training, train.Training) else None
    return 1 if wanted is None or "RANK" in os.environ else wanted


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `lode ARGUMENTS` in several processes, to their end; the exit code that one process would have.

    The threads of this process are shared out among them. What asks this process to end asks them, and they may save.
    """
    import torch

    ended = run(["-m", "lodesmith.cli.main", *arguments], processes, torch.get_num_threads())
    if ended.code and ended.told:
        _log.warning("%s", ended.told)
    return ended.code


def end_with_launcher() -> None:
    """From now on, what was launched asks itself to end, and saves, when its launcher is gone without a word.

    A launcher that is killed can pass nothing on; its processes would train on, unseen, beside a run that is resumed.
    """
    launcher = os.environ.pop(_LAUNCHER, None)  # what this process starts is not launched by that one
    if launcher is not None:
        end_with(int(launcher or 0))


def end_with(parent: int) -> None:
    """From now on, this process asks itself to end, and saves, when the one that began it is gone.

    Args:
        parent: its process id.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SELDOM)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.name == "posix":  # elsewhere a process keeps its parent's number
        threading.Thread(target=watch, daemon=True).start()


def run(command: Sequence[str], processes: int, threads: int, *, quiet: bool = False) -> Ended:
    """Run `python COMMAND` in so many processes that know of each other, to the end of all.

    Args:
        command: module or file, and its arguments.
        processes: how many.
        threads: that they share.
        quiet: keep what the first one writes, too; that of the others is always kept.
    """
    shared = environment(processes, threads)
    store = _store() if processes > 1 else None
    with ExitStack() as files:
        written = [files.enter_context(TemporaryFile()) for _ in range(processes)]
        group = _Group(written if quiet else [None, *written[1:]])
        with group.passed_on():
            for rank in range(processes):
                own = {} if store is None else _place(rank, processes, store.port)
                group.start([sys.executable, *command], {**shared, **own})
            first = group.wait()
        asked = group.asked[-1] if group.asked else None
        if first is None:
            return Ended(0, "", asked)
        written[first].seek(0)
        code = group.started[first].returncode
        return Ended(code if code > 0 else 128 - code, written[first].read().decode(errors="replace").strip(), asked)


class _Group:
    """Processes that are started, asked to end and waited for together."""

    def __init__(self, files: Sequence[IO[bytes] | None]) -> None:
        self.files = files
        self.started: list[subprocess.Popen[bytes]] = []
        self.asked: list[int] = []
        self.ended = False

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the next one, in a session of its own, where Ctrl-C does not reach it past this process."""
        file = self.files[len(self.started)]
        self.started.append(
            subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        )
        if self.asked:  # while it was started
            self.started[-1].send_signal(self.asked[-1])

    @contextmanager
    def passed_on(self) -> Iterator[None]:
        """Pass on what asks this process to end; none is left behind when the block is left.

        Outside the main thread, where Python delivers no signals, nothing is passed on.
        """

        def tell(number: int, _frame: object) -> None:
            self.asked.append(number)
            for process in self.started:
                process.send_signal(number)

        before = {}
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in _ASKING if signal.getsignal(number) is not signal.SIG_IGN]
            before = {number: signal.signal(number, tell) for number in wanted}
        try:
            yield
        finally:
            for process in self.started:
                process.kill()  # of those that have ended, nothing
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self) -> int | None:
        """Wait for all; the number of the first that failed. Those that were asked to end may take their time."""
        first, since = None, 0.0
        while None in [process.poll() for process in self.started]:
            if first is None and (first := self._failed()) is not None:
                since = time.monotonic()
            if first is not None:
                self._end(time.monotonic() - since)
            time.sleep(_OFTEN)
        first = self._failed() if first is None else first
        codes = [process.returncode for process in self.started]
        if first is None:
            return next((rank for rank, code in enumerate(codes) if code), None)
        return 0 if codes[0] == codes[first] else first  # what all found, the first one has told

    def _end(self, waited: float) -> None:
        """End those that may wait for ever for one that has failed."""
        if waited > SOON and not self.ended:
            self.ended = True
            for process in self.started:
                process.terminate()
        if waited > GRACE:
            for process in self.started:
                process.kill()

    def _failed(self) -> int | None:
        """One that has ended with what nobody asked it for."""
        wanted = {0, None} | {code for number in self.asked for code in (-number, 128 + number)}
        return next((rank for rank, process in enumerate(self.started) if process.returncode not in wanted), None)


def _store() -> Any:
    """Where they meet, at a port that is free: nobody can take it between its choice and its use."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)


def _place(rank: int, processes: int, port: int) -> dict[str, str]:
    """What a process has to know of the others, in the variables of torchrun."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    where = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return {name: str(number) for name, number in numbers.items()} | where


def environment(processes: int, threads: int) -> dict[str, str]:
    """The environment of this process for what it launches, with its threads shared out."""
    own = str(max(1, threads // processes))
    limited = [name for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ]
    return {**os.environ, _LAUNCHER: str(os.getpid()), "OMP_NUM_THREADS": own, **dict.fromkeys(limited, own)}
