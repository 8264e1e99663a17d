"""Evaluations → `Comparison`: every pair of systems, query by query; and which system that evidence recommends."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.registry import did_you_mean
from lodesmith.core.results import Comparison, Evaluation, Pair, Recommendation
from lodesmith.evaluation import answers
from lodesmith.evaluation.hits import Floats
from lodesmith.evaluation.measures import parse
from lodesmith.evaluation.significance import SAME, bootstrap_means, detectable, holm, interval, randomisation_p, t_p

__all__ = ["compare", "figures", "recommend"]

log = logging.getLogger(__name__)

Table = Mapping[str, Mapping[str, Evaluation]]
"""dataset → system → evaluation."""


def compare(
    evaluations: Sequence[Evaluation],
    *,
    measure: str = "nDCG@10",
    baseline: str | None = None,
    permutations: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
    planned: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """Compare systems pair by pair on each dataset, paired by query.

    A pair's difference is mean(a) − mean(b), and b is the baseline where it takes part, unless pairs are planned. Its
    interval is the 95 % percentile bootstrap over queries; p is the randomisation test's. All pairs of the call are
    one family for Holm's correction. A pair's figures, other than `p_holm`, `significant` and `family`, depend on that
    pair alone.

    Args:
        evaluations: of several systems, on one dataset or more.
        measure: its spelling, of rankings or of answers (`CoverEM`); every evaluation must have it.
        baseline: the system that the others are held against; the first one by default.
        permutations: of the randomisation test.
        seed: of bootstrap and randomisation.
        alpha: the level that `significant` is decided at, after the correction.
        planned: the pairs (a, b) that were to be compared before anything was measured, each once; None for every
            pair. Each dataset compares those of them that it has, and the correction runs over these alone.

    Raises:
        InputError: two evaluations of one system on one dataset; evaluations of one dataset with other splits, queries
            or contents; a measure that is missing or not finite; no pair at all; an unknown baseline or planned system;
            a pair that is planned twice, or of one system.
        ConfigError: the spelling is no measure.
    """
    measure = measure if measure in answers.MEASURES else str(parse(measure))
    table = _by_dataset(evaluations)
    systems = tuple(dict.fromkeys(evaluation.system for evaluation in evaluations))
    if baseline is not None and baseline not in systems:
        raise InputError(f"the baseline {baseline!r} is not among the systems", did_you_mean(baseline, list(systems)))
    _check_planned(planned or (), systems)
    order = [*dict.fromkeys([baseline or systems[0], *systems])] if systems else []
    test = _Test(measure, permutations, seed)
    pairs = [pair for dataset, found in table.items() for pair in test.pairs(dataset, found, order, planned)]
    if not pairs and planned is not None:
        raise InputError("no dataset has both systems of a planned pair", "plan pairs that were evaluated together")
    if not pairs:
        raise InputError("there is nothing to compare", "give evaluations of at least two systems on one dataset")
    if len(pairs) / (permutations + 1) > alpha:
        log.warning("%d permutations cannot show anything among %d pairs: ask for more", permutations, len(pairs))
    return Comparison(order[0], measure, systems, _corrected(pairs, alpha))


def _check_planned(planned: Sequence[tuple[str, str]], systems: Sequence[str]) -> None:
    seen: set[frozenset[str]] = set()
    for pair in planned:
        for name in pair:
            if name not in systems:
                raise InputError(f"{name!r} is not among the systems", did_you_mean(name, list(systems)))
        if len(set(pair)) < 2 or frozenset(pair) in seen:
            raise InputError(f"{pair[0]!r} and {pair[1]!r} are no pair, or planned twice", "plan each pair once")
        seen.add(frozenset(pair))


def _by_dataset(evaluations: Sequence[Evaluation]) -> Table:
    table: dict[str, dict[str, Evaluation]] = {}
    for evaluation in evaluations:
        found = table.setdefault(evaluation.dataset, {})
        if evaluation.system in found:
            raise InputError(
                f"there are two evaluations of {evaluation.system!r} on {evaluation.dataset!r}",
                "keep one, or give the systems other names",
            )
        if found:
            first = next(iter(found.values()))
            _check_same(first, evaluation)
            _warn_pools(first, evaluation)
        found[evaluation.system] = evaluation
    return table


def _warn_pools(a: Evaluation, b: Evaluation) -> None:
    """Say where two systems were asked among other documents, or read another number of them."""
    apart = [name for name in ("candidates", "documents") if a.cost.get(name) and b.cost.get(name)]
    apart = [f"{a.cost[name]:g} and {b.cost[name]:g} {name}" for name in apart if a.cost[name] != b.cost[name]]
    prints = a.fingerprints.get("pools"), b.fingerprints.get("pools")
    if not apart and all(prints) and prints[0] != prints[1]:
        apart = ["the documents to choose from"]
    if apart:
        log.warning(
            "%r and %r on %r were not asked alike, and differ by that too: %s",
            a.system,
            b.system,
            a.dataset,
            ", ".join(apart),
        )


def _check_same(a: Evaluation, b: Evaluation) -> None:
    """Refuse two evaluations of a dataset that are not of the same split, content and queries."""
    what = ""
    prints = a.fingerprints.get("dataset"), b.fingerprints.get("dataset")
    if a.split != b.split:
        what = f"the splits differ: {a.split!r} and {b.split!r}"
    elif all(prints) and prints[0] != prints[1]:
        what = f"the dataset's fingerprints differ: {str(prints[0])[:12]}… and {str(prints[1])[:12]}…"
    elif apart := sorted(a.per_query.keys() ^ b.per_query.keys()):
        what = f"{len(apart)} queries are in one of them only, such as {apart[0]!r}"
    if what:
        raise InputError(
            f"the evaluations of {a.system!r} and {b.system!r} on {a.dataset!r} do not belong together: {what}",
            "evaluate both on the same dataset and split",
        )


@dataclass(frozen=True)
class _Test:
    """The settings that all pairs share."""

    measure: str
    permutations: int
    seed: int

    def pairs(
        self,
        dataset: str,
        found: Mapping[str, Evaluation],
        order: Sequence[str],
        planned: Sequence[tuple[str, str]] | None,
    ) -> list[Pair]:
        """All pairs on one dataset, or the planned ones, uncorrected; of each two systems the later one in `order` is
        `a`, of planned ones the first."""
        names = [name for name in order if name in found]
        if planned is not None:
            planned = [(a, b) for a, b in planned if a in found and b in found]
            named = {name for pair in planned for name in pair}
            names = [name for name in names if name in named]
        if len(names) < 2:
            return []
        queries = sorted(found[names[0]].per_query)
        if len(queries) < 2:
            raise InputError(f"{dataset!r} has {len(queries)} judged queries", "a comparison needs at least two")
        values = {name: self._values(found[name], queries) for name in names}
        means = dict(zip(names, bootstrap_means(list(values.values()), seed=self.seed).T, strict=True))
        both = [(a, b) for b, a in combinations(names, 2)] if planned is None else planned
        return [self._pair((a, b), dataset, values[a] - values[b], means[a] - means[b]) for a, b in both]

    def _values(self, evaluation: Evaluation, queries: Sequence[str]) -> Floats:
        where = f"the evaluation of {evaluation.system!r} on {evaluation.dataset!r}"
        if self.measure not in evaluation.measures:
            do = f"evaluate again with --measures {self.measure}"
            if "CoverEM" in evaluation.measures or self.measure in answers.MEASURES:
                do = "choose one that all evaluations have, with --measure"
            raise InputError(f"{where} has no {self.measure} (it has: {', '.join(evaluation.measures)})", do)
        try:
            values = np.array([evaluation.per_query[query][self.measure] for query in queries], np.float64)
        except (KeyError, TypeError, ValueError):
            values = np.array([np.nan])
        if not np.isfinite(values).all():
            raise InputError(f"{where} lacks a finite {self.measure} for each query", "evaluate again")
        return values

    def _pair(self, names: tuple[str, str], dataset: str, difference: Floats, means: Floats) -> Pair:
        difference = np.where(np.abs(difference) <= SAME, 0.0, difference)
        mean = float(difference.mean())
        low, high = interval(means, mean)
        p = randomisation_p(difference, permutations=self.permutations, seed=self.seed)
        wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
        return Pair(
            *names,
            dataset=dataset,
            family="",
            measure=self.measure,
            difference=mean,
            low=low,
            high=high,
            p=p,
            p_t=t_p(difference),
            p_holm=p,
            significant=False,
            wins=wins,
            ties=len(difference) - wins - losses,
            losses=losses,
            queries=len(difference),
            detectable=detectable(difference),
        )


def _corrected(pairs: Sequence[Pair], alpha: float) -> tuple[Pair, ...]:
    family = f"{pairs[0].measure}, {len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
    corrected = holm([pair.p for pair in pairs])
    return tuple(
        replace(pair, family=family, p_holm=p, significant=p <= alpha) for pair, p in zip(pairs, corrected, strict=True)
    )


def recommend(evaluations: Sequence[Evaluation], comparison: Comparison, simplicity: Sequence[str]) -> Recommendation:
    """Choose a system: from the simplest on, a more complex one must earn its place.

    It replaces the one chosen so far only where it is significantly better (after Holm) on at least one dataset,
    significantly worse on none, and its mean is above that of *every* simpler system. So the choice is never a system
    that is not better than a simpler one.

    Args:
        evaluations: those that were compared.
        comparison: of all these systems.
        simplicity: system names from the simplest to the most complex; names that were not evaluated are passed over.

    Raises:
        InputError: an evaluated system has no place in `simplicity`, was not evaluated on every dataset, or a pair
            is missing from the comparison.
    """
    evidence = _Evidence(_by_dataset(evaluations), comparison)
    order = [name for name in dict.fromkeys(simplicity) if name in evidence.systems]
    if unknown := evidence.systems - set(order):
        raise InputError(
            f"it is not said how simple {', '.join(map(repr, sorted(unknown)))} is", "name every system, simplest first"
        )
    if not order:
        raise InputError("there are no evaluations to choose from", "give at least one")
    means = {name: evidence.mean(name) for name in order}
    chosen, beaten = order[0], ""
    for place, name in enumerate(order[1:], start=1):
        if means[name] > max(means[simpler] for simpler in order[:place]) and evidence.beats(name, chosen):
            chosen, beaten = name, chosen
    notes = tuple(evidence.note(name, chosen) for name in order if name != chosen)
    return Recommendation(chosen, comparison.measure, _reason(evidence, means, chosen, beaten), notes)


def _reason(evidence: _Evidence, means: Mapping[str, float], chosen: str, beaten: str) -> str:
    measure = evidence.comparison.measure
    if beaten:
        told = f"{chosen} has {measure} {means[chosen]:.3f}, significantly better than the simpler {beaten}: "
        told += evidence.figures(chosen, beaten)
    elif len(means) == 1:
        told = f"{chosen} has {measure} {means[chosen]:.3f} and is the only system"
    else:
        told = f"{chosen} has {measure} {means[chosen]:.3f} and is the simplest system; no more complex one "
        told += "is both significantly better than it and above every simpler one"
    top = max(means, key=means.__getitem__)
    if means[top] > means[chosen]:
        told += f". {top} has the highest mean, {means[top]:.3f}, but did not earn its place: "
        told += evidence.figures(top, chosen)
    return told + "."


@dataclass(frozen=True)
class _Evidence:
    """Evaluations with their comparison."""

    table: Table
    comparison: Comparison

    @property
    def systems(self) -> set[str]:
        """All systems that were evaluated."""
        return {name for found in self.table.values() for name in found}

    def mean(self, system: str) -> float:
        """The mean over datasets of the system's mean."""
        measure = self.comparison.measure
        for dataset, found in self.table.items():
            if system not in found or measure not in found[system].measures:
                raise InputError(
                    f"{system!r} has no {measure} on {dataset!r}", "evaluate every system on every dataset"
                )
        return math.fsum(found[system].measures[measure].mean for found in self.table.values()) / len(self.table)

    def pairs(self, a: str, b: str) -> list[Pair]:
        """`a` against `b` on each dataset."""
        try:
            return [self.comparison.pair(a, b, dataset) for dataset in self.table]
        except KeyError as error:
            raise InputError(f"the comparison lacks the pair {error}", "compare these evaluations first") from None

    def beats(self, a: str, b: str) -> bool:
        """Significantly better on a dataset, significantly worse on none."""
        verdicts = {math.copysign(1, pair.difference) for pair in self.pairs(a, b) if pair.significant}
        return verdicts == {1.0}

    def figures(self, a: str, b: str) -> str:
        """Difference, interval and p on each dataset, in words."""
        several = len(self.table) > 1
        return "; ".join(figures(pair) + (f" on {pair.dataset}" if several else "") for pair in self.pairs(a, b))

    def note(self, system: str, chosen: str) -> str:
        """How a system stands to the chosen one."""
        return f"{system} against {chosen}: {self.figures(system, chosen)}"


def figures(pair: Pair) -> str:
    """The difference, its interval and p, in words."""
    difference, low, high = (value + 0.0 for value in (pair.difference, pair.low, pair.high))  # −0 prints as 0
    p = "< 0.001" if pair.p_holm < 0.001 else f"= {pair.p_holm:.3f}"
    return f"{difference:+.3f} [{low:+.3f}, {high:+.3f}], p {p} after Holm"
