"""The collapse of a public implementation, provoked: a recurrent tower with its faults, which `collapse.yaml` trains.

    PYTHONPATH=examples lode train examples/collapse.yaml data=DIR --out collapse
    lode doctor collapse

The loss stays at the margin; the training stops and says why. The same recipe with a tower that reads its texts:

    lode train examples/collapse.yaml data=DIR encoder.use=rnn --out valid
    lode train examples/collapse.yaml data=DIR encoder.use=rnn encoder.pooling=mean --out mean

The first of the two reads the last valid state, and learns, slowly: a plain cell has forgotten the beginning of a text
when it is at its end. The second reads the mean over all valid steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lodesmith.data.text_batches import pad
from lodesmith.encoders import Recurrent, Vocabulary

if TYPE_CHECKING:
    from lodesmith.encoders._tower_folder import Part

PLACES = 256
"""Words that every text is padded to; `max_length` must be below."""


class ReadsThePadding(Recurrent):
    """A recurrent tower whose vector is the state after the padding, over frozen random word vectors.

    Three faults, none of which raises an error:

    1. Texts are padded to `PLACES` words, and the state after the last place is read, not that after the last word.
    2. The pad row is not zero, so that every step of padding drives the state, always towards the same point.
    3. The word vectors are random and frozen, so that nothing can be learned around it.

    A plain cell forgets: after some dozen steps of padding all texts have the same vector. All scores are equal then,
    and the triplet loss is its margin, for ever.

    Args:
        vocabulary: of the words.
        settings: those of `Recurrent`, for one layer in one direction.
    """

    def __init__(self, vocabulary: Vocabulary, **settings: Any) -> None:
        super().__init__(vocabulary, **settings)
        self.embedding = nn.Embedding(*self.embedding.weight.shape)  # by default the pad row is drawn like any other
        self.embedding.weight.requires_grad_(False)
        self.cell.reset_parameters()  # torch's own first weights, as that implementation had them

    def forward(self, packed: Mapping[str, Tensor]) -> Tensor:
        """The vectors [n, d] of n packed texts."""
        ids = pad(packed)["input_ids"]
        ids = nn.functional.pad(ids, (0, PLACES - ids.shape[1]))
        _, last = self.cell(self.embedding(ids.T))
        state: Tensor = last[0]
        return state

    def part(self) -> Part:
        """As it is saved: under its own name, so that nobody loads it as the tower that reads its weights rightly."""
        made = super().part()
        made.settings["use"] = "faulty_tower.ReadsThePadding"
        return made
