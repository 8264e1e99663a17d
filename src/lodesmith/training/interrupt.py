"""SIGTERM and SIGINT end a training at the next step, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lodesmith.core.errors import Terminated


@dataclass
class Asked:
    """Which signal came, if any."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def obey(self) -> None:
        """End, as the signal wants it.

        Raises:
            Terminated: after SIGTERM.
            KeyboardInterrupt: after SIGINT.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated


@contextmanager
def interruptions() -> Iterator[Asked]:
    """Note the first signal instead of dying from it; a second one is obeyed at once. Outside the main thread, where
    Python delivers no signals, nothing changes."""
    asked = Asked()

    def note(number: int, _: object) -> None:
        if asked:
            asked.number = number
            asked.obey()
        asked.number = number

    old = {}
    if threading.current_thread() is threading.main_thread():
        old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            with suppress(ValueError, TypeError):  # a generator may be closed by another thread
                signal.signal(number, handler)
