"""`Float16`: half of the bytes, with 11 significant bits a component."""

from __future__ import annotations

from typing import Self

import numpy as np

from lodesmith.codecs._codec import Codec, Codes
from lodesmith.codecs._rows import Rows, checked, fitted
from lodesmith.core.errors import InputError

__all__ = ["Float16"]

_LARGEST = float(np.finfo(np.float16).max)


class Float16(Codec):
    """IEEE half precision: the relative error of a component is at most 2⁻¹¹, down to 6·10⁻⁵; below, 2⁻²⁵ absolute."""

    def __init__(self) -> None:
        self.dimension: int | None = None

    def fit(self, values: Rows, seed: int = 0) -> Self:
        """There is nothing to learn but the dimension."""
        self.dimension = checked(values).shape[1]
        return self

    @property
    def bytes(self) -> int:
        """2 a component."""
        return 2 * fitted(self.dimension)

    @property
    def shared_bytes(self) -> int:
        """None."""
        fitted(self.dimension)
        return 0

    def encode(self, values: Rows) -> Codes:
        """float16 [n, d].

        Raises:
            InputError: as `Codec.encode`, or a value is beyond the range of float16.
        """
        rows = checked(values, fitted(self.dimension))
        if (largest := float(np.abs(rows).max(initial=0.0))) > _LARGEST:
            raise InputError(f"a value of {largest:.3g} is beyond float16's {_LARGEST:.0f}", "use int8, which scales")
        return rows.astype(np.float16)

    def decode(self, codes: Codes) -> Rows:
        """float32 [n, d]."""
        return codes.astype(np.float32)
