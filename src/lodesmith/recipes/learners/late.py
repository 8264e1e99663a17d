"""Late interaction from texts: a transformer's token states and a projection of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.learners._taught import taught
from lodesmith.recipes.learners.texts import Texts

if TYPE_CHECKING:
    from lodesmith.encoders.tokens import LateInteractionEncoder, PackedTokens
    from lodesmith.recipes.recipe import StagePlan
    from lodesmith.recipes.targets import Ceiling
    from lodesmith.training.stage import Batches

__all__ = ["LateTexts"]

SAMPLE = 256
"""Documents from which a first projection is made."""


class LateTexts(Texts):
    """A late-interaction encoder that is trained; a `Learner`."""

    @cached_property
    def encoder(self) -> LateInteractionEncoder:  # type: ignore[override]  # it has the same parts under other names
        """The encoder; a new projection begins at the principal components of the documents' token states."""
        from lodesmith.training.engine import seed_everything

        seed_everything(self.recipe.seed)
        kind = find("encoders", self.recipe.encoder.use)
        made: LateInteractionEncoder = kind(self.recipe.base, precision="float32", **self.recipe.encoder.settings)
        if made.is_new:
            made.begin(self._some)
        return made

    @property
    def _some(self) -> list[str]:
        """A sample of the documents, the same for a seed."""
        keys = list(self.dataset.documents)
        chosen = np.random.default_rng(self.recipe.seed).permutation(len(keys))[:SAMPLE]
        return [self.dataset.documents[keys[at]].content for at in chosen]

    def identity(self) -> dict[str, str]:
        """The fingerprint of what training begins with, and of the teacher."""
        return {"begun": self._begun} | self.taught_by()

    @cached_property
    def _begun(self) -> str:
        return self.encoder.fingerprint

    @property
    def beside_teacher(self) -> bool:
        """No: a teacher has one vector a text."""
        return False

    def taught_by(self) -> dict[str, str]:
        """The fingerprint of what is mimicked; empty where nothing is."""
        return {"teacher": self._teacher.fingerprint} if self._interacts else super().taught_by()

    def ceiling(self) -> Ceiling | None:
        """None where it mimics interactions, which have no dimensions."""
        return None if self._interacts else super().ceiling()

    @property
    def _interacts(self) -> bool:
        """Whether a stage mimics a teacher's interactions."""
        return any(taught(stage) == "interactions" for stage in self.recipe.stages)

    @cached_property
    def _teacher(self) -> Encoder:
        from lodesmith.recipes.interactions import check_interacts
        from lodesmith.recipes.systems import load_encoder

        found = load_encoder(self.recipe.teachers[0])
        check_interacts(found)
        return found

    def forecast(self) -> dict[str, Any]:
        """As of any texts; a teacher that has no interactions is refused here too."""
        if self._interacts:
            _ = self._teacher
        return super().forecast()

    def _with_targets(self, stage: StagePlan, batches: Batches) -> Batches:
        """The batches, with the teacher's vectors or interactions where the stage's objective wants them."""
        if taught(stage) != "interactions":
            return super()._with_targets(stage, batches)
        from lodesmith.encoders.corpus import default_cache
        from lodesmith.objectives.mid import read_attention
        from lodesmith.recipes.interactions import Interacting, interactions_of

        settings = read_attention(stage.objective.settings.get("attention", 1.0))
        queries, documents, pairs, _ = self._material(stage)
        numbered = np.unique(np.stack([queries.same[pairs[:, 0]], documents.same[pairs[:, 1]]], 1), axis=0)
        texts = self._texts_of(stage)
        found = interactions_of(
            self._teacher,
            [(texts["query"][query], texts["document"][document]) for query, document in numbered.tolist()],
            softness=settings.softness,
            top=settings.top,
            cache=default_cache(),
        )
        return Interacting(batches, found, {(q, d): at for at, (q, d) in enumerate(numbered.tolist())})

    def _texts_of(self, stage: StagePlan) -> Mapping[Side, Sequence[str]]:
        """What the numbers of a stage's pairs stand for."""
        if stage.pairs == "text":
            return {"query": self.text_pairs.queries, "document": self.text_pairs.passages}
        return self._texts_taught

    def _native(self) -> int:
        return self.encoder.dimension

    @cached_property
    def _sides(self) -> dict[Side, PackedTokens]:  # type: ignore[override]
        """The same weights; two modules only where the sides are read differently."""
        from lodesmith.encoders.tokens import PackedTokens

        _ = self._begun  # before anything changes
        document = PackedTokens(self.encoder, "document")
        query = PackedTokens(self.encoder, "query") if self.encoder.sides_differ else document
        return {"query": query, "document": document}

    @property
    def _reader(self) -> Any:
        return self.encoder

    def _block(self, flat: NDArray[np.int64], offsets: NDArray[np.int64], ids: Sequence[str], side: Side) -> Vectors:
        values, bounds = self.encoder.values(np.split(flat, offsets[1:-1]), side)
        # A corpus of token vectors is large, and is kept in float16 when it is searched too.
        return Vectors(values.astype(np.float16) if side == "document" else values, bounds, tuple(ids))
