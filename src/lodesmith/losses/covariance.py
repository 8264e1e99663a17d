"""Covariance matching: the second moments of the vectors against those of an isotropic Gaussian, and their mean."""

from __future__ import annotations

import torch

from lodesmith.core.errors import ConfigError
from lodesmith.losses._sums import Total, check_vectors, summed

__all__ = ["covariance"]


def covariance(
    vectors: torch.Tensor, *, variance: float = 1.0, mean_weight: float = 1.0, total: Total | None = None
) -> torch.Tensor:
    """‖Cov − σ²I‖²_F / d + mean_weight · ‖μ‖² / d: 0 where mean and covariance are those of N(0, σ²I), whatever the
    shape beside.

    Cov = Σ(x − μ)(x − μ)ᵀ / N. Of N vectors drawn from N(0, σ²I) it is near σ⁴(d + 1)/N + mean_weight · σ²/N, not 0.

    Args:
        vectors: [n, d]; computed in float32 at least.
        variance: σ², above 0.
        mean_weight: of the mean's term, 0 or more.
        total: where several processes train, their sum (such as `Ranks.sum`), as for `sigreg`.

    Returns:
        A scalar, differentiable in `vectors`; 0 where there are no rows at all.

    Raises:
        InputError: the vectors are not [n, d].
        ConfigError: a number is out of range.
    """
    if not variance > 0 or not mean_weight >= 0:
        raise ConfigError(f"variance is {variance} and mean_weight {mean_weight}", "give one above 0, and 0 or more")
    vectors = check_vectors(vectors)
    with torch.autocast(vectors.device.type, enabled=False):
        count = vectors.new_tensor(float(len(vectors)), dtype=torch.float64)
        rows = float(count if total is None else total(count))
        if not rows:
            return vectors.sum()
        mean = summed(vectors.sum(0), total) / rows
        centred = vectors - mean
        moments = summed(centred.T @ centred, total) / rows
        moments = moments - variance * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
        return (moments.square().sum() + mean_weight * mean.square().sum()) / vectors.shape[1]
