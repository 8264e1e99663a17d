"""Logistic regression by Newton's method, and Platt's scaling: small, exact, without a random start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit", "sigmoid", "softened"]

Floats = NDArray[np.float64]

_STEPS = 100
_CLOSE = 1e-10


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e^−x) without overflow."""
    found: Floats = 0.5 * (1 + np.tanh(0.5 * logits))
    return found


def softened(outcomes: Floats) -> Floats:
    """Platt's targets (1999), with which one kind alone has a finite fit: (n₊ + 1) / (n₊ + 2) for a one, 1 / (n₋ + 2)
    for a zero."""
    ones = float(outcomes.sum())
    return np.where(outcomes > 0, (ones + 1) / (ones + 2), 1 / (len(outcomes) - ones + 2))


def fit(features: Floats, targets: Floats, ridge: float = 1.0) -> Floats:
    """The weights that minimise Σ cross-entropy + ridge/2 · |w|²; the bias, which comes last, is not held down.

    Args:
        features: [n, f]; of like scale, as the ridge treats them alike.
        targets: [n] from 0 to 1.
        ridge: of the weights, at least 0.

    Returns:
        float64 [f + 1].
    """
    rows = np.column_stack([features, np.ones(len(features))])
    held = np.full(rows.shape[1], ridge)
    held[-1] = 0.0
    weights = np.zeros(rows.shape[1])
    loss = _loss(rows, targets, weights, held)
    for _ in range(_STEPS):
        found = sigmoid(rows @ weights)
        slope = rows.T @ (found - targets) + held * weights
        curve = (rows * (found * (1 - found))[:, None]).T @ rows + np.diag(held + 1e-9)
        step = np.linalg.solve(curve, slope)
        scale = 1.0
        while (after := _loss(rows, targets, weights - scale * step, held)) > loss and scale > 1e-6:
            scale /= 2  # a whole step may overshoot where the curve is flat
        weights, before, loss = weights - scale * step, loss, min(after, loss)
        if before - after < _CLOSE * max(1.0, abs(before)):
            break
    return weights


def _loss(rows: Floats, targets: Floats, weights: Floats, held: Floats) -> float:
    logits = rows @ weights
    return float((np.logaddexp(0, logits) - targets * logits).sum() + 0.5 * (held * weights**2).sum())
