"""Contrast: a query's positive document against other documents, by InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Metric
from lodesmith.losses.infonce import infonce
from lodesmith.objectives._candidates import Comparison, Scored
from lodesmith.objectives._evidence import Sample

__all__ = ["Contrast"]

Negatives = Literal["batch", "own"]


class Contrast(nn.Module):
    """InfoNCE over a batch of stored rows or of texts.

    A batch is a mapping: `queries` [n, d]; `documents` [n, d], row i the positive of query i; and where there are such,
    `negatives` [n, h, d] (mined for each query) and `pool` [p, d] (documents that are negatives of every query). With
    `query_ids` [n], `document_ids` [n], `negative_ids` [n, h] and `pool_ids` [p] (int64, −1 for an empty place)
    documents that are no true negatives leave the softmax: those with the positive's id, those of rows with the same
    query, and all that `known` lists for the query.

    In place of rows each of the four may be packed texts: `ids` int64 [total] and `offsets` int64 [k + 1]; the packed
    negatives are those of the filled places, row by row. A shared encoder runs once over all of them.

    Where several processes train, the documents of all of them are candidates, and the mean of their terms and
    gradients is the term and gradient of one process with the whole batch.

    Args:
        encoder: rows [·, d], or packed texts → vectors [·, e].
        document_encoder: the documents' own; None where both sides share `encoder`.
        similarity: `cosine`, `dot`, `euclidean` (−‖q − d‖²), or another of the similarity family.
        temperature: divides the similarity.
        negatives: `batch`, the documents of all rows (and all mined ones); or `own`, only those mined for the query.
            The pool counts in both.
        symmetric: documents look for their queries too; needs `batch`.
        known: int64 [p, 2] of (query id, document id): known positives. The same numbers as in the batches.
        gather: False keeps each process to its own candidates.

    Raises:
        ConfigError: there is no such similarity, or a setting is out of range.
    """

    chance: Mapping[str, float]
    """What the loss is when the scores say nothing: log of the number of candidates in the last batch."""

    def __init__(  # noqa: PLR0913 - two encoders and the options, all by name
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        similarity: Metric = "cosine",
        temperature: float = 0.05,
        negatives: Negatives = "batch",
        symmetric: bool = False,
        known: NDArray[np.integer] | None = None,
        gather: bool = True,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"the temperature must be above 0, not {temperature}")
        if negatives not in ("batch", "own"):
            raise ConfigError(f"negatives is {negatives!r}", registry.did_you_mean(negatives, ["batch", "own"]))
        if symmetric and negatives != "batch":
            raise ConfigError("a symmetric loss needs negatives: batch", "set symmetric to false")
        self.encoder = encoder
        self.document_encoder = document_encoder
        self.temperature = temperature
        self.negatives = negatives
        self.symmetric = symmetric
        self.weights: Mapping[str, float] = {"infonce": 1.0}
        self.chance = {}
        self._sample: Sample | None = None
        self._compare = Comparison(similarity, known, gather)

    @property
    def needs_mined(self) -> bool:
        """Whether a batch without mined negatives teaches it nothing."""
        return self.negatives == "own"

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss: `spread`, `rank`, `tied`."""
        return {} if self._sample is None else self._sample.evidence()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The term `infonce` of a batch.

        Raises:
            InputError: queries and documents are not the same number.
        """
        own = self.negatives == "own"
        scored = self._compare(batch, self.encoder, self.document_encoder, training=self.training, local=own)
        self.chance = {"infonce": math.log(max(1, self._candidates(batch, scored)))}
        if self.training:
            self._sample = Sample.of(scored)
        mask = scored.mask | scored.others if own else scored.mask
        apart = self.symmetric and scored.ranks.world > 1
        loss = infonce(scored.scores, scored.labels, mask, self.temperature, self.symmetric and not apart)
        if apart:
            scores, back = self._compare.backwards(scored)
            loss = (loss + infonce(scores, scored.labels, back, self.temperature)) / 2
        return {"infonce": loss * scored.ranks.share if scored.ranks.world > 1 else loss}

    def _candidates(self, batch: Mapping[str, Any], scored: Scored) -> int:
        """Candidates of a row, the masked ones among them."""
        if self.negatives == "batch":
            return scored.scores.shape[1]
        places = batch["negative_ids"] if "negative_ids" in batch else batch.get("negatives")
        pool = scored.encoded.pool
        return 1 + (0 if places is None else places.shape[1]) + (0 if pool is None else len(pool))
