"""Room for arrays that may not fit in memory."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lodesmith.core.errors import InputError

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

    Raises:
        InputError: the disk has no room for the file.
    """
    needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if needed <= most:
        return np.empty(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), needed, folder)
        return np.memmap(file, dtype, "w+", shape=shape)


def _reserve(file: int, needed: int, folder: Path) -> None:
    """Take the room of a file at once: writing to a map that the disk cannot hold would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, needed)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
            return
        raise InputError(
            f"no room for {needed:,} bytes of vectors ({error.strerror}; {shutil.disk_usage(folder).free:,} are free)",
            "free the disk, or choose another with LODESMITH_CACHE",
            path=folder,
        ) from None
