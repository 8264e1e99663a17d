"""Room for arrays that may not fit in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["scratch"]

_IN_MEMORY = 256 << 20
"""Bytes; a larger array gets a file."""


def scratch(shape: tuple[int, ...], dtype: DTypeLike, folder: Path, most: int = _IN_MEMORY) -> NDArray[Any]:
    """An array to be filled, in memory; a large one over a nameless file, whose pages the system can write back and
    drop where memory is short. The file goes with the array.

    Args:
        shape: of the array.
        dtype: of its elements.
        folder: where the file is made; not one that is kept in memory itself.
        most: bytes that an array in memory may have.
    """
    if int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize <= most:
        return np.empty(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)
