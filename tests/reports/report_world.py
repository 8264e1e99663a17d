"""A seeded world for the reports' tests: scores are drawn, and the comparison is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from lodesmith.core.results import Comparison, Estimate, Evaluation, Pair
from lodesmith.reports.page import Example, Passage

MEASURES = ("nDCG@10", "RR@10", "R@100")
LADDER = {
    "random": (0.02, 0.9, 0.0, 0),
    "bm25": (0.50, 0.8, 6.1e6, 0),
    "minilm": (0.56, 6.4, 30.7e6, 22.7e6),
    "bm25+minilm": (0.60, 7.3, 36.8e6, 22.7e6),
    "projected minilm": (0.66, 6.7, 30.7e6, 22.9e6),
    "bm25+projected minilm": (0.67, 7.9, 36.8e6, 22.9e6),
}
"""system → typical nDCG@10, milliseconds a query, index bytes, parameters."""


@dataclass(frozen=True)
class World:
    """Evaluations of a ladder of systems, and their comparison."""

    evaluations: tuple[Evaluation, ...]
    comparison: Comparison

    def of(self, system: str) -> Evaluation:
        return next(evaluation for evaluation in self.evaluations if evaluation.system == system)


def evaluation(system: str, values: Mapping[str, Sequence[float]], dataset: str = "docs", **cost: float) -> Evaluation:
    """An evaluation from the values by query of each measure, with normal intervals."""
    count = len(next(iter(values.values())))
    per_query = {f"q{i}": {measure: float(column[i]) for measure, column in values.items()} for i in range(count)}
    estimates = {measure: _estimate(np.asarray(column)) for measure, column in values.items()}
    prints = {"dataset": "53aa51172d142c89" * 4, "model": "d9132c15ae4d6cc0" * 4}
    return Evaluation(system, dataset, "test", count, estimates, per_query, cost, prints)


def _estimate(values: np.ndarray) -> Estimate:
    mean, half = float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def compared(evaluations: Sequence[Evaluation], baseline: str, measure: str = "nDCG@10") -> Comparison:
    """All pairs, with a normal approximation in the place of the randomisation test, and Holm's correction."""
    pairs = [
        _pair(a, b, measure)
        for a, b in combinations(evaluations, 2)
        if a.dataset == b.dataset and measure in a.measures
    ]
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].p)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, pairs[i].p * (len(pairs) - rank)))
        pairs[i] = Pair(**{**vars(pairs[i]), "p_holm": worst, "significant": worst < 0.05})
    return Comparison(baseline, measure, tuple(dict.fromkeys(e.system for e in evaluations)), tuple(pairs))


def _pair(a: Evaluation, b: Evaluation, measure: str) -> Pair:
    d = np.asarray([a.per_query[q][measure] - b.per_query[q][measure] for q in a.per_query])
    spread = max(float(d.std()) / len(d) ** 0.5, 1e-12)
    mean = float(d.mean())
    p = 2 * NormalDist().cdf(-abs(mean) / spread)
    counts = (int((d > 0).sum()), int((d == 0).sum()), int((d < 0).sum()))
    family = f"{measure}, all pairs"
    interval = (mean, mean - 1.96 * spread, mean + 1.96 * spread)
    return Pair(
        a.system, b.system, a.dataset, family, measure, *interval, p, p, p, p < 0.05, *counts, len(d), 2.8 * spread
    )


def ladder(dataset: str = "docs", queries: int = 400, seed: int = 0) -> list[Evaluation]:
    """Six systems whose scores on a query have a common difficulty, and many exact 0s and 1s, as nDCG has."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, 0.35, queries)
    found = []
    for system, (level, time, size, parameters) in LADDER.items():
        raw = level + (difficulty + random.normal(0, 0.3, queries)) * (level > 0.1)
        ranks = np.clip(np.round(1 / np.clip(raw, 0.05, 1)), 1, 20)
        gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0) * (raw > 0.05)
        values = {"nDCG@10": gains, "RR@10": (1 / ranks) * (gains > 0), "R@100": (raw > -0.1) * min(1.0, level * 4)}
        cost = {"encode_docs_per_s": 312.0 if parameters else 14200.0, "query_ms_p50": time, "index_bytes": size}
        found.append(evaluation(system, values, dataset, **cost, parameters=parameters))
    return found


def example(query: str, a: Evaluation, b: Evaluation, place: int) -> Example:
    asked = (
        "Return the sum of array elements over a given axis.",
        "Split an array into multiple sub-arrays along the third axis (depth).",
        "Open a file and return a stream whose encoding is guessed from its first bytes.",
    )[place % 3]
    passages = tuple(
        Passage(
            f"numpy.{name}",
            f"{name}(a, axis=None, dtype=None, out=None)\n\nParameters: a is array_like, elements to work on. axis is "
            "None, int or tuple of ints, the axis or axes along which the work is done; by default all of them.",
            f"numpy.{name}",
            score,
            name in ("sum", "nansum"),
        )
        for name, score in (("sum", 0.83), ("nansum", 0.79), ("cumsum", 0.71))
    )
    values = (a.per_query[query]["nDCG@10"], b.per_query[query]["nDCG@10"])
    return Example(query, asked, *values, passages[:1], passages, passages[::-1])
