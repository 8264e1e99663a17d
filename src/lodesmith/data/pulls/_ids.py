"""A set of ids that is small where they are numbers: collections of millions number their documents."""

from __future__ import annotations

import re

__all__ = ["Ids"]

_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)
_PAGE = 1 << 16  # numbers that share one bitmap


class Ids:
    """Which ids occurred. A number without leading zeros takes a bit, anything else a string in a set.

    >>> ids = Ids()
    >>> ids.add("7"), ids.add("7"), ids.add("07"), "7" in ids, len(ids)
    (True, False, True, True, 2)
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._others: set[str] = set()
        self._count = 0

    def add(self, key: str) -> bool:
        """Take in an id; whether it is new."""
        if not _NUMBER.fullmatch(key):
            new = key not in self._others
            self._others.add(key)
        else:
            number, bit = divmod(int(key), 8)
            page = self._pages.setdefault(number // (_PAGE // 8), bytearray(_PAGE // 8))
            place = number % (_PAGE // 8)
            new = not page[place] >> bit & 1
            page[place] |= 1 << bit
        self._count += new
        return new

    def __contains__(self, key: str) -> bool:
        if not _NUMBER.fullmatch(key):
            return key in self._others
        number, bit = divmod(int(key), 8)
        page = self._pages.get(number // (_PAGE // 8))
        return page is not None and bool(page[number % (_PAGE // 8)] >> bit & 1)

    def __len__(self) -> int:
        return self._count
