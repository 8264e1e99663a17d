"""What a recipe trains, and how it is fed: one file a way. The loop, validation and the run directory are the same.

An encoder says by its `trained_on` which way is its own; `vectors` (a frozen base, read from the store) where it says
nothing, or `texts` where its base trains too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from lodesmith.core.protocols import Encoder, Metric
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.core.records import Dataset
    from lodesmith.recipes.pairs import Pairs
    from lodesmith.recipes.recipe import Component, Recipe, StagePlan
    from lodesmith.recipes.targets import Ceiling, Targets
    from lodesmith.recipes.text_pairs import TextPairs
    from lodesmith.training.stage import Batches

__all__ = ["Learner", "Probe", "learner", "way"]

Probe = tuple[Callable[[Sequence[Any]], Any], Any, Any]


class Learner(Protocol):
    """A recipe's encoder while it is trained on a dataset."""

    @property
    def encoder(self) -> Encoder:
        """What is trained, with the weights as they are."""
        ...

    @property
    def metric(self) -> Metric:
        """How its vectors are compared."""
        ...

    def identity(self) -> dict[str, str]:
        """Fingerprints of what the training starts from, by name: a run is resumed only with the same."""
        ...

    def encoders(self) -> dict[str, nn.Module | None]:
        """What an objective gets, by the name of its argument."""
        ...

    @property
    def targets(self) -> Targets:
        """What a teacher makes of the texts, where the recipe names one."""
        ...

    @property
    def held_out(self) -> Targets | None:
        """The same of the validation queries; None where the teacher is not there to make them."""
        ...

    def ceiling(self) -> Ceiling | None:
        """How much of the teacher's vectors the student's own dimensions can hold; None where it is no vectors that it
        mimics."""
        ...

    @property
    def text_pairs(self) -> TextPairs:
        """Pairs of texts out of the documents, for the stages that learn from them."""
        ...

    def batches(self, stage: StagePlan) -> Batches:
        """The training batches of a stage."""
        ...

    def probes(self) -> Sequence[Probe]:
        """What shows whether padding moves a vector, for each encoder over texts: how it encodes, a short item and a
        long one, as `training.health.probed` takes them."""
        ...

    def documents(self) -> Vectors:
        """Every document of the dataset, encoded with the weights as they are."""
        ...

    def queries(self, texts: Mapping[str, str]) -> Vectors:
        """Queries (id → text), encoded with the weights as they are."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model folder."""
        ...

    def save_student(self, folder: Path) -> None:
        """Write the model folder of what mimics a teacher, in its own dimension, without a projection to the
        teacher's."""
        ...

    def forecast(self) -> dict[str, Any]:
        """What training will take: seconds, bytes and parameters, measured on a sample."""
        ...


def way(encoder: Component) -> str:
    """How a recipe's encoder is trained: the name of one of the files here."""
    own: str = getattr(find("encoders", encoder.use), "trained_on", "vectors")
    return "texts" if own == "vectors" and not encoder.settings.get("freeze_base", True) else own


def learner(recipe: Recipe, dataset: Dataset, pairs: Pairs) -> Learner:
    """The way in which this recipe's encoder is trained."""
    module = import_module(f"lodesmith.recipes.learners.{way(recipe.encoder)}")
    return cast(Learner, getattr(module, module.__all__[0])(recipe, dataset, pairs))
