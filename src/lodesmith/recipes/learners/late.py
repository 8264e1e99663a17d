"""Late interaction from texts: a transformer's token states and a projection of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.protocols import Side
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.learners.texts import Texts

if TYPE_CHECKING:
    from lodesmith.encoders.tokens import LateInteractionEncoder, PackedTokens

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
