"""`Int8`: a quarter of the bytes, by rounding to 255 steps a dimension."""

from __future__ import annotations

from typing import Self

import numpy as np

from lodesmith.codecs._codec import Codec, Codes
from lodesmith.codecs._rows import Rows, checked, fitted

__all__ = ["Int8"]

_STEPS = 127


class Int8(Codec):
    """Symmetric scalar quantisation with one scale a dimension.

    A dimension's step is its largest absolute value among the fitted vectors / 127, so each of them is off by half a
    step at most; a later vector beyond that range is cut off at it. A scale a dimension, not a row: an outlying
    dimension, as transformers have, then coarsens itself and no other, and a code needs no bytes for a scale.
    """

    def __init__(self) -> None:
        self.dimension: int | None = None
        self.step = np.zeros(0, np.float32)
        """[d]"""

    def fit(self, values: Rows, seed: int = 0) -> Self:
        """Find each dimension's range; a dimension that is always 0 gets the step 1."""
        rows = checked(values)
        largest = np.maximum(rows.max(axis=0, initial=0.0), -rows.min(axis=0, initial=0.0))
        step = (largest / np.float32(_STEPS)).astype(np.float32)
        self.step = np.where(step > 0, step, np.float32(1))
        self.dimension = rows.shape[1]
        return self

    @property
    def bytes(self) -> int:
        """1 a component."""
        return fitted(self.dimension)

    @property
    def shared_bytes(self) -> int:
        """Of the steps."""
        return 4 * fitted(self.dimension)

    def encode(self, values: Rows) -> Codes:
        """int8 [n, d], from −127 to 127."""
        steps = np.rint(checked(values, fitted(self.dimension)) / self.step)
        codes: Codes = np.clip(steps, -_STEPS, _STEPS).astype(np.int8)
        return codes

    def decode(self, codes: Codes) -> Rows:
        """float32 [n, d]."""
        return codes.astype(np.float32) * self.step
