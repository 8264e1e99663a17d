"""`PQ`: product quantisation (Jégou, Douze and Schmid, 2011): a byte for a few dimensions, centres learned by FAISS.

With `rotate` the dimensions are first rotated so that this loses least: OPQ (Ge, He, Ke and Sun, 2013).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from lodesmith.codecs._codec import Codec, Codes
from lodesmith.codecs._rows import Rows, are_unit, checked, fitted, products, unit
from lodesmith.core.errors import ConfigError, InputError

__all__ = ["PQ"]

_CENTRES = 256
_BLOCK = 4096
"""Rows encoded at once."""


class PQ(Codec):
    """m bytes a vector: each names the nearest of 256 centres of its d/m dimensions.

    Where the fitted vectors have unit length, so has what a code stands for.

    Args:
        m: sub-quantisers, a divisor of d; None for one for every 4 dimensions, or the nearest divisor below.
        rotate: learn a rotation first, which takes minutes rather than seconds; its d² numbers are shared.
        rows: at most so many vectors, drawn by the seed, are learned from.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, m: int | None = None, rotate: bool = False, rows: int = 1 << 16) -> None:
        if (m is not None and m < 1) or rows < _CENTRES:
            raise ConfigError(f"codec pq: m {m} or rows {rows} is out of range", f"m from 1, rows from {_CENTRES}")
        self.m, self.rotate, self.rows = m, rotate, rows
        self.dimension: int | None = None
        self.centres = np.zeros((0, _CENTRES, 0), np.float32)
        """[m, 256, d/m]"""
        self.rotation: Rows | None = None
        """[d, d]"""
        self.unit = False
        """Whether decoded vectors are brought to unit length."""

    def fit(self, values: Rows, seed: int = 0) -> Self:
        """Learn rotation and centres; the same vectors and seed give the same bits.

        Raises:
            InputError: there are fewer than 256 vectors.
            ConfigError: m does not divide d.
        """
        rows = checked(values)
        parts = self._parts(rows.shape[1])
        if len(rows) < _CENTRES:
            raise InputError(
                f"product quantisation learns {_CENTRES} centres, and there are {len(rows)} vectors",
                "fit it on more vectors, or use int8 or binary",
            )
        drawn = np.random.default_rng(seed).permutation(len(rows))[: self.rows]
        sample = np.ascontiguousarray(rows[np.sort(drawn)])
        with _one_thread():
            self.rotation = _rotation(sample, parts, seed) if self.rotate else None
            self.centres = _centres(self._rotated(sample), parts, seed)
        self.dimension, self.unit = rows.shape[1], are_unit(rows)
        return self

    def _parts(self, dimension: int) -> int:
        """m for this dimension."""
        divisors = [part for part in range(1, dimension + 1) if dimension % part == 0]
        if self.m is None:
            return max(part for part in divisors if part <= max(1, dimension // 4))
        if self.m not in divisors:
            near = sorted(sorted(divisors, key=lambda part: abs(part - (self.m or 0)))[:4])
            raise ConfigError(
                f"codec pq: {dimension} dimensions cannot be cut into {self.m} equal parts",
                f"set m to a divisor, such as {', '.join(map(str, near))}",
            )
        return self.m

    def _rotated(self, rows: Rows) -> Rows:
        return rows if self.rotation is None else products(rows, self.rotation)

    @property
    def bytes(self) -> int:
        """m."""
        return self._parts(fitted(self.dimension))

    @property
    def shared_bytes(self) -> int:
        """Of the centres and the rotation."""
        fitted(self.dimension)
        return self.centres.nbytes + (0 if self.rotation is None else self.rotation.nbytes)

    def encode(self, values: Rows) -> Codes:
        """uint8 [n, m]: the nearest centres' numbers; of equally near ones the lowest."""
        rows = checked(values, fitted(self.dimension))
        codes = np.empty((len(rows), len(self.centres)), np.uint8)
        halves = [np.square(centres, dtype=np.float64).sum(axis=1) / 2 for centres in self.centres]
        width = self.centres.shape[2]
        for start in range(0, len(rows), _BLOCK):
            block = self._rotated(rows[start : start + _BLOCK])
            for part, centres in enumerate(self.centres):
                near = products(block[:, part * width : (part + 1) * width], centres) - halves[part]
                codes[start : start + _BLOCK, part] = near.argmax(axis=1)
        return codes

    def decode(self, codes: Codes) -> Rows:
        """float32 [n, d]: the centres, turned back."""
        rows = self._centred(codes)
        return rows if self.rotation is None else products(rows, np.ascontiguousarray(self.rotation.T))

    def _centred(self, codes: Codes) -> Rows:
        parts = len(self.centres)
        rows = self.centres[np.arange(parts), codes.reshape(-1, parts)].reshape(len(codes), fitted(self.dimension))
        return unit(rows) if self.unit else rows

    def scores(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n]: the queries are turned, not the codes."""
        return products(self._rotated(checked(queries, fitted(self.dimension))), self._centred(codes))


@contextmanager
def _one_thread() -> Iterator[None]:
    """More would add in another order, and the seed would not say what is learned."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _quantiser(dimension: int, parts: int, rows: int, seed: int) -> Any:
    quantiser = faiss.ProductQuantizer(dimension, parts, 8)
    quantiser.cp.seed = seed
    quantiser.cp.min_points_per_centroid = 1  # it would complain on standard error, not refuse
    quantiser.cp.max_points_per_centroid = -(-rows // _CENTRES)  # the sample is drawn already
    return quantiser


def _centres(sample: Rows, parts: int, seed: int) -> NDArray[np.float32]:
    quantiser = _quantiser(sample.shape[1], parts, len(sample), seed)
    quantiser.train(np.ascontiguousarray(sample))
    flat = faiss.vector_to_array(quantiser.centroids)
    return np.asarray(flat.reshape(parts, _CENTRES, -1), np.float32)


def _rotation(sample: Rows, parts: int, seed: int) -> Rows:
    dimension = sample.shape[1]
    turn = faiss.OPQMatrix(dimension, parts)
    quantiser = _quantiser(dimension, parts, len(sample), seed)
    turn.pq = quantiser
    turn.train(sample)
    turn.pq = None
    return np.asarray(faiss.vector_to_array(turn.A).reshape(dimension, dimension), np.float32)
