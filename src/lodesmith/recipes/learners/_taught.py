"""The half of a `Learner` that knows a teacher: what it makes of the training texts, from its store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lodesmith.core.errors import InputError
from lodesmith.core.joined import folders_of
from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.recipes.pairs import Pairs
from lodesmith.recipes.recipe import Recipe, StagePlan
from lodesmith.recipes.targets import Ceiling, Source, Targets, Taught, ceiling, dimension_of, sources
from lodesmith.recipes.text_pairs import TextPairs, pairs_for

if TYPE_CHECKING:
    from lodesmith.training.stage import Batches

__all__ = ["FromTeacher", "taught"]


def taught(stage: StagePlan) -> str | None:
    """What a stage's objective wants of a teacher: `vectors` of the texts, `interactions` of the pairs, or nothing."""
    return getattr(find("objectives", stage.objective.use), "taught", None)


class FromTeacher(ABC):
    """What a teacher tells a learner.

    Args:
        recipe: of the training.
        dataset: trained on.
        pairs: its judged pairs.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, pairs: Pairs) -> None:
        self.recipe, self.dataset, self.pairs = recipe, dataset, pairs

    @cached_property
    def text_pairs(self) -> TextPairs:
        """Pairs of texts out of the documents."""
        return pairs_for(self.recipe, self.dataset)

    @cached_property
    def targets(self) -> Targets:
        """The teacher's vectors of the training queries and the documents."""
        return Targets(self._sources, self._texts_taught)

    @cached_property
    def held_out(self) -> Targets | None:
        """Those of the validation queries; None where the teacher is not there to make them."""
        try:
            return Targets(self._sources, {"query": self._validated})
        except InputError:
            return None

    @property
    def beside_teacher(self) -> bool:
        """Whether its vectors of queries that no stage sees can be held beside the teacher's."""
        held_out = self.held_out if self.recipe.teachers and self.pairs.validation else None
        return held_out is not None and held_out.dimension == self.encoder.dimension

    @property
    def teacher_dimensions(self) -> list[int]:
        """Of each teacher's vectors; no text is encoded for that."""
        if "_sources" in self.__dict__:
            return [teacher.dimension for teacher in self._sources]
        folders = folders_of(str(self.recipe.data.path))
        return [dimension_of(name, folders) for name in self.recipe.teachers]

    def taught_by(self) -> dict[str, str]:
        """The fingerprint of what is mimicked; empty where nothing is."""
        if not self.recipe.teachers:
            return {}
        return {"teacher": ",".join(teacher.fingerprint for teacher in self.targets.teachers)}

    def ceiling(self) -> Ceiling | None:
        """How much of the teacher's vectors the student's own dimensions can hold; None where it is no vectors that it
        mimics."""
        return ceiling(self.targets.sample(self.recipe.seed), self._native())

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """What is trained."""

    @abstractmethod
    def _native(self) -> int:
        """Dimensions of the encoder without a projection to a teacher's."""

    @cached_property
    def _texts_taught(self) -> dict[Side, Sequence[str]]:
        documents = [document.content for document in self.dataset.documents.values()]
        return {"query": list(self.pairs.queries.values()), "document": documents}

    @property
    def _validated(self) -> list[str]:
        return [self.dataset.queries[key].content for key in self.pairs.validation]

    @cached_property
    def _sources(self) -> list[Source]:
        """The teachers, loaded once at most: validation queries are encoded with the others."""
        taught = self._texts_taught
        try:
            return self._asked_for({**taught, "query": [*taught["query"], *self._validated]})
        except InputError:
            return self._asked_for(taught)  # it was taught elsewhere, and its weights are not here

    def _asked_for(self, texts: Mapping[Side, Sequence[str]]) -> list[Source]:
        return sources(self.recipe.teachers, folders_of(str(self.recipe.data.path)), texts)

    def _with_targets(self, stage: StagePlan, batches: Batches) -> Batches:
        """The batches, with the teacher's vectors where the stage's objective wants them."""
        if taught(stage) != "vectors":
            return batches
        if stage.pairs != "text":
            return Taught(batches, self.targets)
        texts: dict[Side, Sequence[str]] = {"query": self.text_pairs.queries, "document": self.text_pairs.passages}
        return Taught(batches, Targets(self._asked_for(texts), texts))
