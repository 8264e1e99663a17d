"""The tests behind a verdict: calibrated, powerful, and equal to their definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lodesmith.core.errors import ConfigError
from lodesmith.evaluation import significance
from lodesmith.evaluation.significance import (
    bootstrap_means,
    detectable,
    holm,
    interval,
    randomisation_p,
    student_p,
    t_p,
)


def test_p_is_uniform_where_there_is_no_difference() -> None:
    random = np.random.default_rng(3)
    p = [randomisation_p(random.standard_t(3, 40), permutations=999, seed=i) for i in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_tries() -> None:
    random = np.random.default_rng(4)
    size = detectable(random.normal(0, 1, 100_000)) * np.sqrt(100_000 / 50)
    found = [randomisation_p(random.normal(size, 1, 50), permutations=999) <= 0.05 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_it_comes_near_to_trying_every_flip() -> None:
    difference = np.array([0.4, 0.3, -0.1, 0.0, 0.25, 0.2, 0.15, 0.5, -0.05, 0.1])
    flips = np.array(list(product([-1, 1], repeat=len(difference))))
    exact = np.mean(np.abs(flips @ difference) >= abs(difference.sum()) - 1e-12)
    assert randomisation_p(difference, permutations=50_000) == pytest.approx(exact, abs=0.003)


def test_p_has_a_floor_and_a_ceiling_and_counts_ties() -> None:
    assert randomisation_p(np.ones(50), permutations=10_000) == 1 / 10_001
    assert randomisation_p(np.zeros(50)) == 1.0
    assert randomisation_p(np.array([0.3])) == 1.0
    assert randomisation_p(np.array([0.1, 0.2, -0.3] * 2)) == 1.0  # their sum is 6e-17, and every flip reaches it
    # of the flips of three equal values, two of eight reach the sum, up to rounding
    thirds = [randomisation_p(np.array([0.1, 0.1, 0.1]), permutations=20_000, seed=seed) for seed in range(10)]
    assert np.mean(thirds) == pytest.approx(0.25, abs=0.005)
    with pytest.raises(ConfigError):
        randomisation_p(np.ones(3), permutations=0)


def test_p_does_not_depend_on_the_side_nor_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    difference = np.random.default_rng(5).normal(0.1, 1, 77)
    p = randomisation_p(difference, seed=9)
    assert randomisation_p(-difference, seed=9) == p
    assert randomisation_p(difference, seed=10) != p
    monkeypatch.setattr(significance, "_BLOCK", 80 * 7)
    assert randomisation_p(difference, seed=9) == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize("freedom", [1, 2, 5, 49, 299, 6979, 100_000])
def test_students_t_equals_scipys(freedom: int) -> None:
    for t in (0.0, 1e-6, 0.1, 0.7, 1.0, 1.96, -2.5, 5.0, 12.0):
        assert student_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=3, max_size=30).filter(lambda d: len(set(d)) > 1))
def test_the_paired_t_test_equals_scipys(difference: list[float]) -> None:
    assert t_p(np.array(difference)) == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, rel=1e-6, abs=1e-12)


def test_the_t_test_without_spread() -> None:
    assert t_p(np.zeros(5)) == 1.0
    assert t_p(np.full(5, 0.25)) == 0.0


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04 → ×4 .02, ×3 .03, ×2 .06, ×1 .04 raised to .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_the_bootstrap_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(6)
    hits = 0
    for trial in range(300):
        sample = random.beta(2, 5, 60)
        low, high = interval(bootstrap_means([sample], resamples=500, seed=trial)[:, 0], float(sample.mean()))
        hits += low <= 2 / 7 <= high
    assert hits / 300 == pytest.approx(0.95, abs=0.04)


def test_bootstrap_columns_stay_paired_and_alone() -> None:
    first, second = np.random.default_rng(7).random((2, 40))
    both = bootstrap_means([first, first + 1, second])
    assert both.shape == (10_000, 3)
    np.testing.assert_allclose(both[:, 1] - both[:, 0], 1)
    np.testing.assert_array_equal(both[:, [2]], bootstrap_means([second]))
    assert both[:, 0].mean() == pytest.approx(first.mean(), abs=0.005)
    assert both[:, 0].std() == pytest.approx(first.std() / np.sqrt(40), rel=0.05)
