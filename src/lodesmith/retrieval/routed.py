"""Two encoders of queries over one index: a cheap one answers, and a router says when the dear one should."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import read_object, write_json
from lodesmith.core.protocols import Retriever
from lodesmith.core.run import Run
from lodesmith.retrieval._logistic import fit, sigmoid, softened
from lodesmith.retrieval.rarity import Rarity, words

__all__ = ["FEATURES", "Routed", "Router", "features"]

Floats = NDArray[np.float64]

FEATURES = (
    *("words", "mean_idf", "max_idf", "unknown_words"),
    *("best_score", "lead_of_first", "lead_over_tenth", "spread_of_ten"),
)
"""What a router sees: of the query's words, and of the student's own results, which are searched anyway."""
DEPTH = 10
"""Results of the student that are looked at."""
LEAST = 50
"""Queries that a router needs at least."""
_FOLDS = 5


def features(queries: Mapping[str, str], found: Run, rarity: Rarity) -> Floats:
    """The features of queries, float64 [n, 8], as `FEATURES` names them.

    Nothing here runs a model: idf of words among the documents, and margins among the first ten scores of the student.
    A feature of results that are not there is 0.

    Args:
        queries: id → text.
        found: the student's results, of depth 10 where there are so many.
        rarity: of the documents' words.
    """
    rows = [[*_of_words(text, rarity), *_of_scores(_scores(found, query))] for query, text in queries.items()]
    return np.asarray(rows, np.float64).reshape(len(queries), len(FEATURES))


def _scores(found: Run, query: str) -> list[float]:
    return [score for _, score in found[query][:DEPTH]] if query in found else []


def _of_words(text: str, rarity: Rarity) -> tuple[float, ...]:
    each = words(text)
    if not each:
        return (0.0,) * 4
    weights = [rarity.idf(word) for word in each]
    unknown = sum(word not in rarity.counts for word in each)
    return math.log1p(len(each)), sum(weights) / len(each), max(weights), unknown / len(each)


def _of_scores(scores: Sequence[float]) -> tuple[float, ...]:
    if not scores:
        return (0.0,) * 4
    second = scores[min(1, len(scores) - 1)]
    return scores[0], scores[0] - second, scores[0] - scores[-1], float(np.std(scores))


@dataclass(frozen=True)
class Router:
    """The probability that the teacher would do better on a query than the student.

    A logistic regression on standardised features, calibrated by Platt's scaling on predictions for queries that were
    left out of the fit.

    Args:
        means: of the features, [8].
        scales: their standard deviations, 1 for a feature that never varies.
        weights: of the standardised features, and the bias, [9].
        platt: slope and intercept of the calibration.
        info: how it was made.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    platt: tuple[float, float]
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, rows: Floats, outcomes: Floats, seed: int = 0) -> tuple[Router, Floats]:
        """Fit on queries.

        Args:
            rows: their features [n, 8].
            outcomes: [n], 1 where the teacher does better, else 0.
            seed: of the five folds.

        Returns:
            The router, and calibrated probabilities [n], each of a fit without the query and a calibration without its
            fold (whose logits are of fits that saw it: the two numbers of the scaling hardly depend on that).

        Raises:
            InputError: there are fewer than 50 queries.
        """
        if len(rows) < LEAST:
            raise InputError(
                f"a router learns from {len(rows)} queries, which is too few",
                f"give a split with at least {LEAST} queries: --split NAME",
            )
        fold = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
        logits = np.empty(len(rows))
        for number in range(_FOLDS):
            logits[fold == number] = _uncalibrated(rows[fold != number], outcomes[fold != number], rows[fold == number])
        held = np.empty(len(rows))
        for number in range(_FOLDS):
            slope, start = _platt(logits[fold != number], outcomes[fold != number])
            held[fold == number] = sigmoid(slope * logits[fold == number] + start)
        means, scales = _standard(rows)
        weights = fit((rows - means) / scales, softened(outcomes))
        return cls(_plain(means), _plain(scales), _plain(weights), _platt(logits, outcomes)), held

    def probability(self, rows: Floats) -> Floats:
        """For features [n, 8]: the probability [n] that the teacher would do better."""
        standard = (rows - np.asarray(self.means)) / np.asarray(self.scales)
        logits = standard @ np.asarray(self.weights[:-1]) + self.weights[-1]
        return sigmoid(self.platt[0] * logits + self.platt[1])

    def save(self, path: Path | str) -> None:
        """Write it as JSON."""
        value = {"features": list(FEATURES), "means": list(self.means), "scales": list(self.scales)}
        value |= {"weights": list(self.weights), "platt": list(self.platt), "info": dict(self.info)}
        write_json(path, value)

    @classmethod
    def load(cls, path: Path | str) -> Router:
        """Read what `save` wrote.

        Raises:
            IntegrityError: it is no router, or one of other features.
        """
        value = read_object(path)
        try:
            if value["features"] != list(FEATURES):
                raise ValueError(f"its features are {value['features']}")
            parts = {name: _numbers(value[name], size) for name, size in _SIZES.items()}
            if min(parts["scales"]) <= 0:
                raise ValueError("a scale is not positive")
            slope, start = parts.pop("platt")
            return cls(**parts, platt=(slope, start), info=dict(value["info"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"{path} holds no router that can be used: {error}", "make it again: lode hybrid"
            ) from None


_SIZES = {"means": len(FEATURES), "scales": len(FEATURES), "weights": len(FEATURES) + 1, "platt": 2}


def _numbers(value: Any, size: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != size:
        raise ValueError(f"there are not {size} numbers in {value!r}")
    found = _plain(np.asarray([float(each) for each in value]))
    if not np.isfinite(found).all():
        raise ValueError(f"not finite: {value!r}")
    return found


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _standard(rows: Floats) -> tuple[Floats, Floats]:
    """Means and standard deviations; 1 for a feature that does not vary."""
    scales = rows.std(axis=0)
    return rows.mean(axis=0), np.where(scales > 1e-12, scales, 1.0)


def _uncalibrated(rows: Floats, outcomes: Floats, others: Floats) -> Floats:
    """Logits of other queries."""
    means, scales = _standard(rows)
    weights = fit((rows - means) / scales, softened(outcomes))
    logits: Floats = (others - means) / scales @ weights[:-1] + weights[-1]
    return logits


def _platt(logits: Floats, outcomes: Floats) -> tuple[float, float]:
    """Slope and intercept; a slope below 0 would turn the ranking round on chance alone, and is 0."""
    slope, start = fit(logits[:, None], softened(outcomes), ridge=0.0)
    if slope < 0:
        slope, start = 0.0, fit(np.empty((len(logits), 0)), softened(outcomes))[0]
    return float(slope), float(start)


class Routed:
    """A retriever that asks the student, and then the teacher where the router says so.

    Args:
        student: searches the teacher's index by the student's vectors of the queries.
        teacher: searches the same index by the teacher's.
        router: which says how likely the teacher would do better.
        rarity: of the documents' words.
        threshold: the probability from which on the teacher is asked: 0 for always, above 1 for never.

    Raises:
        ConfigError: the threshold is NaN or negative.
    """

    def __init__(
        self, student: Retriever, teacher: Retriever, router: Router, rarity: Rarity, threshold: float
    ) -> None:
        if not threshold >= 0:
            raise ConfigError(f"the threshold is {threshold}", "choose a probability, 0 to 1")
        self.student, self.teacher = student, teacher
        self.router, self.rarity, self.threshold = router, rarity, threshold

    def judge(self, queries: Mapping[str, str], depth: int = DEPTH) -> tuple[Run, Floats]:
        """The student's results, at least ten where there are so many, and each query's probability [n]."""
        found = self.student.search(queries, max(depth, DEPTH))
        return found, self.router.probability(features(queries, found, self.rarity))

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query; a query's results are all of one encoder."""
        found, probabilities = self.judge(queries, k)
        asked = {
            query: text
            for (query, text), probability in zip(queries.items(), probabilities.tolist(), strict=True)
            if probability >= self.threshold
        }
        if not asked:
            return found.top(k)
        better = self.teacher.search(asked, k)
        return Run.of({query: dict((better if query in asked else found)[query]) for query in queries}).top(k)
