"""What the measure of Gaussianity and the loss made of it share: random directions, and the knots of their integral.

The statistic compares the characteristic function of a projection with that of the standard normal, e^{−t²/2}
(Epps & Pulley 1983), along random directions (LeJEPA, arXiv 2511.08544, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError

__all__ = ["Knots", "knots_of", "unit_directions"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Knots:
    """Where the integral ∫ |φ̂(t) − e^{−t²/2}|² e^{−t²/2} dt is evaluated; at t = 0 it is 0 for every sample.

    Args:
        spacing: the distance of neighbours.
        times: float64 [m], `spacing` times 1, 2, …, m.
        target: float64 [m], e^{−t²/2}.
        weights: float64 [m]: trapezoid rule on [0, reach] times e^{−t²/2}, doubled by symmetry.
    """

    spacing: float
    times: Floats
    target: Floats
    weights: Floats

    @property
    def floor(self) -> float:
        """The expected statistic of a standard normal sample, whatever its size: N·E|φ̂ − φ|² is 1 − φ²."""
        return float(self.weights @ (1 - self.target**2))


def knots_of(count: int = 17, reach: float = 3.0) -> Knots:
    """The knots of a trapezoid on [0, reach], both ends counted.

    Raises:
        ConfigError: fewer than two knots, or a reach that is not above 0.
    """
    if count < 2 or not 0 < reach < float("inf"):
        raise ConfigError(
            f"{count} knots on [0, {reach}] are no trapezoid", "give 2 knots or more, and a reach above 0"
        )
    spacing = reach / (count - 1)
    times: Floats = spacing * np.arange(1, count, dtype=np.float64)
    target: Floats = np.exp(-(times**2) / 2)
    weights = 2 * spacing * target
    weights[-1] /= 2
    return Knots(spacing, times, target, weights)


def unit_directions(dimension: int, count: int, seed: int, step: int) -> Floats:
    """Directions drawn evenly from the sphere: float64 [dimension, count], the same wherever seed and step are.

    Raises:
        ConfigError: there is no direction, or a number is negative.
    """
    if count < 1 or seed < 0 or step < 0:
        raise ConfigError(
            f"{count} directions of seed {seed} and step {step} cannot be drawn", "give 1 or more, from 0 up"
        )
    drawn = np.random.default_rng([seed, step]).standard_normal((dimension, count), np.float32).astype(np.float64)
    found: Floats = drawn / np.linalg.norm(drawn, axis=0)
    return found
