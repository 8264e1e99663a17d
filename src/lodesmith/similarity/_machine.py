"""How products are made on this machine: in full precision, and side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
A = TypeVar("A")


@cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; False where this torch does not tell."""
    tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(test is not None and test() for test in tests)


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep torch from lowering the precision of float32 products inside the block, whatever the user has set."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def side_by_side(work: Callable[[A], T], pieces: Iterable[A]) -> Iterator[T]:
    """The results of the pieces, in their order: each piece in one of torch's number of threads, which does its own
    products and waits for no other.

    Args:
        work: what to do with a piece.
        pieces: taken all at once where there are threads.
    """
    threads = torch.get_num_threads()
    listed = list(pieces)
    if threads == 1 or len(listed) < 2:
        yield from map(work, listed)
        return
    try:
        # The setting is each thread's own, but the last one made is what new threads begin with: hence `finally`.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, listed)
    finally:
        torch.set_num_threads(threads)
