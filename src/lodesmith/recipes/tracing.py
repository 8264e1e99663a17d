"""Traces with their controls: a system asked with each query's own trace, without, and with another query's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.records import Dataset
from lodesmith.core.registry import did_you_mean
from lodesmith.core.results import Comparison, Evaluation, Pair
from lodesmith.core.run import Run
from lodesmith.data.traced import COLUMN, MODES, Mode, traced, traces_of
from lodesmith.evaluation import compare as comparing
from lodesmith.recipes._variants import Kept, measure_variants
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.recipe import Recipe, TracesPlan
from lodesmith.recipes.systems import System, resolve
from lodesmith.reports.text import probability, signed
from lodesmith.retrieval.reasoning import How, ReasoningAugmentedRetriever

__all__ = ["Controls", "TraceUse", "as_trained", "control", "controls", "controls_datasets", "use_of", "with_traces"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TraceUse:
    """How queries are given their traces.

    Args:
        how: `append` or `fuse`, see `ReasoningAugmentedRetriever`.
        weight: of the trace's scores, with `fuse`.
        words: a trace is cut after so many.
        column: that has the traces.
        seed: of the shuffling.
    """

    how: How = "append"
    weight: float = 0.5
    words: int | None = None
    column: str = COLUMN
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"the seed of traces is {self.seed}", "give 0 or more")
        ReasoningAugmentedRetriever(_Nothing(), {}, how=self.how, weight=self.weight, words=self.words)

    @classmethod
    def parse(cls, spelling: str) -> TraceUse:
        """From `append` or `fuse`, with settings behind it: `append:words=10`, `fuse:weight=0.3,column=thoughts`.

        Raises:
            ConfigError: it is no such spelling.
        """
        how, _, rest = spelling.strip().partition(":")
        known = {"weight": float, "words": int, "column": str, "seed": int}
        given: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = (text.strip() for text in part.partition("="))
            if key not in known or not equals:
                raise ConfigError(f"{spelling!r}: {part!r} is no setting of traces", did_you_mean(key, list(known)))
            if key in given:
                raise ConfigError(f"{spelling!r} sets {key!r} twice", "leave one out")
            try:
                given[key] = known[key](value)
            except ValueError:
                raise ConfigError(f"{spelling!r}: {value!r} is no {key}", "write a number") from None
        if how == "append" and "weight" in given:
            raise ConfigError(f"{spelling!r}: appended traces have no weight", "leave it out, or write fuse")
        return cls(how, **given)  # type: ignore[arg-type]  # checked as it is made


class _Nothing:
    """Finds nothing."""

    def search(self, queries: object, k: int = 10) -> Run:
        return Run.of({})


@dataclass(frozen=True)
class Controls:
    """The evaluations of each mode on each dataset, compared pair by pair; queries that lacked a trace, by dataset."""

    evaluations: tuple[Evaluation, ...]
    comparison: Comparison
    missing: tuple[tuple[str, int], ...] = ()

    @property
    def notes(self) -> list[str]:
        """What the content of traces is worth beside their mere presence, and how many queries have none."""
        total = {evaluation.dataset: evaluation.queries for evaluation in self.evaluations}
        used = next(name for name in self.comparison.systems if name.endswith(", use"))
        worth = [
            told(pair, used)
            for pair in self.comparison.pairs
            if used in {pair.a, pair.b} and self.comparison.baseline not in {pair.a, pair.b}
        ]
        return worth + [
            f"{dataset}: {count:,} of {total[dataset]:,} queries have no trace and are asked as they are."
            for dataset, count in self.missing
            if count
        ]


def told(pair: Pair, first: str) -> str:
    """What the system `first` has before the pair's other one, as a sentence with its own p."""
    sign, low, high = (1, pair.low, pair.high) if pair.a == first else (-1, -pair.high, -pair.low)
    return (
        f"{pair.dataset}: {pair.measure} of {first!r} less that of {(pair.b if sign > 0 else pair.a)!r}: "
        f"{signed(sign * pair.difference)} [{signed(low)}, {signed(high)}], {probability(pair.p)} (not corrected)."
    )


