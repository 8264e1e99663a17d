"""Global orthogonal regularisation: pairs that do not belong together meet at right angles, as those of an even spread
do on average (Zhang et al. 2017, arXiv 1708.06320)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize, relu

from lodesmith.core.errors import ConfigError
from lodesmith.losses._sums import check_vectors

__all__ = ["gor"]


def gor(vectors: torch.Tensor, *, seed: int = 0, step: int = 0, rounds: int = 1) -> torch.Tensor:
    """M₁² + max(0, M₂ − 1/d), with M₁ and M₂ the mean and the second moment of the cosine of random pairs.

    1/d is the second moment of unit vectors that are spread evenly over the sphere. Each row is in two pairs a round.

    Args:
        vectors: [n, d]; computed in float32 at least, and scaled to length 1. Where several processes train, the
            gathered rows of all (`Ranks.gather`), so that a pair may be of two processes.
        seed: of the pairs.
        step: of the training: each has other pairs. Processes that train together give the same two numbers.
        rounds: how many times the rows are paired.

    Returns:
        A scalar, differentiable in `vectors`; 0 where there are fewer than two rows.

    Raises:
        InputError: the vectors are not [n, d].
        ConfigError: a number is out of range.
    """
    if rounds < 1 or seed < 0 or step < 0:
        raise ConfigError(f"{rounds} rounds of seed {seed} and step {step}", "give 1 or more, from 0 up")
    vectors = check_vectors(vectors)
    if len(vectors) < 2:
        return vectors.sum() * 0
    first, second = (torch.from_numpy(side).to(vectors.device) for side in _pairs(len(vectors), seed, step, rounds))
    with torch.autocast(vectors.device.type, enabled=False):
        rows = normalize(vectors, dim=1)
        cosines = (rows[first] * rows[second]).sum(1)
        return cosines.mean().square() + relu(cosines.square().mean() - 1 / vectors.shape[1])


def _pairs(count: int, seed: int, step: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours on random circles through all rows: never a row with itself."""
    random = np.random.default_rng([seed, step])
    circles = [random.permutation(count) for _ in range(rounds)]
    return np.concatenate(circles), np.concatenate([np.roll(circle, -1) for circle in circles])
