"""Pieces of work side by side, a process each, with their progress told here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lodesmith.core.errors import LodesmithError, Terminated
from lodesmith.core.progress import Progress, listen, tell
from lodesmith.recipes.launching import end_with

__all__ = ["side_by_side"]

_LOOK = 0.2
"""Seconds between two looks at what the processes tell."""


def side_by_side(work: Callable[..., object], items: Sequence[tuple[Any, ...]], processes: int) -> None:
    """Call `work(*item)` for every item, at most so many at once, each on its share of the threads.

    What an item raises is raised here once the others that had begun are done; no further one begins. Where this
    process is asked to end, or is gone, the others are asked to end, so that a training saves.

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

    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    settings = (told, os.getpid(), max(1, torch.get_num_threads() // processes))
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, context, _begin, settings) as pool:
        try:
            failed = _done(pool, work, list(items), processes, told)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
    if isinstance(failed, BrokenProcessPool):
        raise LodesmithError(
            "a process that worked beside others was ended, perhaps because memory ran out",
            "run the same command again: it goes on where it was",
        ) from failed
    if failed:
        raise failed


def _done(
    pool: Executor, work: Callable[..., object], waiting: list[tuple[Any, ...]], processes: int, told: Any
) -> BaseException | None:
    """Work until nothing waits or one has failed; what it raised. A pool that held more would begin one too many."""
    failed: BaseException | None = None
    going: set[Future[None]] = set()
    while going or (waiting and not failed):
        while waiting and not failed and len(going) < processes:
            going.add(pool.submit(_do, work, waiting.pop(0)))
        done, going = wait(going, _LOOK, FIRST_COMPLETED)
        while not told.empty():  # to the end: nobody can write into a pipe that is full
            progress = told.get()
            tell(progress.label, progress.done, progress.total, progress.unit)
        failed = failed or next((error for one in done if (error := one.exception())), None)
    return failed


_told: Any = None


def _begin(told: Any, parent: int, threads: int) -> None:
    """What a process does first."""
    global _told  # noqa: PLW0603 - a process of its own
    _told = told
    end_with(parent)
    import torch

    torch.set_num_threads(threads)


def _do(work: Callable[..., object], item: tuple[Any, ...]) -> None:
    def pass_on(progress: Progress) -> None:
        _told.put(Progress(f"{item[0]}: {progress.label}", progress.done, progress.total, progress.unit))

    with listen(pass_on):
        try:
            work(*item)
        except (Terminated, KeyboardInterrupt) as asked:  # a process of a pool would wait for more work, from nobody
            os._exit(143 if isinstance(asked, Terminated) else 130)