def control(system: System, dataset: Dataset, mode: Mode, use: TraceUse, split: str = "test") -> tuple[System, int]:
    """A system whose queries get traces, called `SYSTEM, MODE`, and how many of a split's queries lack one."""
    if not system.reads:
        raise InputError(f"{system.name} is a recorded run, and reads no trace", "give the system that made it")
    traces = traces_of(dataset, mode, use.seed, split=split, name=use.column, words=use.words)
    retriever = ReasoningAugmentedRetriever(system.retriever, traces.texts, how=use.how, weight=use.weight)
    name = f"{system.name}, {mode}"
    if mode == "none":
        return replace(system, name=name), 0
    prints = dict(system.fingerprints) | {"traces": fingerprint({"traces": traces.fingerprint, **asdict(use)})}
    return replace(system, name=name, retriever=retriever, fingerprints=prints), traces.missing(dataset.split(split))


def controls(
    system: System, dataset: Dataset, use: TraceUse | None = None, split: str = "test", measures: Sequence[str] = ()
) -> Iterator[tuple[Evaluation, Run, int]]:
    """Measure a system without traces, with them and with another query's; each with how many queries lack one.

    Raises:
        InputError: the dataset has no traces.
    """
    variants = [control(system, dataset, mode, use or TraceUse(), split) for mode in MODES]
    for variant, missing in variants:
        yield *evaluate_system(variant, dataset, split, measures), missing


def as_trained(system: System, recipe: Recipe, dataset: Dataset, split: str = "test") -> System:
    """A trained system under its own name, asked as its recipe had it trained: with traces where that has them."""
    plan = recipe.traces
    if plan is None:
        return system
    return replace(control(system, dataset, plan.mode, use_of(recipe), split)[0], name=system.name)


def use_of(recipe: Recipe) -> TraceUse:
    """How a recipe's queries are given their traces."""
    plan = recipe.traces or TracesPlan()  # type: ignore[call-arg]
    return TraceUse(words=plan.words, column=plan.column, seed=recipe.seed)


def with_traces(recipe: Recipe, dataset: Dataset) -> Dataset:
    """A dataset with traces behind its queries, as a recipe wants them; how many training queries lack one is logged.

    Raises:
        InputError: it has no traces, or none of a training query.
    """
    plan = recipe.traces
    if plan is None:
        return dataset
    traces = traces_of(dataset, plan.mode, recipe.seed, name=plan.column, words=plan.words)
    judged = dataset.judgements.get(recipe.data.train, {})
    lacking = traces.missing(judged)
    if lacking and lacking == len(judged):
        raise InputError(
            f"{dataset.name}: the column {plan.column!r} has no trace of any query of {recipe.data.train!r}",
            f"write them: lode data trace DIR --split {recipe.data.train}",
        )
    if lacking:
        _log.warning("%s: %d of %d training queries have no trace and stand alone", dataset.name, lacking, len(judged))
    return traced(dataset, traces)


def controls_datasets(  # noqa: PLR0913 - the options of the verb
    system: str,
    datasets: Sequence[str | Path],
    use: TraceUse | None = None,
    *,
    split: str = "test",
    measures: Sequence[str] = (),
    out: Path | None = None,
    run: Path | None = None,
    passages: int | None = None,
) -> Controls:
    """`controls` on datasets, compared; evaluation and run files go into the folders `out` and `run`.

    Raises:
        InputError: a dataset is not there, lacks the split or traces, or two have the same name.
    """
    missing: dict[str, int] = {}

    def measured(dataset: Dataset, part: str, _: Kept) -> Iterator[tuple[Evaluation, Run]]:
        for evaluation, ranking, count in controls(resolve(system, dataset, passages), dataset, use, part, measures):
            missing[dataset.name] = max(count, missing.get(dataset.name, 0))
            yield evaluation, ranking

    found = measure_variants(datasets, measured, split=split, out=out, run=run, by="--traces")
    comparison = comparing.compare(found, baseline=found[0].system)
    return Controls(tuple(found), comparison, tuple(missing.items()))
