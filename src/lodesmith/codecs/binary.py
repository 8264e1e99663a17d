"""`Binary`: one bit a dimension, found by Hamming distance and ranked by the float query.

Two passes as in Yamada, Asai and Hajishirzi, "Efficient Passage Retrieval with Hashing for Open-domain Question
Answering" (2021): the query is a code for the first and a vector for the second.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from lodesmith.codecs._codec import Codec, Codes, as_bytes, make
from lodesmith.codecs._rows import Rows, are_unit, checked, fitted, products, unit
from lodesmith.core.errors import ConfigError

__all__ = ["Binary"]


class Binary(Codec):
    """The side of the documents' mean that each component lies on, eight to a byte.

    A code stands for mean ± the mean distance to it, dimension by dimension: of all values that a bit can stand for
    these have the least squared error. Where the fitted vectors have unit length, so has what a code stands for.

    Args:
        rescore: so many times k results with the least Hamming distance are ranked again by the inner product of the
            float query; 0 ranks by Hamming distance alone.
        keep: a codec (`int8`, `float16` …) whose codes are kept beside the bits for that second pass, and counted;
            empty for the bits themselves.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, rescore: int = 4, keep: str = "") -> None:
        if rescore < 0:
            raise ConfigError(f"codec binary: rescore is {rescore}", "give 0 for none, or how many times k")
        if keep and not rescore:
            raise ConfigError(f"codec binary: {keep!r} is kept, but nothing is scored with it", "set rescore=4")
        self.rescore, self.inner = rescore, bool(rescore)
        self.beside = make(keep) if keep else None
        if self.beside is not None and self.beside.rescore:
            raise ConfigError(f"codec binary: {keep!r} has two passes of its own", "keep int8 or float16")
        self.dimension: int | None = None
        self.mean = self.spread = np.zeros(0, np.float32)
        """[d]: the middle of each dimension, and how far from it a component is on average."""
        self.unit = False
        """Whether decoded vectors are brought to unit length."""

    def fit(self, values: Rows, seed: int = 0) -> Self:
        """Take the mean of the vectors, and the mean distance to it."""
        rows = checked(values)
        count = max(1, len(rows))
        self.mean = np.asarray(rows.sum(axis=0, dtype=np.float64) / count, np.float32)
        self.spread = np.asarray(np.abs(rows - self.mean).sum(axis=0, dtype=np.float64) / count, np.float32)
        self.dimension, self.unit = rows.shape[1], are_unit(rows)
        if self.beside is not None:
            self.beside.fit(rows, seed)
        return self

    @property
    def _width(self) -> int:
        """Bytes of the bits."""
        return -(-fitted(self.dimension) // 8)

    @property
    def bytes(self) -> int:
        """1 for eight components, the last ones padded, and what is kept beside them."""
        return self._width + (self.beside.bytes if self.beside else 0)

    @property
    def shared_bytes(self) -> int:
        """Of the means; of the distances to them where the second pass reads them, else of what is beside."""
        second = self.beside.shared_bytes if self.beside else 4 * fitted(self.dimension) * bool(self.rescore)
        return 4 * fitted(self.dimension) + second

    def encode(self, values: Rows) -> Codes:
        """uint8 [n, bytes]: a bit is 1 above the mean, the first component's is the highest of its byte."""
        rows = checked(values, fitted(self.dimension))
        bits = np.packbits(rows > self.mean, axis=1)
        return bits if self.beside is None else np.hstack([bits, as_bytes(self.beside.encode(rows))])

    def _beside(self, codes: Codes) -> Codes:
        """What is kept, in its own type."""
        assert self.beside is not None
        kind = self.beside.encode(np.zeros((0, fitted(self.dimension)), np.float32)).dtype
        raw: Codes = np.ascontiguousarray(codes[:, self._width :]).view(kind)
        return raw

    def _signs(self, codes: Codes) -> Rows:
        """−1 or 1: float32 [n, d]."""
        bits = np.unpackbits(np.ascontiguousarray(codes[:, : self._width]), axis=1, count=fitted(self.dimension))
        return bits.astype(np.float32) * np.float32(2) - np.float32(1)

    def decode(self, codes: Codes) -> Rows:
        """float32 [n, d]: from what is kept beside the bits, where something is."""
        if self.beside is not None:
            return self.beside.decode(self._beside(codes))
        rows = self.mean + self.spread * self._signs(codes)
        return unit(rows) if self.unit else rows

    def scores(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n]: inner products, or minus the Hamming distance with `rescore=0`."""
        if not self.rescore:
            return self.first(queries, codes)
        return products(checked(queries, fitted(self.dimension)), self.decode(codes))

    def first(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n]: minus the Hamming distance, the query's bits taken as a document's. Whole numbers: exact."""
        rows = checked(queries, fitted(self.dimension))
        signs = np.where(rows > self.mean, np.float32(1), np.float32(-1))
        alike: NDArray[np.float32] = signs @ self._signs(codes).T
        return (alike - np.float32(rows.shape[1])) / np.float32(2)
