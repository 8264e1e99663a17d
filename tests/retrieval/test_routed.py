"""A router between two retrievers: features, fit, calibration, file, and which queries the teacher is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.run import Run
from lodesmith.evaluation.calibration import reliability
from lodesmith.retrieval._logistic import fit, sigmoid, softened
from lodesmith.retrieval.rarity import Rarity, words
from lodesmith.retrieval.routed import FEATURES, Routed, Router, features

RARITY = Rarity.of(["the cat sleeps", "the dog", "The owl, the moon"])


def _rows(total: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the second decides, with noise."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(total, len(FEATURES)))
    rows[:, 7] = 3.0  # never varies
    chance = sigmoid(2 * rows[:, 1] - 1)
    return rows, (random.uniform(size=total) < chance).astype(np.float64)


class _Fixed:
    """Scores every query's documents alike, and notes what it was asked."""

    def __init__(self, best: str) -> None:
        self.best, self.asked = best, list[str]()

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        self.asked.extend(queries)
        return Run.of({query: {self.best: 2.0, "other": 1.0} for query in queries}).top(k)


def test_idf_counts_documents_and_not_occurrences() -> None:
    assert words("The owl's 3 moons_") == ["the", "owl", "s", "3", "moons"]
    assert RARITY.counts["the"] == 3
    assert RARITY.idf("cat") == pytest.approx(math.log(1 + 2.5 / 1.5))
    assert RARITY.rarest("the zebra") == pytest.approx(math.log(1 + 3.5 / 0.5))
    assert RARITY.rarest("?!") == 0.0


def test_features_by_hand_and_zero_where_there_is_nothing() -> None:
    run = Run.of({"q": {"a": 0.9, "b": 0.7, "c": 0.4}, "r": {}})
    rows = features({"q": "the zebra", "r": "", "s": "cat"}, run, RARITY)
    count, mean, most, unknown, best, lead, tenth, spread = rows[0].tolist()
    assert (count, unknown) == (pytest.approx(math.log(3)), 0.5)
    assert (mean, most) == (pytest.approx((RARITY.idf("the") + RARITY.idf("zebra")) / 2), RARITY.idf("zebra"))
    assert (best, lead, tenth) == pytest.approx((0.9, 0.2, 0.5))
    assert spread == pytest.approx(np.std([0.9, 0.7, 0.4]))
    assert rows[1].tolist() == [0.0] * len(FEATURES)
    assert rows[2, :4].any()
    assert not rows[2, 4:].any()


def test_newton_finds_where_the_slope_is_zero() -> None:
    rows, outcomes = _rows(200)
    rows[:, 7] = 0
    weights = fit(rows, outcomes, ridge=0.5)
    found = sigmoid(rows @ weights[:-1] + weights[-1]) - outcomes
    assert np.abs(rows.T @ found + 0.5 * weights[:-1]).max() < 1e-4
    assert abs(found.sum()) < 1e-4


def test_one_kind_of_outcome_has_a_finite_fit() -> None:
    weights = fit(np.empty((60, 0)), softened(np.zeros(60)))
    assert sigmoid(weights)[0] == pytest.approx(1 / 62)


def test_a_router_learns_what_decides_and_is_calibrated() -> None:
    rows, outcomes = _rows(3000)
    router, held = Router.fit(rows, outcomes)
    assert int(np.argmax(np.abs(router.weights[:-1]))) == 1
    fresh, happened = _rows(3000, seed=1)
    for found in (reliability(held, outcomes), reliability(router.probability(fresh), happened)):
        assert found["auc"] is not None
        assert found["auc"] > 0.8
        assert (found["calibration_error"] or 0) < 0.03
        assert (found["brier"] or 1) < 0.8 * (found["brier_base_rate"] or 0)


def test_noise_is_not_believed_and_no_held_out_query_has_seen_itself() -> None:
    random = np.random.default_rng(3)
    rows, outcomes = random.normal(size=(80, len(FEATURES))), (np.arange(80) % 4 == 0).astype(np.float64)
    _, held = Router.fit(rows, outcomes)
    told = reliability(held, outcomes)
    assert (told["brier"] or 0) > (told["brier_base_rate"] or 0) - 0.02
    turned = outcomes.copy()
    turned[5] = 1 - turned[5]
    _, other = Router.fit(rows, turned)
    assert held[5] == other[5]


def test_too_few_queries_are_refused() -> None:
    with pytest.raises(InputError, match=r"learns from 49 queries.*\n?.*at least 50"):
        Router.fit(*_rows(49))


def test_the_file_is_json_and_gives_the_same_probabilities(tmp_path: Path) -> None:
    rows, outcomes = _rows(100)
    router, _ = Router.fit(rows, outcomes)
    router.save(tmp_path / "router.json")
    again = Router.load(tmp_path / "router.json")
    assert again.probability(rows).tolist() == router.probability(rows).tolist()
    value = json.loads((tmp_path / "router.json").read_text())
    broken = (
        {"weights": [1.0]},
        {"scales": [0.0] * len(FEATURES)},
        {"features": ["words"]},
        {"platt": [1.0, None]},
        {"means": "x" * len(FEATURES)},
    )
    for change in broken:
        (tmp_path / "router.json").write_text(json.dumps(value | change))
        with pytest.raises(IntegrityError, match="no router that can be used"):
            Router.load(tmp_path / "router.json")


def test_the_teacher_is_asked_from_the_threshold_on_and_for_nothing_else() -> None:
    router, _ = Router.fit(*_rows(100))
    queries = {"q": "the cat", "r": "zebra", "s": "the the the owl"}
    _, chances = Routed(_Fixed("a"), _Fixed("b"), router, RARITY, 0.5).judge(queries)
    middle = sorted(chances)[1]
    for threshold, expected in ((0.0, 3), (middle, 2), (1.01, 0)):
        student, teacher = _Fixed("a"), _Fixed("b")
        found = Routed(student, teacher, router, RARITY, threshold).search(queries, 1)
        asked = {query for query, chance in zip(queries, chances, strict=True) if chance >= threshold}
        assert set(teacher.asked) == asked
        assert len(asked) == expected
        assert {query: found[query][0][0] for query in queries} == {q: "b" if q in asked else "a" for q in queries}
        assert list(found) == list(queries)
        assert all(len(found[query]) == 1 for query in queries)
    with pytest.raises(ConfigError, match="threshold is nan"):
        Routed(_Fixed("a"), _Fixed("b"), router, RARITY, math.nan)
