"""Reliability of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from lodesmith.core.errors import InputError
from lodesmith.evaluation.calibration import calibration_error, reliability


def test_figures_by_hand() -> None:
    found = reliability(np.array([0.9, 0.8, 0.3, 0.2]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert found["queries"] == 4
    assert found["base_rate"] == 0.5
    assert found["brier"] == pytest.approx((0.01 + 0.64 + 0.49 + 0.04) / 4)
    assert found["brier_base_rate"] == 0.25
    assert found["auc"] == 0.75
    assert found["calibration_error"] == pytest.approx((0.1 + 0.8 + 0.7 + 0.2) / 4)


def test_true_probabilities_are_calibrated_and_shifted_ones_are_not() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.6, 20_000)
    happened = (random.uniform(size=len(truth)) < truth).astype(np.float64)
    assert calibration_error(truth, happened) < 0.015
    assert calibration_error(truth + 0.3, happened) == pytest.approx(0.3, abs=0.015)


def test_one_kind_alone_has_no_auc_and_nothing_is_refused() -> None:
    assert reliability(np.array([0.2, 0.4]), np.zeros(2))["auc"] is None
    assert reliability(np.full(4, 0.5), np.array([0.0, 1.0, 0.0, 1.0]))["auc"] == 0.5
    with pytest.raises(InputError, match="0 probabilities"):
        reliability(np.zeros(0), np.zeros(0))
