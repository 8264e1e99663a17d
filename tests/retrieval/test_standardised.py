"""Fusion of scores in standard deviations of their list."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.core.run import Run
from lodesmith.retrieval.fuse import Standardised, standardised


def fused(first: Mapping[str, float], second: Mapping[str, float], weight: float = 0.5) -> dict[str, float]:
    return dict(standardised([Run.of({"q": first}), Run.of({"q": second})], (1 - weight, weight))["q"])


def test_scores_are_above_the_least_in_standard_deviations() -> None:
    a, b = {"x": 9.0, "y": 3.0, "z": 0.0}, {"x": 0.1, "y": 0.5, "z": 0.3}
    found = fused(a, b, 0.25)
    for key, value in a.items():
        wanted = 0.75 * value / np.std([9, 3, 0]) + 0.25 * (b[key] - 0.1) / np.std([0.1, 0.5, 0.3])
        assert found[key] == pytest.approx(wanted)


def test_neither_scale_nor_place_of_the_scores_matters() -> None:
    a, b = {"x": 9.0, "y": 3.0, "z": 1.0}, {"x": 0.1, "y": 0.5, "z": 0.3}
    moved = {key: 1000 * value + 7 for key, value in b.items()}
    assert fused(a, b) == pytest.approx(fused(a, moved))


def test_a_list_that_sets_one_apart_outvotes_one_that_does_not() -> None:
    names = [f"d{n}" for n in range(20)]
    flat = {name: 20.0 - n for n, name in enumerate(reversed(names))}
    sharp = dict.fromkeys(names, 1.0) | {"d0": 30.0}
    assert max(fused(flat, sharp).items(), key=lambda item: item[1])[0] == "d0"


def test_a_shorter_list_counts_as_one_of_zeros() -> None:
    short, padded = {"x": 4.0, "y": 2.0}, {"x": 4.0, "y": 2.0, "z": 0.0, "w": 0.0}
    dense = {"x": 0.1, "y": 0.4, "z": 0.3, "w": 0.2}
    assert fused(short, dense) == pytest.approx(fused(padded, dense))


def test_a_query_that_one_list_lacks_is_ranked_by_the_other() -> None:
    lexical, dense = Run.of({"other": {"x": 1.0}}), Run.of({"q": {"x": 0.2, "y": 0.9}})
    assert [key for key, _ in standardised([lexical, dense], (0.5, 0.5))["q"]] == ["y", "x"]
    assert [key for key, _ in standardised([Run.of({"q": {}}), dense], (0.5, 0.5))["q"]] == ["y", "x"]


def test_equal_scores_say_nothing() -> None:
    assert fused({"x": 2.0, "y": 2.0}, {"x": 0.1, "y": 0.2}) == pytest.approx({"y": 1.0, "x": 0.0})


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_of_one_is_the_ranking_of_one(weight: float) -> None:
    a, b = {"x": 9.0, "y": 3.0, "z": 1.0}, {"x": 0.1, "y": 0.5, "z": 0.3}
    wanted = sorted(b if weight else a, key=(b if weight else a).__getitem__)
    found = fused(a, b, weight)
    assert sorted(found, key=found.__getitem__) == wanted


def test_weights_must_fit() -> None:
    with pytest.raises(ConfigError, match="2 runs and 1 weights"):
        standardised([Run.of({"q": {"x": 1.0}})] * 2, (1.0,))


class Fixed:
    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores, self.asked = scores, 0

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        self.asked = k
        return Run.of({key: dict(self.scores) for key in queries}).top(k)


def test_the_first_results_do_not_depend_on_how_many_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    parts = [Fixed({f"d{n}": float(v) for n, v in enumerate(rng.standard_normal(60))}) for _ in range(2)]
    system = Standardised(parts, (0.4, 0.6), depth=30)
    few, many = system.search({"q": "text"}, 3), system.search({"q": "text"}, 40)
    assert few["q"] == many["q"][:3]
    assert [part.asked for part in parts] == [30, 30]
