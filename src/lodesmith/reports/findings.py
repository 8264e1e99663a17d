"""What evaluations and their comparison say together: by dataset, which pair, who is best and who cannot be told apart.

Only the comparison's own verdicts are used: a mean is never called better because it is higher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lodesmith.core.errors import InputError
from lodesmith.core.results import Comparison, Evaluation, Pair

Systems = Mapping[str, Evaluation]
"""system → its evaluation on one dataset."""

_SAME = 1e-9


def by_dataset(evaluations: Sequence[Evaluation]) -> Mapping[str, Systems]:
    """dataset → system → evaluation, in the order given.

    Raises:
        InputError: there is none, a system occurs twice on a dataset, a dataset's evaluations are of several splits, or
            a figure is not finite.
    """
    if not evaluations:
        raise InputError("no evaluations to report", "make one with `lode evaluate … --out FILE`")
    blocks: dict[str, dict[str, Evaluation]] = {}
    for evaluation in evaluations:
        block = blocks.setdefault(evaluation.dataset, {})
        if evaluation.system in block:
            raise InputError(
                f"two evaluations of {evaluation.system!r} on {evaluation.dataset!r}", "give each system another name"
            )
        if any(not math.isfinite(x) for e in evaluation.measures.values() for x in (e.mean, e.low, e.high)):
            raise InputError(f"{evaluation.system!r} on {evaluation.dataset!r} has a figure that is NaN or infinite")
        block[evaluation.system] = evaluation
        splits = sorted({other.split for other in block.values()})
        if len(splits) > 1:
            raise InputError(
                f"{evaluation.dataset!r} is evaluated on the splits {' and '.join(splits)}", "compare one split"
            )
    return blocks


def mean_of(evaluation: Evaluation, measure: str) -> float | None:
    """The mean of a measure, or None where the evaluation lacks it."""
    estimate = evaluation.measures.get(measure)
    return None if estimate is None else estimate.mean


def ranked(systems: Systems, measure: str) -> list[str]:
    """The systems by their mean, highest first; those without the measure come last, and equals stay in order."""
    means = {name: mean_of(evaluation, measure) for name, evaluation in systems.items()}
    return sorted(systems, key=lambda name: -1.0 if (mean := means[name]) is None else mean, reverse=True)


def common_systems(blocks: Mapping[str, Systems]) -> list[str]:
    """The systems that were evaluated on every dataset, in the order of the first."""
    first, *others = blocks.values()
    return [name for name in first if all(name in block for block in others)]


def average(blocks: Mapping[str, Systems], system: str, measure: str) -> float | None:
    """The mean over datasets of a system's means, or None where one is missing."""
    means = [mean_of(block[system], measure) if system in block else None for block in blocks.values()]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known and len(known) == len(means) else None


def find_pair(comparison: Comparison, a: str, b: str, dataset: str, measure: str | None = None) -> Pair | None:
    """The pair of `a` against `b` on a dataset, by the comparison's measure or another; None where it is untested."""
    measure = measure or comparison.measure
    tested = tuple(pair for pair in comparison.pairs if pair.measure == measure)
    try:
        return replace(comparison, pairs=tested).pair(a, b, dataset)
    except KeyError:
        return None


def best_group(comparison: Comparison, systems: Systems, dataset: str, measure: str) -> tuple[str, ...]:
    """The system with the highest mean and all that are not significantly worse than it; one name is a real winner.

    Empty where a verdict is missing: of untested systems none may be marked.
    """
    order = [name for name in ranked(systems, measure) if mean_of(systems[name], measure) is not None]
    if len(order) < 2:
        return ()
    top, group = order[0], [order[0]]
    for other in order[1:]:
        pair = find_pair(comparison, top, other, dataset, measure)
        if pair is None:
            return ()
        if not (pair.significant and pair.difference > 0):
            group.append(other)
    return tuple(group)


def choice(recommendation: str, blocks: Mapping[str, Systems], measure: str) -> tuple[str, str, bool]:
    """Read a recommendation: a system's name, `"name: why"`, or a sentence of its own.

    Returns:
        The system to speak of (without a recommended one, that of the highest average), the sentence to show, and
        whether the system was recommended.
    """
    names = sorted({name for block in blocks.values() for name in block}, key=len, reverse=True)
    for name in names:
        if recommendation == name or recommendation.startswith(f"{name}:"):
            return name, recommendation[len(name) + 1 :].strip(), True
    pool = common_systems(blocks) or names
    top = max(pool, key=lambda name: -1.0 if (mean := average(blocks, name, measure)) is None else mean)
    return top, recommendation.strip(), False


def main_pair(evaluations: Sequence[Evaluation], comparison: Comparison, recommendation: str = "") -> tuple[str, str]:
    """The pair (a, b) that the page speaks of: the recommended or highest system against the baseline.

    Where that system is the baseline itself, `b` is the highest of the others. Examples for the page are of this pair.
    """
    blocks = by_dataset(evaluations)
    lead = choice(recommendation, blocks, comparison.measure)[0]
    if lead != comparison.baseline and any(comparison.baseline in block for block in blocks.values()):
        return lead, comparison.baseline
    rivals = {d: {n: e for n, e in block.items() if n != lead} for d, block in blocks.items()}
    return lead, choice("", rivals, comparison.measure)[0] if any(rivals.values()) else lead


def differences(a: Evaluation, b: Evaluation, measure: str) -> dict[str, float]:
    """query id → a − b, over the queries that both know, largest first and equals in the order of `a`."""
    pairs = (
        (query, values[measure], b.per_query[query][measure])
        for query, values in a.per_query.items()
        if measure in values and measure in b.per_query.get(query, {})
    )
    found = {query: _near_zero(left - right) for query, left, right in pairs}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _near_zero(difference: float) -> float:
    return 0.0 if abs(difference) < _SAME else difference


def extremes(a: Evaluation, b: Evaluation, measure: str, count: int = 3) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of the `count` queries that `a` wins most against `b`, and of those it loses most, the extreme first."""
    ordered = differences(a, b, measure)
    won = [query for query, difference in ordered.items() if difference > 0]
    lost = [query for query, difference in reversed(ordered.items()) if difference < 0]
    return tuple(won[:count]), tuple(lost[:count])
