"""What learners share that have one model, and neither a teacher's vectors nor stored texts to learn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Encoder
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.pairs import Pairs
from lodesmith.recipes.recipe import Recipe

if TYPE_CHECKING:
    from lodesmith.recipes.targets import Ceiling, Targets
    from lodesmith.recipes.text_pairs import TextPairs

__all__ = ["Alone"]


class _Saved(Encoder, Protocol):
    def save(self, folder: Path) -> Any: ...


E = TypeVar("E", bound=_Saved)


class Alone(ABC, Generic[E]):
    """The part of a `Learner` that is the same for them.

    Args:
        recipe: of the training.
        dataset: what is trained on.
        pairs: its judged pairs.
    """

    no_targets: ClassVar[tuple[str, str]]
    """Why it mimics no vectors, and what to do instead."""
    no_texts: ClassVar[tuple[str, str]]
    """Why it has no pairs of texts, and what to do instead."""

    def __init__(self, recipe: Recipe, dataset: Dataset, pairs: Pairs) -> None:
        self.recipe, self.dataset, self.pairs = recipe, dataset, pairs

    @cached_property
    def encoder(self) -> E:
        """The model, in float32."""
        from lodesmith.training.engine import seed_everything

        seed_everything(self.recipe.seed)
        kind = find("encoders", self.recipe.encoder.use)
        made: E = kind(self.recipe.base, precision="float32", **self.recipe.encoder.settings)
        return made

    @cached_property
    def _begun(self) -> str:
        """The fingerprint of the model as it was before training."""
        return self.encoder.fingerprint

    @property
    def targets(self) -> Targets:
        """None.

        Raises:
            ConfigError: always; a stage that asks for them is refused before.
        """
        raise ConfigError(*self.no_targets)

    @property
    def held_out(self) -> Targets | None:
        """None."""
        return None

    def ceiling(self) -> Ceiling | None:
        """None: it mimics no vectors."""
        return None

    @property
    def text_pairs(self) -> TextPairs:
        """None.

        Raises:
            ConfigError: always; a stage that asks for them is refused before.
        """
        raise ConfigError(*self.no_texts)

    def queries(self, texts: Mapping[str, str]) -> Vectors:
        """Queries with the weights as they are."""
        return self.encoder.encode(list(texts.values()), "query", tuple(texts))

    def save(self, folder: Path) -> None:
        """The model folder."""
        self.encoder.save(folder)

    def save_student(self, folder: Path) -> None:
        """The same: it has no projection to a teacher's vectors."""
        self.save(folder)

    @abstractmethod
    def forecast(self) -> dict[str, Any]:
        """What it costs."""
