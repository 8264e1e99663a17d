"""Compress: answers written from documents that were compressed into memory tokens (CLaRa, arXiv 2511.18659)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core.errors import ConfigError
from lodesmith.objectives._memory import Read, check_encoders, check_weights, mean, mean_of_documents, tower_of

__all__ = ["Compress"]


class Compress(nn.Module):
    """The language model's loss on answers, read from memory tokens; and memory held near what it stands for.

    A batch is a mapping: `documents`, packed token ids of n documents, or `memory` float [n, t, H], made before by a
    compressor that is frozen; `of` int64 [q, k], the rows that each of q questions is answered from, −1 for none;
    `questions` and `answers`, packed token ids of q texts each. With `document_ids` int64 [n], a document that stands
    on several ranks counts once in `mse`.

    The terms: `answer`, the mean of −log p over the answers' tokens of all ranks; `mse`, the mean over documents and
    dimensions of (mean state of the document's tokens − mean of its memory tokens)², which a batch of `memory` has not.

    Args:
        encoder: what compresses and answers, such as `encoders.memory.MemoryTower`.
        document_encoder: none; one model does both.
        answer: weight of the term.
        mse: weight of the term; with 0 it is left out.
        documents: k, documents that a question is answered from. It is for what makes the batches, as are `kinds` and
            `together`.
        kinds: of examples, such as `qa` and `paraphrase`; null for all that there are.
        together: so many questions on the same documents, at most, are put side by side in the batches, so that what is
            compressed once serves them all.
        known: not used: nothing is compared.

    Raises:
        ConfigError: a setting is out of range, or no term has a weight.
    """

    reads = "answers"
    """What its batches have beside documents."""
    similarity = "aligned"

    def __init__(  # noqa: PLR0913 - two encoders and the options, all by name
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        answer: float = 1.0,
        mse: float = 0.1,
        documents: int = 1,
        kinds: Sequence[str] | None = None,
        together: int = 1,
        known: NDArray[Any] | None = None,
    ) -> None:
        super().__init__()
        check_encoders(document_encoder, "compress")
        if min(documents, together) < 1:
            raise ConfigError(f"documents is {documents} and together {together}", "give at least 1 of each")
        if kinds is not None and not kinds:
            raise ConfigError("kinds is empty", "name some, or leave it at null for all")
        self.weights = check_weights("compress", {"answer": answer, "mse": mse}, ("answer", "mse"))
        self.encoder = encoder
        self.documents, self.kinds, self.together = documents, kinds, together

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms of a batch by name.

        Raises:
            InputError: the batch has neither documents nor memory.
        """
        tower = tower_of(self.encoder)
        read = Read.of(batch, tower)
        terms = {}
        if "answer" in self.weights:
            losses = tower.losses(read.memory, batch["of"], batch["questions"], batch["answers"])
            terms["answer"] = mean(losses, together=self.training)
        if "mse" in self.weights and read.apart is not None:
            terms["mse"] = mean_of_documents(read.apart, batch.get("document_ids"), together=self.training)
        return terms
