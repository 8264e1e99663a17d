"""Pieces of work side by side, a process each, with their progress told here."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from lodesmith.core.errors import LodesmithError
from lodesmith.core.progress import Progress, listen, tell
from lodesmith.recipes.launching import end_with

__all__ = ["side_by_side"]

_ENDED = (
    "a process that worked beside others was ended, perhaps because memory ran out",
    "run the same command again: it goes on where it was",
)


def side_by_side(work: Callable[..., object], items: Sequence[tuple[Any, ...]], processes: int) -> None:
    """Call `work(*item)` for every item, at most so many at once, each on its share of the threads.

    What an item raises is raised here once the others that had begun are done; no further one begins. Where this
    process is asked to end, or is gone, each of the others is asked to end, once, so that a training saves.

    A script that calls this does so under `if __name__ == "__main__"`: the processes import it.

    Args:
        work: a function of a module.
        items: its arguments; the first of them names the work in what is told.
        processes: with 1 nothing is begun, and the work is done here.

    Raises:
        LodesmithError: a process was ended from outside.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        for item in items:
            work(*item)
        return
    import torch

    threads = max(1, torch.get_num_threads() // processes)
    waiting, failed = list(items), None
    going: dict[Any, BaseProcess] = {}
    try:
        while going or (waiting and not failed):
            while waiting and not failed and len(going) < processes:
                here, process = _begun(work, waiting.pop(0), threads)
                going[here] = process
            for connection in wait(list(going)):
                told = _heard(connection)
                if isinstance(told, Progress):
                    tell(told.label, told.done, told.total, told.unit)
                    continue
                process = going.pop(connection)
                process.join()
                failed = failed or told or (LodesmithError(*_ENDED) if process.exitcode else None)
    except BaseException:
        for process in going.values():
            process.terminate()
        for process in going.values():
            process.join()
        raise
    if failed:
        raise failed


def _begun(work: Callable[..., object], item: tuple[Any, ...], threads: int) -> tuple[Connection, BaseProcess]:
    """A process that works on an item, and where it is heard."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, os.getpid(), threads, work, item))
    process.start()
    there.close()
    return here, process


def _heard(connection: Any) -> Progress | Exception | None:
    """What a process tells next: how far it is, or at its end what it raised."""
    try:
        told: Progress | Exception = connection.recv()
        return told
    except (EOFError, OSError):
        return None


def _work(there: Connection, parent: int, threads: int, work: Callable[..., object], item: tuple[Any, ...]) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C asks the one who began this, who passes it on: asked twice, a training does not save
    end_with(parent)
    import torch

    torch.set_num_threads(threads)

    lock = threading.Lock()

    def pass_on(progress: Progress) -> None:
        with lock, suppress(OSError):  # where nobody listens any more, `end_with` sees to it
            there.send(Progress(f"{item[0]}: {progress.label}", progress.done, progress.total, progress.unit))

    with listen(pass_on):
        try:
            work(*item)
        except Exception as error:
            with lock:
                there.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
