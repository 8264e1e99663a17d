"""Retention, overlap and rank correlation, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from lodesmith.core.errors import InputError
from lodesmith.core.results import Evaluation
from lodesmith.core.run import Run
from lodesmith.evaluation.agreement import overlap, ranks, retained, spearman
from lodesmith.evaluation.parts import estimates


def _evaluation(values: list[float], system: str = "x") -> Evaluation:
    rows = {f"q{at}": {"nDCG@10": value} for at, value in enumerate(values)}
    return Evaluation(system, "d", "test", len(rows), estimates(rows), rows)


def test_retention_is_the_ratio_of_means_and_not_the_mean_of_ratios() -> None:
    found = retained(_evaluation([0.5, 0.0, 1.0]), _evaluation([1.0, 0.0, 0.5]))
    assert found.mean == pytest.approx(1.0)
    assert found.low < 1 < found.high


def test_a_student_with_a_constant_share_has_no_uncertainty() -> None:
    whole = np.random.default_rng(0).uniform(0.2, 1, 40)
    found = retained(_evaluation(list(whole * 0.75)), _evaluation(list(whole)))
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))


def test_the_interval_is_paired_over_queries() -> None:
    random = np.random.default_rng(1)
    whole = random.uniform(0, 1, 200)
    own = np.clip(whole + random.normal(0, 0.02, 200), 0, 1)
    paired = retained(_evaluation(list(own)), _evaluation(list(whole)))
    apart = retained(_evaluation(list(random.permutation(own))), _evaluation(list(whole)))
    assert paired.high - paired.low < 0.2 * (apart.high - apart.low)


def test_what_cannot_be_retained_is_refused() -> None:
    with pytest.raises(InputError, match=r"nDCG@10 0 on d"):
        retained(_evaluation([0.5, 0.5]), _evaluation([0.0, 0.0], "t"))
    with pytest.raises(InputError, match="other queries"):
        retained(_evaluation([0.5]), _evaluation([0.5, 0.5]))


def test_overlap_counts_shared_results_among_the_first() -> None:
    a = Run.of({"q": {"x": 3.0, "y": 2.0, "z": 1.0}, "r": {"x": 1.0}})
    b = Run.of({"q": {"y": 3.0, "w": 2.0, "x": 1.0}, "r": {}, "s": {"x": 1.0}})
    assert overlap(a, b, k=2) == {"q": 0.5, "r": 0.0, "s": 0.0}
    assert overlap(a, b, k=3)["q"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_and_correlation_share_ties_as_scipy_does(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 6, (2, 30))
    assert ranks(a).tolist() == rankdata(a).tolist()
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_correlation_is_undefined_without_order() -> None:
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert spearman([1.0], [2.0]) is None
    assert spearman([], []) is None
    assert spearman([1.0, 2.0, 3.0], [0.3, 0.2, 0.1]) == -1.0
