"""Freed memory stays with the process, so that a training step does not pay for its pages again and again.

glibc maps every block above 32 MiB anew and unmaps it when it is freed; the system clears each page at first touch. The
gradient of an embedding of 26,000 × 512 is such a block: half the time of a step went there (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_freed", "return_freed"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of `mallopt(3)`."""
_LARGE = 1 << 20
"""Bytes from which a block is mapped by itself where memory is scarce."""
_MOST_MAPPED = 65_536
"""Blocks that may be; glibc's own default."""
_SPARE = 128 << 10
"""Bytes at the end of the heap that stay; glibc's own default."""

_scarce = False


@cache
def keep_freed() -> bool:
    """Let the allocator keep what is freed, in this process from now on; whether it could be told so.

    The peak of the resident memory stays what it is; below it, less is given back. Nothing happens where the C library
    is not glibc, or after `return_freed`.
    """
    return not _scarce and _told((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))


def return_freed() -> bool:
    """The reverse, for good: freed large blocks go back to the system, so that the peak is what is in use.

    Blocks of many sizes that come and go leave holes in a heap that is kept: a training in chunks, whose memory should
    not grow with its batch, grows by them.
    """
    global _scarce  # noqa: PLW0603 - it is the process's allocator
    _scarce = True
    return _told((_MMAP_THRESHOLD, _LARGE), (_MMAP_MAX, _MOST_MAPPED), (_TRIM_THRESHOLD, _SPARE))


def _told(*settings: tuple[int, int]) -> bool:
    """Whether glibc took the settings."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt that does nothing
    except (OSError, AttributeError):
        return False
    return all(bool(tell(*setting)) for setting in settings)
