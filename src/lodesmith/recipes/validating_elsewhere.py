"""Validation on datasets of their own beside that of the training data, such as BEIR sets; their mean is monitored, but
where a stage has its teacher monitored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.evaluation.measures import parse, score
from lodesmith.recipes.benchmarking import targets
from lodesmith.recipes.learners import Learner, way
from lodesmith.recipes.learners._shared import encoded
from lodesmith.recipes.recipe import TEACHER, Recipe

__all__ = ["MEAN", "Elsewhere", "check_elsewhere", "datasets_of", "monitor_of"]

MEAN = "mean"
"""What stands before a measure that is the mean over the datasets: `mean/nDCG@10`."""


def monitor_of(recipe: Recipe, monitor: str, learner: Learner) -> str:
    """The name of what decides which weights are best: where there are datasets to validate on, the mean over them.

    What is monitored by its teacher and cannot be held beside it is monitored by a ranking.
    """
    if monitor == TEACHER:
        if getattr(learner, "beside_teacher", False):
            return TEACHER
        monitor = recipe.monitors[0]
    return f"{MEAN}/{monitor}" if recipe.evaluation.validate_on else monitor


def check_elsewhere(recipe: Recipe) -> None:
    """Refuse datasets that cannot be validated on, before anything is trained.

    Raises:
        InputError: a dataset is not there, lacks the split, or is called like another.
    """
    datasets_of(recipe)


def datasets_of(recipe: Recipe) -> dict[str, Dataset]:
    """The datasets of `evaluation.validate_on` by name.

    Raises:
        InputError: a dataset is not there, or lacks the split.
        ConfigError: two have one name.
    """
    found: dict[str, Dataset] = {}
    split = recipe.evaluation.validate_split
    for target in targets(recipe.evaluation.validate_on):
        dataset = Dataset.load(target.folder)
        if not dataset.judgements.get(split):
            have = ", ".join(dataset.judgements) or "none"
            raise InputError(
                f"{dataset.name} has no judgements of the split {split!r} to validate on (it has: {have})",
                "set evaluation.validate_split, and keep the split that is reported in the end out of it",
                path=target.folder,
            )
        if dataset.name in found or dataset.name == MEAN:
            raise ConfigError(
                f"evaluation.validate_on: {dataset.name!r} is the name of another", "name it in its dataset.json"
            )
        found[dataset.name] = dataset
    return found


@dataclass
class Elsewhere:
    """The validation of a stage on the datasets of `evaluation.validate_on`, then on the training data; call it.

    Args:
        recipe: names the datasets and their split.
        learner: encodes with the weights as they are.
        own: validates on the training data; None where nothing of it is kept for that.
    """

    recipe: Recipe
    learner: Learner
    own: Callable[[], Mapping[str, float]] | None = None

    def __call__(self) -> Mapping[str, float]:
        """The stages' monitors, by exact search: `mean/MEASURE` over the datasets, `NAME/MEASURE` of each; and what
        `own` measures, by its own names."""
        found = {name: self._measured(dataset) for name, dataset in self._datasets.items()}
        names = self.recipe.monitors
        means = {f"{MEAN}/{name}": fmean(own[name] for own in found.values()) for name in names}
        single = {f"{dataset}/{name}": found[dataset][name] for dataset in found for name in names}
        own = self.own() if self.own else {}
        first = {name: value for name, value in own.items() if name == TEACHER}
        return {**first, **means, **single, **own}

    def _measured(self, dataset: Dataset) -> dict[str, float]:
        split, drop = self.recipe.evaluation.validate_split, dataset.drop_same_id
        queries = {key: query.content for key, query in dataset.queries_of(split).items()}
        measures = [parse(name) for name in self.recipe.monitors]
        index = find("indexes", "flat")(metric=self.learner.metric)
        index.add(self._documents(dataset))
        depth = max(measure.cutoff or 1000 for measure in measures)
        run = index.search(self.learner.queries(queries), depth + drop)
        return score(run, dataset.split(split), measures, drop_same_id=drop).means

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        return datasets_of(self.recipe)

    @cached_property
    def _stored(self) -> dict[str, Vectors]:
        """The documents' vectors of a frozen base, by dataset."""
        return {}

    def _documents(self, dataset: Dataset) -> Vectors:
        from lodesmith.encoders.corpus import VectorCache

        encoder: Any = self.learner.encoder
        if way(self.recipe.encoder) != "vectors":
            documents = dataset.documents
            return encoded(encoder, list(documents), lambda key: documents[key].content, "document")
        if dataset.name not in self._stored:
            items = ((key, document.content) for key, document in dataset.documents.items())
            self._stored[dataset.name] = VectorCache().vectors(encoder.base, items, "document")
        projected: Vectors = encoder.project(self._stored[dataset.name])
        return projected
