"""Pieces of work side by side, a process each, with their progress told here."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import suppress
from queue import Empty
from typing import Any, TypeVar

from lodesmith.core.progress import Progress, listen, tell

__all__ = ["cores", "side_by_side"]

T = TypeVar("T")
_LOOK = 0.2
"""Seconds between two looks at what the processes tell."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(work: Callable[..., object], items: Sequence[tuple[Any, ...]], processes: int) -> None:
    """Call `work(*item)` for every item, at most so many at once, each on its share of the cores.

    What an item raises is raised here once the others that had begun are done; no further one begins. Processes end
    with the one that began them, however that ended.

    Args:
        work: a function of a module.
        items: its arguments; the first of them names the work in what is told.
        processes: with 1 nothing is begun, and the work is done here.
    """
    if min(processes, len(items)) <= 1:
        for item in items:
            work(*item)
        return
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        told = manager.Queue()
        settings = (told, os.getpid(), max(1, cores() // processes))
        with ProcessPoolExecutor(min(processes, len(items)), context, _begin, settings) as pool:
            open_ = {pool.submit(_do, work, item) for item in items}
            while open_:
                done, open_ = wait(open_, _LOOK, FIRST_COMPLETED)
                _pass_on(told)
                if any(one.exception() for one in done):
                    pool.shutdown(wait=True, cancel_futures=True)
                for one in done:
                    one.result()


def _pass_on(told: Any) -> None:
    with suppress(Empty):
        while True:
            progress = told.get_nowait()
            tell(progress.label, progress.done, progress.total, progress.unit)


_told: Any = None


def _begin(told: Any, parent: int, threads: int) -> None:
    """What a process does first."""
    global _told  # noqa: PLW0603 - a process of its own
    _told = told
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _end_with(parent: int) -> None:
    """Work that nobody waits for would hold its folder from who comes next."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(work: Callable[..., object], item: tuple[Any, ...]) -> None:
    def pass_on(progress: Progress) -> None:
        _told.put(Progress(f"{item[0]}: {progress.label}", progress.done, progress.total, progress.unit))

    with listen(pass_on):
        work(*item)
