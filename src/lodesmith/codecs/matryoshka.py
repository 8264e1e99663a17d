"""`Matryoshka`: the first components alone (Kusupati et al., "Matryoshka Representation Learning", 2022)."""

from __future__ import annotations

from typing import Self

import numpy as np

from lodesmith.codecs._codec import Codec, Codes, make
from lodesmith.codecs._rows import Rows, are_unit, checked, fitted, products, unit
from lodesmith.core.errors import ConfigError

__all__ = ["Matryoshka"]


class Matryoshka(Codec):
    """The first m components of each vector, as another codec keeps them.

    Where the fitted vectors have unit length, so do the shortened ones: a cosine stays a cosine. It pays on models that
    were trained for it; on others the first components are as good as any m.

    Args:
        m: how many components.
        then: the codec of what is left, with its settings (`int8`, `pq:m=16`); empty for float32.

    Raises:
        ConfigError: m is below 1, or `then` is no codec.
    """

    def __init__(self, m: int, then: str = "") -> None:
        if m < 1:
            raise ConfigError(f"codec matryoshka: m is {m}", "keep at least 1 component")
        self.m = m
        self.then = make(then) if then else None
        self.rescore = 0 if self.then is None else self.then.rescore
        self.inner = True if self.then is None else self.then.inner
        self.dimension: int | None = None
        self.unit = True
        """Whether shortened vectors are brought to unit length."""

    def fit(self, values: Rows, seed: int = 0) -> Self:
        """Look at the lengths, and fit the codec of what is left.

        Raises:
            ConfigError: there are fewer than m dimensions.
        """
        rows = checked(values)
        if self.m > rows.shape[1]:
            raise ConfigError(
                f"codec matryoshka: m is {self.m}, and there are {rows.shape[1]} dimensions", "choose a smaller m"
            )
        self.unit = are_unit(rows)
        self.dimension = rows.shape[1]
        if self.then is not None:
            self.then.fit(self._short(rows), seed)
        return self

    def _short(self, rows: Rows) -> Rows:
        short = np.ascontiguousarray(rows[:, : self.m])
        return unit(short) if self.unit and self.m < rows.shape[1] else short

    @property
    def bytes(self) -> int:
        """4 a component that is left, or what `then` makes of them."""
        fitted(self.dimension)
        return 4 * self.m if self.then is None else self.then.bytes

    @property
    def shared_bytes(self) -> int:
        """What `then` needs."""
        fitted(self.dimension)
        return 0 if self.then is None else self.then.shared_bytes

    def encode(self, values: Rows) -> Codes:
        """float32 [n, m], or the codes of `then`."""
        short = self._short(checked(values, fitted(self.dimension)))
        return short if self.then is None else self.then.encode(short)

    def decode(self, codes: Codes) -> Rows:
        """float32 [n, d], zero from component m on."""
        rows = np.zeros((len(codes), fitted(self.dimension)), np.float32)
        rows[:, : self.m] = codes if self.then is None else self.then.decode(codes)
        return rows

    def scores(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n], of queries that are shortened alike."""
        short = self._short(checked(queries, fitted(self.dimension)))
        return products(short, codes) if self.then is None else self.then.scores(short, codes)

    def first(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n]: the first pass of `then`."""
        if self.then is None:
            return self.scores(queries, codes)
        return self.then.first(self._short(checked(queries, fitted(self.dimension))), codes)
