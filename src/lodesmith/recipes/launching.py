"""Several processes on this machine that train together, started by torchrun as a subprocess with the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lodesmith.recipes import train

__all__ = ["environment", "launch", "launcher", "processes_of"]


def processes_of(training: object) -> int:
    """How many processes have yet to be launched for a training: 1 where it can go on in this one."""
    wanted = training.recipe.engine.processes if isinstance(training, train.Training) else None
    return 1 if wanted is None or "RANK" in os.environ else wanted


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `lode ARGUMENTS` in several processes by torchrun, to its end; its exit code.

    The threads of this process are shared out among them. What asks this process to end asks them.
    """
    import torch

    command = [*launcher(processes), "-m", "lodesmith.cli.main", *arguments]
    child = subprocess.Popen(command, env=environment(processes, torch.get_num_threads()))
    with _passed_on(child):
        return child.wait()


@contextmanager
def _passed_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on; of Ctrl-C the terminal tells the child itself, and it is waited for."""
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _frame: child.send_signal(number))}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launcher(processes: int) -> list[str]:
    """What a Python command of so many processes begins with."""
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def environment(processes: int, threads: int) -> dict[str, str]:
    """The environment of this process, with its threads shared out."""
    own = str(max(1, threads // processes))
    limited = [name for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ]
    return {**os.environ, "OMP_NUM_THREADS": own, **dict.fromkeys(limited, own)}
