"""Means with their intervals from values by query, and an evaluation's figures over some of its queries."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.results import Estimate, Evaluation
from lodesmith.evaluation.significance import bootstrap_means, interval

__all__ = ["estimates", "part"]


def estimates(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    """Each measure's mean over the queries with its 95 % bootstrap interval.

    Args:
        per_query: query id → measure → value; all have the same measures, and there is one at least.
    """
    rows = list(per_query.values())
    columns = {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}
    drawn = bootstrap_means(list(columns.values()))
    means = {name: math.fsum(column) / len(rows) for name, column in columns.items()}
    return {name: Estimate(mean, *interval(drawn[:, at], mean)) for at, (name, mean) in enumerate(means.items())}


def part(evaluation: Evaluation, queries: Collection[str]) -> Evaluation:
    """The evaluation over those of its queries that are asked for; `missing` is not known of a part and is 0.

    Raises:
        InputError: none of them is in it.
    """
    kept = {key: values for key, values in evaluation.per_query.items() if key in queries}
    if not kept:
        raise InputError(f"{evaluation.system} on {evaluation.dataset} has none of these {len(queries)} queries")
    answers = {key: answer for key, answer in evaluation.answers.items() if key in kept}
    return replace(evaluation, queries=len(kept), per_query=kept, measures=estimates(kept), missing=0, answers=answers)
