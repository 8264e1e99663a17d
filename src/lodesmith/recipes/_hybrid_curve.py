"""A router's curve: quality against the mean latency of a query, beside chance and the best that could be done."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.records import Dataset
from lodesmith.core.results import Estimate
from lodesmith.core.run import Run
from lodesmith.evaluation.calibration import reliability
from lodesmith.evaluation.hits import Floats
from lodesmith.evaluation.measures import parse, score
from lodesmith.evaluation.significance import bootstrap_means, interval
from lodesmith.retrieval.routed import DEPTH, Routed

__all__ = ["MEASURE", "Curve", "End", "Latency", "Point", "curve", "permuted_p", "timed"]

MEASURE = "nDCG@10"
_TIMED = 100
"""Queries that are timed."""
_REPEATS = 3
_SECONDS = 60.0
"""How long timing may take: slow systems are asked fewer queries, at least three."""
_PERMUTATIONS = 10_000

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class End:
    """The student alone, or the teacher alone.

    Args:
        quality: nDCG@10 with its interval.
        query_ms: of a query asked alone, encoding and search, the mean over queries.
    """

    quality: Estimate
    query_ms: float


@dataclass(frozen=True)
class Point:
    """One threshold.

    Args:
        threshold: the probability from which on the teacher is asked.
        planned: the share of queries that this was to be, by the training queries.
        share: the share that it was.
        quality: nDCG@10 with its interval.
        query_ms: the student and the router for all queries, the teacher for those it was asked.
        random: nDCG@10 expected where as many queries, drawn by chance, get the teacher.
        random_ms: its latency; it asks the student for the others alone.
        same_ms: nDCG@10 expected of chance at this point's latency.
        oracle: the most that as many queries could have given.
        gain: what the router has above `random`, with its interval.
        p: of that gain, by permuting which queries get the teacher.
    """

    threshold: float
    planned: float
    share: float
    quality: Estimate
    query_ms: float
    random: float
    random_ms: float
    same_ms: float
    oracle: float
    gain: Estimate
    p: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a query asked alone, the mean over queries of the median of repeated calls.

    Args:
        student: encoding and search.
        routed: the same with the router's features and probability.
        teacher: encoding and search.
        queries: how many were timed.
    """

    student: float
    routed: float
    teacher: float
    queries: int


@dataclass(frozen=True)
class Curve:
    """A router on the queries of one split.

    Args:
        dataset: its name.
        split: whose queries.
        queries: how many.
        student: the student alone.
        teacher: the teacher alone.
        points: of each threshold, by rising share of the teacher.
        latency: what the latencies are made of.
        reliability: of the probabilities on these queries.
        training: how the router was made, with its reliability on held-out training queries.
    """

    dataset: str
    split: str
    queries: int
    student: End
    teacher: End
    points: tuple[Point, ...]
    latency: Latency
    reliability: Mapping[str, float | None]
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report file's content."""
        return {"measure": MEASURE, **asdict(self), "points": [asdict(point) for point in self.points]}

    def plot(self, width: int = 640) -> str:
        """The picture, as SVG."""
        from lodesmith.reports.hybrid_plot import hybrid_plot

        ends = {name: (end.query_ms, end.quality.mean) for name, end in self._ends.items()}
        lines = {
            "router": [(point.query_ms, point.quality.mean) for point in self.points],
            "oracle, same share": [(point.query_ms, point.oracle) for point in self.points],
            "random": list(ends.values()),
        }
        return hybrid_plot(lines, ends, measure=MEASURE, width=width)

    @property
    def _ends(self) -> dict[str, End]:
        return {"student": self.student, "teacher": self.teacher}


