"""Our measures equal pytrec_eval's and ir_measures' on any run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.records import Dataset
from lodesmith.core.run import Run
from lodesmith.evaluation.measures import Measure, parse, score

CUTOFFS = (1, 3, 5, 10)
TREC = {"nDCG": "ndcg_cut", "AP": "map_cut", "R": "recall", "P": "P", "Success": "success"}
UNCUT = {"nDCG": "ndcg", "AP": "map", "RR": "recip_rank"}
MEASURES = [Measure(name, k) for name in (*TREC, "RR") for k in CUTOFFS] + [Measure(name) for name in UNCUT]

Rankings = Mapping[str, Mapping[str, float]]

queries = st.sampled_from([f"q{i}" for i in range(5)])
documents = st.sampled_from([f"d{i}" for i in range(14)] + ["q0", "q1", "é", "Z"])
values = st.one_of(st.sampled_from([0.0, -0.0, 0.5, 0.5 + 1e-9, 1.0, -3.0]), st.floats(-1e3, 1e3, width=32))
runs = st.dictionaries(queries, st.dictionaries(documents, values, max_size=15), max_size=5)
grades = st.sampled_from([0, 0, 1, 1, 2, 3, 7])
qrels = st.dictionaries(queries, st.dictionaries(documents, grades, min_size=1, max_size=12), min_size=1, max_size=5)


def by_pytrec_eval(run: Rankings, judged: Mapping[str, Mapping[str, int]]) -> dict[Measure, list[float]]:
    """Values of all measures by query; judged queries that it leaves out are 0."""
    asked = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in TREC.values()} | set(UNCUT.values())
    found = pytrec_eval.RelevanceEvaluator(judged, asked).evaluate(run)
    names = {Measure(name, k): f"{theirs}_{k}" for name, theirs in TREC.items() for k in CUTOFFS}
    names |= {Measure(name): theirs for name, theirs in UNCUT.items()}
    values = {measure: [found.get(q, {}).get(name, 0.0) for q in judged] for measure, name in names.items()}
    reciprocal = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"})
    for k in CUTOFFS:
        found = reciprocal.evaluate(cut(run, k))
        values[Measure("RR", k)] = [found.get(q, {}).get("recip_rank", 0.0) for q in judged]
    return values


def cut(run: Rankings, k: int) -> Rankings:
    """The first k in trec_eval's order, since its reciprocal rank has no cut-off of its own."""
    ranked = {q: sorted(d, key=lambda i, d=d: (np.float32(d[i]), i), reverse=True) for q, d in run.items()}
    return {q: {i: run[q][i] for i in kept[:k]} for q, kept in ranked.items()}


@settings(max_examples=100, deadline=None)
@given(runs, qrels)
def test_every_measure_equals_pytrec_eval(run, judged) -> None:
    scores = score(Run.of(run), judged, MEASURES)
    assert scores.query_ids == tuple(judged)
    assert scores.missing == tuple(query for query in judged if not run.get(query))
    expected = by_pytrec_eval(run, judged)
    assert set(expected) == set(MEASURES)
    for measure in MEASURES:
        np.testing.assert_allclose(scores[measure], expected[measure], rtol=0, atol=1e-9, err_msg=str(measure))


@settings(max_examples=40, deadline=None)
@given(runs, qrels)
def test_dropping_the_querys_own_id_is_removing_it_from_the_run(run, judged) -> None:
    without = {query: {d: s for d, s in found.items() if d != query} for query, found in run.items()}
    measures = [*MEASURES, parse("Judged@3")]
    dropped, removed = score(Run.of(run), judged, measures, drop_same_id=True), score(Run.of(without), judged, measures)
    for measure in measures:
        np.testing.assert_array_equal(dropped[measure], removed[measure], err_msg=str(measure))


@settings(max_examples=60, deadline=None)
@given(runs, qrels)
def test_judged_equals_ir_measures(run, judged) -> None:
    # ir_measures breaks ties by id ascending and not as trec_eval: give it ranks for scores
    ranked = {q: {d: -float(rank) for rank, (d, _) in enumerate(found)} for q, found in Run.of(run).items() if found}
    for spelling in ("Judged@1", "Judged@10", "Judged"):
        found = dict.fromkeys(judged, 0.0)
        for metric in ir_measures.iter_calc([ir_measures.parse_measure(spelling)], judged, ranked):
            found[metric.query_id] = metric.value
        np.testing.assert_allclose(score(Run.of(run), judged, [parse(spelling)])[spelling], list(found.values()))


@pytest.mark.parametrize("seed", range(3))
def test_the_default_measures_equal_ir_measures_on_a_larger_run(seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = [f"d{i}" for i in range(400)]
    run = {
        f"q{q}": {
            ids[d]: float(s) for d, s in zip(random.choice(400, 150, False), random.permutation(150), strict=True)
        }
        for q in range(40)
    }
    judged = {
        f"q{q}": {ids[d]: int(g) for d, g in zip(random.choice(400, 60, False), random.integers(0, 4, 60), strict=True)}
        for q in range(5, 45)
    }
    for spelling in ("nDCG@5", "nDCG@10", "RR@10", "AP@100", "R@1", "R@100", "P@10", "Judged@10", "Success@5", "RR"):
        theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(spelling)], judged, run)
        assert list(theirs.values()) == pytest.approx([score(Run.of(run), judged, [parse(spelling)]).means[spelling]])


@pytest.mark.data
@pytest.mark.parametrize(("name", "queries"), [("scifact", 300), ("cranfield", None), ("cisi", None)])
def test_real_judgements_equal_pytrec_eval(collections: Path, name: str, queries: int | None) -> None:
    dataset = Dataset.load(collections / name)
    judged = {query: dict(found) for query, found in dataset.split("test").items()}
    assert len(judged) == (queries or len(judged)) > 0
    random, ids = np.random.default_rng(0), list(dataset.documents)
    run = {}
    for query, grades in judged.items():
        chosen = [*random.choice(ids, 100, replace=False).tolist(), *grades]
        run[query] = {
            document: float(score) for document, score in zip(chosen, random.integers(0, 50, len(chosen)), strict=True)
        }
    expected, scores = by_pytrec_eval(run, judged), score(Run.of(run), judged, MEASURES)
    for measure in MEASURES:
        np.testing.assert_allclose(scores[measure], expected[measure], rtol=0, atol=1e-9, err_msg=str(measure))
    assert scores.means["R@10"] > 0
