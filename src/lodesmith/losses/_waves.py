"""Sines and cosines of the multiples 1, 2, …, m of many angles, summed over rows or weighed, without holding them all.

With z = e^{iθ} and a near √m, z^(p + a·q) is z^p times z^(a·q): the a low powers and the few high ones are made by
multiplication from one sine and cosine an angle, and the products are only ever formed inside matrix products.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Waves"]


class Waves:
    """The multiples of a block of angles; one buffer serves all blocks.

    What belongs to the multiples is laid out as [2, a, c]: cosine and sine, low power, high power. Places beyond m
    hold 0.

    Args:
        multiples: m.
        most: angles' rows in the largest block.
        columns: n, angles in a row.
        like: gives type and device.
    """

    def __init__(self, multiples: int, most: int, columns: int, like: torch.Tensor) -> None:
        self.low = math.isqrt(multiples - 1) + 1
        self.high = -(-multiples // self.low)
        self._like = like
        self._low = like.new_empty(most, 2, self.low, columns)
        self._high = like.new_empty(most, 2, self.high, columns)
        self._product = like.new_empty(most, 2 * self.low, columns)
        self._rows = 0

    def grid(self, values: NDArray[np.float64]) -> torch.Tensor:
        """Values [m] of the multiples, laid out: [a, c]."""
        laid = np.zeros(self.low * self.high)
        laid[: len(values)] = values
        return torch.from_numpy(laid.reshape(self.high, self.low).T.copy()).to(self._like)

    def set(self, angles: torch.Tensor) -> None:
        """Take a block of angles [b, n]."""
        self._rows = len(angles)
        low, high = self._low[: self._rows], self._high[: self._rows]
        torch.cos(angles, out=low[:, 0, 0])
        torch.sin(angles, out=low[:, 1, 0])
        for power in range(1, self.low):
            _multiply(low, (power - 1) // 2, power // 2, power)
        high[:, 0, 0] = 1
        high[:, 1, 0] = 0
        if self.high > 1:
            high[:, :, 1] = low[:, :, -1]
        for power in range(2, self.high):
            _multiply(high, power // 2, power - power // 2, power)

    def sums(self) -> torch.Tensor:
        """The sum over rows' angles of every cosine and sine: [b, 2, a, c]."""
        low, high = (part[: self._rows].flatten(1, 2) for part in (self._low, self._high))
        parts = torch.bmm(low, high.transpose(1, 2)).view(self._rows, 2, self.low, 2, self.high)
        cosines = parts[:, 0, :, 0] - parts[:, 1, :, 1]
        sines = parts[:, 1, :, 0] + parts[:, 0, :, 1]
        return torch.stack([cosines, sines], 1)

    def weighed(self, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        """Σ over multiples of weight times cosine and weight times sine, for every angle: weights [b, a, c] → [b, n].

        The result lies in a buffer of its own kind, which the next call overwrites.
        """
        by_cosine, by_sine = torch.stack([cosines, sines], 2), torch.stack([sines, -cosines], 2)
        weights = torch.stack([by_cosine, by_sine], 1).view(self._rows, 2 * self.low, 2 * self.high)
        product = self._product[: self._rows]
        torch.bmm(weights, self._high[: self._rows].flatten(1, 2), out=product)
        return product.mul_(self._low[: self._rows].flatten(1, 2)).sum(1)


def _multiply(powers: torch.Tensor, first: int, second: int, into: int) -> None:
    """powers[:, :, into] = powers[:, :, first] times powers[:, :, second], as complex numbers."""
    (c0, s0), (c1, s1) = powers[:, :, first].unbind(1), powers[:, :, second].unbind(1)
    cosine, sine = powers[:, 0, into], powers[:, 1, into]
    torch.mul(c0, c1, out=cosine).addcmul_(s0, s1, value=-1)
    torch.mul(s0, c1, out=sine).addcmul_(c0, s1)
