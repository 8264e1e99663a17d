"""How much faster one encoder is than another: both over the same documents, in turns, tokenisation included."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.protocols import Encoder

__all__ = ["Speed", "speed"]

_PILOT = 32
"""Documents by which it is seen how slow the teacher is."""
_MOST = 4096
"""Documents of the sample, at most."""
_SHORTEST = 0.1
"""Seconds below which a measurement repeats its work."""


@dataclass(frozen=True)
class Speed:
    """Documents a second of two encoders, and their ratio.

    Args:
        documents: of the sample.
        rounds: how often each was measured; who begins alternates.
        student: documents/s, the median of the rounds.
        teacher: the same.
        ratio: the median of the rounds' ratios, student by teacher.
        low: the smallest of them.
        high: the largest.
        tensors: the same ratio of the tensor part alone, once the texts are tokens; None where an encoder's cannot be
            told apart.
    """

    documents: int
    rounds: int
    student: float
    teacher: float
    ratio: float
    low: float
    high: float
    tensors: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the same fields."""
        return asdict(self)


def speed(student: Encoder, teacher: Encoder, texts: Sequence[str], *, rounds: int = 5, seconds: float = 1.5) -> Speed:
    """Measure both, each round one after the other; what a machine does beside it then meets both.

    Args:
        student: whose speed is asked for.
        teacher: the one it is held against.
        texts: documents, in an order that is drawn; as many of them are read as the teacher reads in `seconds`.
        rounds: at least 1.
        seconds: that a round of the teacher takes, about.

    Raises:
        InputError: there are no texts, or no rounds.
    """
    if not texts or rounds < 1:
        raise InputError(f"{len(texts)} documents and {rounds} rounds measure nothing", "give at least one of each")
    pilot = list(texts[:_PILOT])
    student.encode(pilot)  # both are warm then
    teacher.encode(pilot)
    count = int(len(pilot) * seconds / _seconds(lambda: teacher.encode(pilot)))
    sample = list(texts[: min(max(count, len(pilot)), _MOST)])
    times = _in_turns(lambda: student.encode(sample), lambda: teacher.encode(sample), rounds)
    ratios = [slow / fast for fast, slow in times]
    each = [len(sample) / statistics.median(column) for column in zip(*times, strict=True)]
    return Speed(
        documents=len(sample),
        rounds=rounds,
        student=each[0],
        teacher=each[1],
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        tensors=_tensors(student, teacher, sample, rounds),
    )


def _tensors(student: Encoder, teacher: Encoder, sample: list[str], rounds: int) -> float | None:
    from lodesmith.encoders._bare import tensors_alone

    alone = tensors_alone(student, sample), tensors_alone(teacher, sample)
    if alone[0] is None or alone[1] is None:
        return None
    return statistics.median(slow / fast for fast, slow in _in_turns(alone[0], alone[1], rounds))


def _in_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in each round; every other round begins with the second."""
    found = []
    for number in range(rounds):
        if number % 2:
            late = _seconds(second)
            found.append((_seconds(first), late))
        else:
            found.append((_seconds(first), _seconds(second)))
    return found


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one call: the mean of as many as fill a tenth of a second, so that short ones are not the clock's."""
    calls, start = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        passed = time.perf_counter() - start
        if passed >= _SHORTEST:
            return passed / calls
