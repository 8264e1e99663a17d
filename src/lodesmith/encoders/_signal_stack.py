"""The stack on which the system delivers a thread's signals, kept where it was while a library sets its own.

A compiled model of OpenVINO (2026.4) puts one of its own in its place, frees it when the model goes, and puts back the
one that it found: of two models that go in the order they came, the second puts back what the first has freed. The next
signal, be it Ctrl-C or the end of a worker, then ends the process.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["same_signal_stack"]


class _Stack(ctypes.Structure):
    """Linux's stack_t."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Put this thread's signal stack back after the block. Other systems than Linux are left alone."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    known = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known and libc.sigaltstack(ctypes.byref(before), None):
            logging.getLogger(__name__).warning("the signal stack could not be put back: a signal may end the process")
