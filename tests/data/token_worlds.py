"""Token stores for tests: a text is its token ids, written as numbers. As a program it fills one and dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lodesmith.data.tokens import PlainTokenizer, Tokens, TokenStore

TEXTS = [f"{number % 7} {number} {number * number}" for number in range(60)]


def numbers(texts: Sequence[str]) -> list[list[int]]:
    return [[int(word) for word in text.split()] for text in texts]


def plain(**options: Any) -> PlainTokenizer:
    return PlainTokenizer(numbers, "numbers", **options)


def store(root: Path, **options: Any) -> TokenStore:
    return TokenStore(root, plain(vocabulary=5000), **{"chunk": 10, **options})


def lists(tokens: Tokens) -> list[list[int]]:
    """The ids of every text."""
    ids, offsets = tokens.take(range(len(tokens)))
    return [part.tolist() for part in np.split(ids, offsets[1:-1])]


def main(root: str, how: str, number: str) -> None:
    """Fill a store; `kill`: die before the number-th flush, half of whose file is on the disk; `wait`: go on."""
    flush, calls = os.fsync, iter(range(10**6))

    def fsync(handle: int) -> None:
        if next(calls) == int(number):
            os.ftruncate(handle, max(0, os.fstat(handle).st_size - 3))
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    if how == "kill":
        opened = store(Path(root))
        os.fsync = fsync
        opened.tokens(TEXTS)
    else:
        texts = TEXTS[int(number) :] + TEXTS[: int(number)]
        tokens = store(Path(root), chunk=1).tokens(texts)
        assert lists(tokens) == numbers(texts)


if __name__ == "__main__":
    main(*sys.argv[1:])
