"""Rows that are kept in 8 bits with a scale each, and read as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STEPS", "Scaled", "scaled"]

STEPS = 127
_TINY = 2.0**-126


def scaled(rows: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes [n, d] and scales [n, 1] of rows [n, d]: a component is off by half its row's scale at most.

    A scale is the row's largest absolute value / 127, rounded up to 16 bits, so that its products with codes are exact
    in float32 and rows that were read from codes have the same codes and scales again.
    """
    values = np.asarray(rows, np.float32)
    largest = np.abs(values).max(axis=1, initial=0.0).astype(np.float64)
    part, exponent = np.frexp(np.maximum(largest / STEPS, _TINY))
    scales = np.ldexp(np.ceil(np.ldexp(part, 16)), exponent - 16).astype(np.float32)[:, None]
    return np.rint(values / scales).astype(np.int8), scales


class Scaled:
    """Codes and scales that stand where an array of floats [n, d] does.

    Whatever takes rows of it, or makes an array of it, gets float32; only those rows are decoded, and memory-mapped
    codes stay on the disk.

    Args:
        codes: int8 [n, d], from −127 to 127.
        scales: float32 [n, g]; the j-th of a row is that of its j-th d / g components.
    """

    ndim = 2
    dtype = np.dtype(np.int8)
    """As it is kept."""
    itemsize = 1

    def __init__(self, codes: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        if codes.ndim != 2 or scales.ndim != 2 or len(codes) != len(scales) or codes.shape[1] % scales.shape[1]:
            raise ValueError(f"scales of shape {list(scales.shape)} do not fit codes of shape {list(codes.shape)}")
        self.codes, self.scales = codes, scales

    @property
    def shape(self) -> tuple[int, int]:
        """[n, d]."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def size(self) -> int:
        """n · d."""
        return self.codes.size

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        if isinstance(rows, tuple):
            raise TypeError("take rows first, then columns")
        codes, scales = np.asarray(self.codes[rows]), np.asarray(self.scales[rows])
        groups = scales.shape[-1]
        parts = codes.reshape(*codes.shape[:-1], groups, self.shape[1] // groups)
        found: NDArray[np.float32] = (parts * scales[..., None]).reshape(codes.shape)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    def reshape(self, count: int, width: int) -> Scaled:
        """The same components in rows of another width, of which each has whole groups; nothing is copied."""
        groups = self.scales.shape[1] * width // self.shape[1]
        return Scaled(self.codes.reshape(count, width), self.scales.reshape(count, groups))
