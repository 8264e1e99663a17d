"""A run and judgements → `Evaluation`: every measure with its interval and its value for each query."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from lodesmith.core.results import Estimate, Evaluation
from lodesmith.core.run import Run
from lodesmith.core.tables import Judgements
from lodesmith.evaluation.measures import DEFAULT, Measure, Scores, parse, score
from lodesmith.evaluation.significance import bootstrap_means, interval

__all__ = ["evaluate"]

log = logging.getLogger(__name__)


def evaluate(  # noqa: PLR0913 - what an evaluation file records, each by name
    run: Run,
    judgements: Judgements,
    *,
    system: str,
    dataset: str,
    split: str = "test",
    measures: Iterable[Measure | str] = DEFAULT,
    drop_same_id: bool = False,
    cost: Mapping[str, float | None] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure a run, with 95 % percentile bootstrap intervals over queries (10,000 resamples).

    Args:
        run: the rankings.
        judgements: query id → document id → grade; each of its queries counts.
        system: the system's name in tables.
        dataset: the dataset's name in tables.
        split: which split the judgements are.
        measures: as values or spellings.
        drop_same_id: leave out a result whose id is the query's (ArguAna, Quora).
        cost: what the system costs, as the evaluation file names it.
        fingerprints: of dataset, model and whatever else decides the figures.
        seed: of the bootstrap.

    Raises:
        InputError: there are no judged queries, or a grade is not an integer of at least 0.
        ConfigError: a spelling is no measure, or there is none.
    """
    chosen = [parse(measure) if isinstance(measure, str) else measure for measure in measures]
    scores = score(run, judgements, chosen, drop_same_id=drop_same_id)
    if scores.missing:
        example = ", ".join(map(repr, scores.missing[:3]))
        log.warning(
            "%s on %s: %d of %d judged queries have no results and count 0 (%s …)",
            *(system, dataset, len(scores.missing), len(scores), example),
        )
    return Evaluation(
        system=system,
        dataset=dataset,
        split=split,
        queries=len(scores),
        measures=_estimates(scores, seed),
        per_query=scores.per_query(),
        cost=dict(cost or {}),
        fingerprints=dict(fingerprints or {}),
        missing=len(scores.missing),
    )


def _estimates(scores: Scores, seed: int) -> dict[str, Estimate]:
    means = bootstrap_means(list(scores.values.values()), seed=seed)
    found = {}
    for number, (name, mean) in enumerate(scores.means.items()):
        found[name] = Estimate(mean, *interval(means[:, number], mean))
    return found
