"""What ways of training share: how an encoder is built from its recipe, and pairs of texts as batches of token ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.protocols import Encoder, Metric, Side
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.data.tokens import Tokens
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.learners._taught import FromTeacher
from lodesmith.recipes.pairs import mined
from lodesmith.recipes.recipe import Component, Recipe, StagePlan

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders.projected import IsotropicGaussianEncoder
    from lodesmith.training.stage import Batches

M = TypeVar("M", bound="nn.Module")

__all__ = ["BLOCK", "MIXED", "Projected", "TokenPairs", "computed", "encoded", "projected", "settings_of"]

BLOCK = 4096
"""Texts encoded at once while validating."""

MIXED = 10.0
"""Lengths are mixed: packed batches pad nothing, and batches of like lengths taught less (docs/log.md)."""


def settings_of(component: Component, recipe: Recipe) -> dict[str, Any]:
    """An encoder's settings. Where they do not say how its vectors are compared, the last stage does."""
    settings = component.settings
    if "metric" not in settings and (metric := recipe.stages[-1].objective.settings.get("similarity")):
        settings["metric"] = metric
    return settings


def computed(recipe: Recipe, module: M) -> M:
    """A module that trains, computed by what the recipe says."""
    if recipe.engine.arrays == "torch":
        return module
    from lodesmith.encoders._mlx_towers import on_mlx

    return on_mlx(module)


def projected(recipe: Recipe, dimension: int | None = None, **base: Any) -> IsotropicGaussianEncoder:
    """Base and projection of a recipe, seeded before the projection is drawn.

    Args:
        recipe: names the base and the encoder.
        dimension: of the result, where the recipe leaves it open and the base has another.
        base: options of the base, such as its precision.
    """
    from lodesmith.encoders.transformer import TransformerEncoder
    from lodesmith.training.engine import seed_everything

    under = TransformerEncoder(recipe.base, **base)
    seed_everything(recipe.seed)
    kind = find("encoders", recipe.encoder.use)
    settings = settings_of(recipe.encoder, recipe)
    if settings.get("output_dim") is None and dimension not in (None, under.dimension):
        settings["output_dim"] = dimension
    encoder: IsotropicGaussianEncoder = kind(base_model=under, **settings)
    return encoder


class Projected(ABC):
    """What is told of a base with a projection, however it is trained."""

    @property
    @abstractmethod
    def encoder(self) -> IsotropicGaussianEncoder:
        """Base and projection."""

    @property
    def metric(self) -> Metric:
        """How its vectors are compared."""
        return self.encoder.metric

    def identity(self) -> dict[str, str]:
        """The fingerprint of the base as it was before training."""
        return {"base": self.encoder.base.fingerprint}

    def save_student(self, folder: Path) -> None:
        """Write the base alone, as it is now, where the encoder is a student; else what `save` writes."""
        getattr(self.encoder, "save_student", self.encoder.save)(folder)


def encoded(encoder: Encoder, keys: Sequence[str], text: Callable[[str], str], side: Side) -> Vectors:
    """The vectors of texts, a block at a time.

    Args:
        encoder: with the weights as they are.
        keys: ids, in the order of the vectors.
        text: id → text.
        side: of the texts.
    """
    blocks = [keys[start : start + BLOCK] for start in range(0, len(keys), BLOCK)]
    found = [encoder.encode([text(key) for key in block], side, block) for block in blocks]
    return Vectors.joined(found) if found else encoder.encode([], side)


class TokenPairs(FromTeacher):
    """The half of a `Learner` that feeds an encoder of token ids."""

    def batches(self, stage: StagePlan) -> Batches:
        """Pairs of packed token ids, with the mined negatives where the recipe names them, or single texts; and with
        the teacher's vectors where the objective wants them.

        Raises:
            InputError: no pair is left whose texts have tokens.
        """
        return self._with_targets(stage, self._plain(stage))

    def _plain(self, stage: StagePlan) -> Batches:
        """The batches without a teacher's vectors."""
        from lodesmith.data.text_batches import TextBatches

        if stage.pairs == "none":
            return self._singles(stage)
        queries, documents, pairs, known = self._material(stage)
        usable = (queries.lengths()[pairs[:, 0]] > 0) & (documents.lengths()[pairs[:, 1]] > 0)
        if not usable.any():
            raise InputError(f"{self.dataset.name}: no training pair has words on both sides", "`lode data check DIR`")
        negatives = None
        if stage.pairs == "judged":
            negatives = mined(self.dataset, self.pairs, self.recipe, documents.lengths() > 0)
        return TextBatches(
            queries,
            documents,
            pairs[usable],
            batch_size=stage.batch_size,
            negatives=None if negatives is None else negatives[usable],
            known=known,
            seed=self.recipe.seed,
            noise=MIXED,
            apart=False,  # objectives mask known positives
            shard=ranks(),
        )

    def _singles(self, stage: StagePlan) -> Batches:
        """Each document and training query by itself."""
        from lodesmith.data.single_texts import SingleTexts

        limit, seed = self.recipe.data.limit, self.recipe.seed
        return SingleTexts(
            self._asked, self._stored, batch_size=stage.batch_size, limit=limit, seed=seed, shard=ranks()
        )

    def _material(self, stage: StagePlan) -> tuple[Tokens, Tokens, NDArray[np.int64], NDArray[np.int64]]:
        """Queries, documents, pairs and known positives of a stage."""
        if stage.pairs == "judged":
            return self._asked, self._stored, self.pairs.pairs, self.pairs.known
        made = self.text_pairs
        return self._tokens("query", made.queries), self._tokens("document", made.passages), made.pairs, made.pairs

    @cached_property
    def _stored(self) -> Tokens:
        return self._tokens("document", (document.content for document in self.dataset.documents.values()))

    @cached_property
    def _asked(self) -> Tokens:
        return self._tokens("query", self.pairs.queries.values())

    @abstractmethod
    def _tokens(self, side: Side, texts: Iterable[str]) -> Tokens:
        """The tokens of texts, as the encoder of that side reads them."""
