"""Batches side by side, each on one core, rather than one after another with every core on each.

A layer of a small model is too short to be worth splitting: the cores wait for each other at its end, and where another
program holds one of them, all wait for that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["FEWEST_TOKENS", "budget_of", "each_on_one_core", "one_core"]

T = TypeVar("T")


FEWEST_TOKENS = 512
"""Tokens below which work is not worth splitting between cores."""


def budget_of(tokens: int, most: int, device: torch.device) -> int:
    """Tokens a batch, so that every core of a CPU gets one: at most `most`, at least `FEWEST_TOKENS`."""
    if device.type != "cpu":
        return most
    return min(most, max(FEWEST_TOKENS, -(-tokens // torch.get_num_threads())))


@contextmanager
def one_core() -> Iterator[None]:
    """Let torch use one core in the block; afterwards as many as before."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def each_on_one_core(
    work: Callable[[T], None], batches: Sequence[T], device: torch.device, *, short: bool = False
) -> None:
    """Do `work` on every batch; on a CPU with several batches, as many at a time as torch has threads.

    Args:
        work: must be safe to call from several threads, on different batches.
        batches: their order is kept only where they are done one after another.
        device: where the work computes.
        short: all of it is too little to be split: one core does it, without waiting for the others.
    """
    cores = torch.get_num_threads()
    alone = device.type != "cpu" or cores == 1 or (len(batches) < cores and not short)
    if alone:
        for batch in batches:
            work(batch)
        return
    with one_core():
        if short:
            for batch in batches:
                work(batch)
        else:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for _ in pool.map(work, batches):
                    pass
