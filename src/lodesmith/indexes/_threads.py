"""Work on parts of a batch side by side: each thread does its own products, and none waits for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import torch

from lodesmith.similarity._machine import side_by_side

T = TypeVar("T")

LEAST = 64
"""Queries below which a part of a batch is not worth a thread: the products then need all threads for themselves."""


def parts(count: int, most: int) -> list[slice]:
    """Cut `count` queries into parts of at most `most`, as equal and as many as there are threads, or a multiple."""
    threads = torch.get_num_threads()
    workers = threads if count >= LEAST * threads else 1
    number = max(1, -(-count // most))
    number = -(-number // workers) * workers
    cuts = [count * i // number for i in range(number + 1)]
    return [slice(start, end) for start, end in pairwise(cuts) if end > start]


def in_threads(work: Callable[[slice], T], pieces: list[slice]) -> Iterator[T]:
    """The results of the pieces, in their order: each piece in one of torch's number of threads."""
    if len(pieces) < torch.get_num_threads():
        yield from map(work, pieces)
    else:
        yield from side_by_side(work, pieces)
