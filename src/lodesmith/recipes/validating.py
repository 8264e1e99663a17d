"""What is measured while training: every validation query against every document, and the stage's loss on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.events import GEOMETRY
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.evaluation.measures import parse, score
from lodesmith.recipes._geometry_sample import GeometrySample
from lodesmith.recipes._teacher_sample import TeacherSample
from lodesmith.recipes.learners import Learner
from lodesmith.recipes.pairs import Pairs, distinct_documents, validation_pairs
from lodesmith.recipes.recipe import TEACHER, Recipe, StagePlan

__all__ = ["LOSS", "MEASURES", "Validating"]

MEASURES = ("nDCG@10", "RR@10", "R@1", "R@5", "R@10", "R@100")
LOSS = "loss"
"""The name of the stage's loss among the measures."""


@dataclass
class Validating:
    """The validation of a stage, with the weights as they are; call it.

    Args:
        recipe: of the training.
        stage: whose loss is measured.
        dataset: its documents are all candidates.
        pairs: their `validation` is asked.
        learner: encodes.
    """

    recipe: Recipe
    stage: StagePlan
    dataset: Dataset
    pairs: Pairs
    learner: Learner

    def __call__(self) -> Mapping[str, float]:
        """Each of `MEASURES` and of the stages' monitors by exact search, and `loss` where the stage's objective needs
        no more than queries and their documents, or all of them; the geometry of some of the vectors, with their
        cosine to the teacher's; and where that of the queries is monitored, it is the first measure, `teacher`."""
        drop, judgements = self.dataset.drop_same_id, self.pairs.validation
        names = dict.fromkeys([*MEASURES, *self.recipe.monitors])
        documents, queries = self.learner.documents(), self.learner.queries(self._texts)
        dense = queries.is_dense and documents.is_dense
        near = self._beside_teacher(queries.values, documents.values) if dense else {}
        first = {TEACHER: near["teacher_queries"]} if self._by_teacher and "teacher_queries" in near else {}
        beside = {} if self._objective is None else {LOSS: self._loss(queries, documents)}
        if self.recipe.evaluation.geometry and dense:
            told = {**self._sample(queries.values, documents.values), **near}
            beside |= {f"{GEOMETRY}{name}": value for name, value in told.items()}
        index = find("indexes", "flat")(metric=self.learner.metric)
        index.add(documents)
        del documents  # a large corpus is in memory once, in the index
        run = index.search(queries, 100 + drop)
        measures = score(run, judgements, [parse(name) for name in names], drop_same_id=drop).means
        return {**first, **measures, **beside}

    def _beside_teacher(self, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Mapping[str, float]:
        """How near the vectors are to a teacher's; nothing where there is none, or nobody looks."""
        if self._teacher is None or not (self.recipe.evaluation.geometry or self._by_teacher):
            return {}
        return self._teacher(queries, documents)

    @property
    def _by_teacher(self) -> bool:
        return self.stage.monitor == TEACHER

    @cached_property
    def _teacher(self) -> TeacherSample | None:
        if not self.recipe.teachers:
            return None
        return TeacherSample.of(self.learner.targets, self.learner.held_out, self._distinct, self.recipe.seed)

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {key: self.dataset.queries[key].content for key in self.pairs.validation}

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return validation_pairs(self.dataset, self.pairs.validation)

    @cached_property
    def _sample(self) -> GeometrySample:
        return GeometrySample.of(self._distinct, self._numbers, self.learner.metric, self.recipe.seed)

    @cached_property
    def _distinct(self) -> NDArray[np.int64]:
        return distinct_documents(self.dataset)

    @cached_property
    def _objective(self) -> Any:
        """The stage's objective over vectors as they are; None where it has none over the validation pairs alone."""
        from torch import nn

        component = self.stage.objective
        kind = find("objectives", component.use)
        if not hasattr(kind, "needs_mined") or not len(self._numbers):
            return None
        made = kind(nn.Identity(), known=self._numbers, **component.settings).eval()
        return None if made.needs_mined else made

    def _loss(self, queries: Vectors, documents: Vectors) -> float:
        """The weighted terms, a mean over the pairs, in batches of the stage's size that are the same each time."""
        import torch

        from lodesmith.data.batching import Documents, Rows

        dense = documents.is_dense
        corpus = {"corpus": Documents(Rows(documents.values, resident=0), self._distinct)} if dense else {}
        order = np.random.default_rng(self.recipe.seed).permutation(len(self._numbers))
        whole = 0.0
        for chosen in np.array_split(order, -(-len(order) // self.stage.batch_size)):
            numbers = torch.from_numpy(self._numbers[chosen])
            batch = {
                "queries": _part(queries, self._numbers[chosen, 0]),
                "documents": _part(documents, self._numbers[chosen, 1]),
                "query_ids": numbers[:, 0],
                "document_ids": numbers[:, 1],
                **corpus,
            }
            with torch.no_grad():
                terms = self._objective(batch)
            whole += len(chosen) * sum(self._objective.weights[name] * float(value) for name, value in terms.items())
        return whole / len(order)


def _part(vectors: Vectors, chosen: NDArray[np.int64]) -> Any:
    """Some items as an objective gets them: rows [n, d], or packed ones of several rows each."""
    import torch

    taken = vectors.take(chosen)
    values = torch.from_numpy(taken.values)
    return values if vectors.is_dense else {"values": values, "offsets": torch.from_numpy(taken.offsets)}
