"""Steps that are done once: each is remembered by the fingerprint of what went into it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodesmith.core.errors import LodesmithError
from lodesmith.core.files import read_object, write_json
from lodesmith.core.hashing import fingerprint

__all__ = ["Steps"]


@dataclass
class Steps:
    """The finished steps of a folder, in its `steps.json`.

    Args:
        folder: where the steps' products stand.
        say: told a line at each step.
    """

    folder: Path
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._path = self.folder / "steps.json"
        self._done: dict[str, Any] = {}
        if self._path.exists():
            try:
                found = read_object(self._path)
            except LodesmithError:
                found = {"": None}
            self._done = {name: step for name, step in found.items() if _is_step(step)}
            if len(self._done) < len(found):
                self.say(f"{self._path} is damaged: what it does not tell runs again")

    def once(self, name: str, inputs: Any, work: Callable[[], object], *, products: list[Path]) -> None:
        """Do `work` unless it was done with the same `inputs` (a JSON value) and its `products` still stand.

        Of work that is interrupted, and goes on later, the times are added up.
        """
        key = fingerprint(inputs)
        done = self._done.get(name, {})
        same = done.get("key") == key
        if same and done["whole"] and all(path.exists() for path in products):
            self.say(f"{name}: done before ({done['seconds']:.0f} s)")
            return
        self.say(f"{name} …")
        before = done["seconds"] if same and not done["whole"] else 0.0
        start = time.perf_counter() - before
        try:
            work()
        except BaseException:
            with suppress(OSError):  # a full disk, perhaps, which the error tells
                self._remember(name, key, time.perf_counter() - start, whole=False)
            raise
        seconds = time.perf_counter() - start
        self._remember(name, key, seconds, whole=True)
        self.say(f"{name}: {seconds:.0f} s")

    def _remember(self, name: str, key: str, seconds: float, *, whole: bool) -> None:
        self._done[name] = {"key": key, "seconds": round(seconds, 2), "whole": whole}
        write_json(self._path, self._done)

    def again(self, name: str) -> None:
        """Forget that a step was done: its products are damaged."""
        self._done.pop(name, None)

    def seconds(self) -> float:
        """What all steps took together."""
        return float(sum(step["seconds"] for step in self._done.values()))


def _is_step(value: Any) -> bool:
    """Whether an entry is one that `once` wrote."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("key"), str)
        and type(value.setdefault("whole", True)) is bool  # which older folders do not tell
        and type(value.get("seconds")) in (int, float)
        and 0 <= value["seconds"] < float("inf")
    )
