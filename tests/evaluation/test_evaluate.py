"""`evaluate`: what the evaluation file says, and its intervals."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.core.results import Evaluation
from lodesmith.core.run import Run
from lodesmith.evaluation.evaluate import evaluate
from lodesmith.evaluation.measures import DEFAULT
from lodesmith.evaluation.significance import bootstrap_means

JUDGED = {f"q{i}": {"good": 1} for i in range(100)}
RUN = Run.of({f"q{i}": {"good": 1.0} if i % 4 else {"bad": 1.0} for i in range(90)})


def test_it_holds_every_default_measure_with_interval_and_value_for_each_query(tmp_path) -> None:
    made = evaluate(
        RUN, JUDGED, system="s", dataset="d", split="dev", cost={"index_bytes": 3.0}, fingerprints={"dataset": "f"}
    )
    assert list(made.measures) == [str(measure) for measure in DEFAULT]
    assert (made.system, made.dataset, made.split, made.queries, made.missing) == ("s", "d", "dev", 100, 10)
    assert (made.cost, made.fingerprints) == ({"index_bytes": 3.0}, {"dataset": "f"})
    estimate = made.measures["R@1"]
    assert estimate.mean == pytest.approx(0.67)
    assert made.per_query["q1"]["R@1"] == 1.0
    assert made.per_query["q95"] == dict.fromkeys(made.measures, 0.0)
    # a proportion's normal interval is what the bootstrap must come near to
    half = 1.96 * np.sqrt(0.67 * 0.33 / 100)
    assert (estimate.low, estimate.high) == pytest.approx((0.67 - half, 0.67 + half), abs=0.015)
    made.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == made


def test_queries_without_results_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate(RUN, JUDGED, system="s", dataset="d")
    assert "10 of 100 judged queries have no results and count 0 ('q90'" in caplog.text


def test_the_seed_decides_the_interval_and_measures_asked_with_it_do_not() -> None:
    first, again = (evaluate(RUN, JUDGED, system="s", dataset="d", measures=["R@1"]) for _ in range(2))
    assert first == again
    assert first.measures["R@1"] == evaluate(RUN, JUDGED, system="s", dataset="d").measures["R@1"]
    values = [np.random.default_rng(0).random(30)]
    assert (bootstrap_means(values, seed=0) != bootstrap_means(values, seed=1)).any()


def test_spellings_are_taken_and_checked() -> None:
    assert list(evaluate(RUN, JUDGED, system="s", dataset="d", measures=["Success@2"]).measures) == ["Success@2"]
    with pytest.raises(ConfigError, match="MRR"):
        evaluate(RUN, JUDGED, system="s", dataset="d", measures=["MRR@10"])


def test_one_query_or_equal_queries_give_an_interval_of_no_width() -> None:
    estimate = evaluate(RUN, {"q1": {"good": 1}}, system="s", dataset="d").measures["nDCG@10"]
    assert (estimate.low, estimate.mean, estimate.high) == (1.0, 1.0, 1.0)