def curve(
    routed: Routed,
    data: Dataset,
    split: str,
    thresholds: Mapping[float, float],
    outcomes: Callable[[Run, Run], Floats],
    *,
    seed: int = 0,
) -> Curve:
    """Measure a router on the judged queries of a split that it did not learn from.

    Args:
        routed: student, teacher and router.
        data: their documents.
        split: whose queries.
        thresholds: planned share of the teacher → threshold.
        outcomes: the student's and the teacher's run → what the router predicts, [n].
        seed: of bootstrap, permutations and the queries that are timed.
    """
    queries = {key: query.content for key, query in data.queries_of(split).items()}
    depth = DEPTH + data.drop_same_id
    own_run, probabilities = routed.judge(queries, depth)
    whole_run = routed.teacher.search(queries, depth)
    own, whole = (_values(run, data, split, queries) for run in (own_run, whole_run))
    latency = timed(routed, queries, seed)
    (low, high) = (_estimate(values, seed) for values in (own, whole))
    ends = End(low, latency.student), End(high, latency.teacher)
    points = tuple(
        _point(planned, threshold, probabilities >= threshold, (own, whole), latency, seed)
        for planned, threshold in sorted(thresholds.items())
    )
    told = reliability(probabilities, outcomes(own_run, whole_run))
    return Curve(data.name, split, len(queries), *ends, points, latency, told)


def _values(run: Run, data: Dataset, split: str, queries: Mapping[str, str]) -> Floats:
    """nDCG@10 [n] in the order of the queries."""
    found = score(run, data.split(split), [parse(MEASURE)], drop_same_id=data.drop_same_id).per_query()
    return np.array([found[query][MEASURE] for query in queries], np.float64)


def _estimate(values: Floats, seed: int) -> Estimate:
    mean = float(values.mean())
    return Estimate(mean, *interval(bootstrap_means([values], seed=seed)[:, 0], mean))


def _point(
    planned: float, threshold: float, asked: Mask, both: tuple[Floats, Floats], latency: Latency, seed: int
) -> Point:
    own, whole = both
    share, gains = float(asked.mean()), whole - own
    values = np.where(asked, whole, own)
    chance = own + share * gains
    slope = (float(whole.mean()) - float(own.mean())) / ((latency.teacher - latency.student) or 1.0)
    spent = latency.routed + share * latency.teacher
    best = float(np.sort(gains)[::-1][: int(asked.sum())].sum()) / len(own)
    return Point(
        threshold=threshold,
        planned=planned,
        share=share,
        quality=_estimate(values, seed),
        query_ms=spent,
        random=float(chance.mean()),
        random_ms=(1 - share) * latency.student + share * latency.teacher,
        same_ms=float(own.mean()) + slope * min(spent - latency.student, max(0.0, latency.teacher - latency.student)),
        oracle=float(own.mean()) + best,
        gain=_estimate(values - chance, seed),
        p=permuted_p(gains, asked, seed=seed),
    )


def permuted_p(gains: Floats, asked: Mask, *, permutations: int = _PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p that queries chosen by chance, as many, would gain as much more or less than chance is expected to.

    Args:
        gains: teacher − student by query [n].
        asked: which queries get the teacher [n].
        permutations: random choices; p = (c + 1) / (permutations + 1), as in `randomisation_p`.
        seed: of them.
    """
    count = int(asked.sum())
    expected = gains.mean() * count
    observed = abs(float(gains[asked].sum()) - expected) - 1e-9
    random, reached = np.random.default_rng(seed), 0
    for _ in range(permutations):
        reached += abs(float(gains[random.permutation(len(gains))[:count]].sum()) - expected) >= observed
    return (reached + 1) / (permutations + 1)


def timed(routed: Routed, queries: Mapping[str, str], seed: int = 0) -> Latency:
    """Ask single queries of student, router and teacher, in turns."""
    order = np.random.default_rng(seed).permutation(len(queries))[:_TIMED]
    items = list(queries.items())
    sample = [dict([items[at]]) for at in order]
    calls: Sequence[Callable[[Mapping[str, str]], object]] = (
        lambda query: routed.student.search(query, DEPTH),
        routed.judge,
        lambda query: routed.teacher.search(query, DEPTH),
    )
    for call in calls:
        call(sample[0])
    found: list[list[float]] = []
    start = time.perf_counter()
    for query in sample:
        if len(found) >= 3 and time.perf_counter() - start > _SECONDS:
            break
        rounds = [[_milliseconds(call, query) for call in calls] for _ in range(_REPEATS)]
        found.append([statistics.median(column) for column in zip(*rounds, strict=True)])
    student, router, teacher = (statistics.fmean(column) for column in zip(*found, strict=True))
    return Latency(student, router, teacher, len(found))


def _milliseconds(call: Callable[[Mapping[str, str]], object], query: Mapping[str, str]) -> float:
    start = time.perf_counter()
    call(query)
    return (time.perf_counter() - start) * 1000
