"""A language model's loss on texts, and on the answers in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.objectives._memory import check_encoders, check_weights, mean

__all__ = ["Language"]


class Language(nn.Module):
    """Each token is predicted from those before it.

    A batch is a mapping: `ids` int64 [n, l], padded behind; `text` and `answer` bool [n, l]: which tokens are of the
    texts, and which of them are answers. The first token of a row is predicted from nothing, and does not count.

    The terms: `answer`, the mean of −log p over the answers' tokens of all ranks; `text`, that over all.

    Args:
        encoder: a causal language model of transformers.
        document_encoder: none.
        answer: weight of the term.
        text: weight of the term.
        known: not used.

    Raises:
        ConfigError: a weight is no number from 0, or none has any.
    """

    reads = "language"
    """What its batches have."""

    def __init__(
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        answer: float = 1.0,
        text: float = 0.5,
        known: NDArray[Any] | None = None,
    ) -> None:
        super().__init__()
        check_encoders(document_encoder, "language")
        self.weights = check_weights("language", {"answer": answer, "text": text}, ("answer", "text"))
        self.encoder = encoder
        self._right: torch.Tensor | None = None

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last batch says beside its loss: `accuracy`, the share of the answers' tokens that would be written,
        each behind the right ones."""
        return {} if self._right is None else {"accuracy": self._right}

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The terms of a batch by name."""
        logits = self.encoder(input_ids=batch["ids"], attention_mask=batch["text"].long(), use_cache=False).logits
        found = logits[:, :-1].float()
        losses = nn.functional.cross_entropy(found.transpose(1, 2), batch["ids"][:, 1:], reduction="none")
        asked = batch["answer"][:, 1:]
        self._right = (found.detach().argmax(2) == batch["ids"][:, 1:])[asked].float().mean() if asked.any() else None
        masks = {"answer": asked, "text": batch["text"][:, 1:]}
        return {name: mean(losses[masks[name]], together=self.training) for name in self.weights}
