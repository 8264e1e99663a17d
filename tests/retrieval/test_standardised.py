"""Fusion of scores in standard deviations of their list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.core.run import Run
from lodesmith.indexes.flat import Flat
from lodesmith.retrieval import fuse
from lodesmith.retrieval.bm25 import BM25
from lodesmith.retrieval.dense import Dense
from lodesmith.retrieval.fuse import Standardised, covered, standardised
from lodesmith.testing import HashEncoder


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


# ------------------------------------------------------------------------ a weight for each query


def test_each_query_has_its_own_weight() -> None:
    a, b = {"x": 9.0, "y": 3.0, "z": 0.0}, {"x": 0.1, "y": 0.5, "z": 0.3}
    runs = [Run.of({"p": a, "q": a}), Run.of({"q": b, "p": b})]
    found = standardised(runs, ({"p": 0.75, "q": 0.4}, {"q": 0.6, "p": 0.25}))
    assert dict(found["p"]) == fused(a, b, 0.25)
    assert dict(found["q"]) == fused(a, b, 0.6)


def test_the_odds_of_bm25_fall_with_the_root_of_the_coverage() -> None:
    lexical, dense = covered(0.6, {"full": 0.5, "at": 0.2, "quarter": 0.05, "none": 0.0}, 0.2)
    assert lexical == pytest.approx({"full": 0.4, "at": 0.4, "quarter": 0.25, "none": 0.0})  # odds 2/3, and half of it
    assert dense == pytest.approx({query: 1 - weight for query, weight in lexical.items()})
    assert dense["none"] == 1.0


def test_without_a_reference_only_a_query_that_finds_nothing_is_the_encoders() -> None:
    assert covered(0.6, {"little": 1e-9, "none": 0.0})[0] == pytest.approx({"little": 0.4, "none": 0.0})


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_coverage_does_not_weigh_what_has_no_weight(weight: float) -> None:
    _, dense = covered(weight, {"much": 0.9, "little": 0.01, "none": 0.0}, 0.5)
    assert dense == {"much": weight, "little": weight, "none": 1.0}


class Various:
    """Other scores for each query, made from its text alone."""

    def __init__(self, seed: int) -> None:
        self.seed, self.most = seed, 0

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        self.most = max(self.most, len(queries))
        found = {}
        for query, text in queries.items():
            scores = np.random.default_rng([self.seed, *text.encode()]).standard_normal(40) ** 2
            found[query] = {f"d{n}": float(score) for n, score in enumerate(scores) if score > 0.3 * self.seed}
        return Run.of(found).top(k)


def by_text(queries: Mapping[str, str], runs: Sequence[Run]) -> tuple[dict[str, float], dict[str, float]]:
    return covered(0.4, {query: len(runs[0][query]) / 40 for query in queries}, 0.9)


def test_a_query_is_scored_alone_as_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (Various(1), Various(2))
    system, asked = Standardised(parts, by_text, depth=25), {f"q{n}": f"text {n}" for n in range(10)}
    together = system.search(asked, 7)
    assert [part.most for part in parts] == [10, 10]
    assert list(together) == list(asked)
    monkeypatch.setattr(fuse, "_BLOCK", 3)
    parts[0].most = 0
    assert system.search(asked, 7) == together  # to the bit, in blocks
    assert parts[0].most == 3
    for query, text in asked.items():
        assert system.search({query: text}, 7)[query] == together[query]


def test_bm25_by_its_coverage_beside_an_encoder_scores_alone_as_among_others() -> None:
    words = [f"w{n}" for n in range(30)]
    texts = {f"d{n}": " ".join(words[(n * step) % 30] for step in range(1, 9)) for n in range(60)}
    lexical, encoder, index = BM25().build(texts.items()), HashEncoder(), Flat(metric=HashEncoder().metric)
    index.add(encoder.encode(list(texts.values()), "document", tuple(texts)))

    def weights(queries: Mapping[str, str], runs: Sequence[Run]) -> tuple[dict[str, float], dict[str, float]]:
        return covered(0.4, lexical.coverage(queries, runs[0]), 0.5)

    system = Standardised((lexical, Dense(encoder, index)), weights, depth=2000)
    asked = {"one": "w3", "more": "w1 w2 w9", "half": "w7 zebra", "strange": "zebra", "empty": ""}
    together = system.search(asked, 60)
    for query, text in asked.items():
        assert system.search({query: text}, 60)[query] == together[query]  # to the bit
    alone = Dense(encoder, index).search(asked, 60)
    assert [key for key, _ in together["strange"]] == [key for key, _ in alone["strange"]]


def test_no_query_finds_nothing() -> None:
    assert len(Standardised((Various(1), Various(2)), (0.5, 0.5)).search({})) == 0
