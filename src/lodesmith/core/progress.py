"""Progress of long work, reported without printing: a front end listens, the library only tells.

>>> with listen(lambda p: print(p.label, p.done, p.total)):
...     for _ in track([1, 2], "count"):
...         pass
count 0 2
count 1 2
count 2 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is: `done` of `total` (None where it is not known) `unit`s."""

    label: str
    done: int
    total: int | None = None
    unit: str = ""


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("lodesmith_progress", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Send the progress of everything inside the block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(label: str, done: int, total: int | None = None, unit: str = "") -> None:
    """Report progress to whoever listens."""
    if listener := _listener.get():
        listener(Progress(label, done, total, unit))


def track(items: Iterable[T], label: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Iterate and report after each item."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    tell(label, 0, total, unit)
    for done, item in enumerate(items, start=1):
        yield item
        tell(label, done, total, unit)
