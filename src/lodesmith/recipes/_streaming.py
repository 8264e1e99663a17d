"""An answer while it is written: when its first token came, and its text piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["Stream"]


class Stream:
    """A streamer of transformers' `generate` for one prompt.

    Args:
        tokenizer: what makes text of the tokens; None where only time is taken.
        ends: ids that end an answer.
        write: gets each new piece of text.
    """

    def __init__(
        self, tokenizer: Any = None, ends: Collection[int] = (), write: Callable[[str], None] | None = None
    ) -> None:
        self.first: float | None = None
        """When the first token came, by `time.perf_counter`; None before."""
        self._tokenizer, self._ends, self._write = tokenizer, frozenset(ends), write
        self._ids: list[int] = []
        self._told, self._open = "", True

    def put(self, value: Any) -> None:
        """Take the prompt's ids, which come first and are none here, or new tokens."""
        tokens = value.reshape(-1).tolist()
        if not tokens:
            return
        if self.first is None:
            self.first = time.perf_counter()
        if self._write is None or not self._open:
            return
        for token in tokens:
            if token in self._ends:
                self._open = False
                return
            self._ids.append(token)
        self._tell()

    def end(self) -> None:
        """Nothing more comes."""
        if self._write is not None and self._ids:
            self._tell(last=True)

    def _tell(self, last: bool = False) -> None:
        """Tell what is new and will stay so: not half a character, nor white space that may be the end."""
        text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True)).strip()
        if text == self._told or not text.startswith(self._told) or (text.endswith("\ufffd") and not last):
            return
        assert self._write is not None
        self._write(text[len(self._told) :])
        self._told = text
