"""Freed memory stays with the process, so that a training step does not pay for its pages again and again.

glibc maps every block above 32 MiB anew and unmaps it when it is freed; the system clears each page at first touch. The
gradient of an embedding of 26,000 × 512 is such a block: half the time of a step went there (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_freed"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of `mallopt(3)`."""


@cache
def keep_freed() -> bool:
    """Let the allocator keep what is freed, in this process from now on; whether it could be told so.

    The peak of the resident memory stays what it is; below it, less is given back. Nothing happens where the C library
    is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt that does nothing
    except (OSError, AttributeError):
        return False
    return bool(tell(_MMAP_MAX, 0)) and bool(tell(_TRIM_THRESHOLD, -1))
