"""Batches side by side, each on one core, rather than one after another with every core on each.

A layer of a small model is too short to be worth splitting: the cores wait for each other at its end, and where another
program holds one of them, all wait for that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["each_on_one_core"]

T = TypeVar("T")


def each_on_one_core(work: Callable[[T], None], batches: Sequence[T], device: torch.device) -> None:
    """Do `work` on every batch; on a CPU with several batches, as many at a time as torch has threads.

    Args:
        work: must be safe to call from several threads, on different batches.
        batches: their order is kept only where they are done one after another.
        device: where the work computes.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1 or len(batches) < cores:
        for batch in batches:
            work(batch)
        return
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, batches):
                pass
    finally:
        torch.set_num_threads(cores)  # what a thread sets is also the default of threads to come
