"""Triplet: a query's positive document nearer than its negatives by a margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Metric
from lodesmith.losses.triplet import Pick, hinges
from lodesmith.objectives._candidates import Comparison, Scored
from lodesmith.objectives._evidence import Sample
from lodesmith.objectives._regularisers import Beside, Regularisers

__all__ = ["Triplet"]

Negatives = Literal["random", "mined", "batch_all", "batch_hard", "semi_hard"]
_PICKS: Mapping[Negatives, Pick] = {"batch_hard": "hard", "semi_hard": "semi_hard"}


class Triplet(nn.Module):
    """max(0, margin − s(q, p) + s(q, n)), the mean over triplets, over a batch of stored rows or of texts.

    Batches, masks and several processes are those of `objectives.contrast.Contrast`.

    Beside the loss it gives `active`, the share of triplets above 0, which has no weight: where that is small, the
    negatives are too easy. Equal scores, as after a collapse, give a loss of exactly the margin.

    Args:
        encoder: rows [·, d], or packed texts → vectors [·, e].
        document_encoder: the documents' own; None where both sides share `encoder`.
        similarity: `cosine`, `dot`, `euclidean` (−‖q − d‖²: the margin is one between squared distances).
        margin: above 0.
        negatives: `random`, one document drawn at each step from the pool, or where the batch has none from the
            documents of the other rows; `mined`, all that the batch holds for the query; `batch_all`, every candidate
            (documents of the other rows, everything mined, the pool); `batch_hard`, the nearest of these; `semi_hard`,
            the nearest of these that is farther than the positive (where none is, the farthest).
        active_only: mean over the triplets above 0 alone; for `batch_all`, where most soon are 0.
        known: int64 [p, 2] of (query id, document id): known positives. The same numbers as in the batches.
        gather: where several processes train, False keeps each to its own candidates.
        sigreg, covariance, uniformity, gor, prediction, predictor, seed: as of `objectives.contrast.Contrast`.

    Raises:
        ConfigError: there is no such similarity, or a setting is out of range.
    """

    def __init__(  # noqa: PLR0913 - two encoders and the options, all by name
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        similarity: Metric = "cosine",
        margin: float = 0.2,
        negatives: Negatives = "semi_hard",
        active_only: bool = False,
        known: NDArray[np.integer] | None = None,
        gather: bool = True,
        **beside: Unpack[Beside],
    ) -> None:
        super().__init__()
        if not margin > 0:
            raise ConfigError(f"the margin must be above 0, not {margin}")
        if negatives not in get_args(Negatives):
            choices = list(get_args(Negatives))
            raise ConfigError(f"negatives is {negatives!r}", registry.did_you_mean(negatives, choices))
        self.encoder = encoder
        self.document_encoder = document_encoder
        self.margin = margin
        self.negatives: Negatives = negatives
        self.active_only = active_only
        self.regularisers = Regularisers(similarity, **beside)
        self.predictor = beside.get("predictor") if self.regularisers.predicts else None
        self.weights: dict[str, float] = {"triplet": 1.0, "active": 0.0, **self.regularisers.weights}
        self.chance: Mapping[str, float] = {"triplet": margin}
        """What the loss is when the scores say nothing."""
        self._sample: Sample | None = None
        self._compare = Comparison(similarity, known, gather)

    @property
    def needs_mined(self) -> bool:
        """Whether a batch without mined negatives teaches it nothing."""
        return self.negatives == "mined"

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss: `spread`, `rank`, `tied`; and `sigreg_floor`."""
        return {} if self._sample is None else {**self._sample.evidence(), **self.regularisers.evidence}

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms `triplet` and `active` of a batch; in training, those of the regularisers and the prediction too.

        Raises:
            InputError: queries and documents are not the same number, or there are no mined negatives and they are
                asked for.
        """
        if self.negatives == "mined" and "negatives" not in batch:
            raise InputError("the batches hold no mined negatives", "mine some, or choose negatives: semi_hard")
        local = self.negatives == "mined" or (self.negatives == "random" and "pool" in batch)
        scored = self._compare(batch, self.encoder, self.document_encoder, training=self.training, local=local)
        if self.training:
            self._sample = Sample.of(scored)
        values, counted = self._triplets(scored)
        active = values > 0
        # One sum over ranks for both counts; a rank without triplets still takes part in every exchange.
        counts = scored.ranks.sum(torch.stack([counted.sum(), active.sum()])).clamp(min=1)
        world = scored.ranks.world
        loss = values.sum() / counts[1 if self.active_only else 0] * world
        terms = {"triplet": loss, "active": active.sum() / counts[0] * world}
        terms.update(self.regularisers(scored, self.predictor, self.weights))
        return terms

    def _triplets(self, scored: Scored) -> tuple[torch.Tensor, torch.Tensor]:
        scores, labels, mask = scored.scores, scored.labels, scored.mask
        if self.negatives == "random":
            return self._random(scored)
        if self.negatives == "mined":
            mask = mask | (scored.columns.owners[None, :] != labels[:, None])
        return hinges(scores, labels, mask, self.margin, _PICKS.get(self.negatives, "all"))

    def _random(self, scored: Scored) -> tuple[torch.Tensor, torch.Tensor]:
        """One candidate a row, drawn from the pool or the positives of other rows."""
        pool, positives = scored.encoded.pool, len(scored.columns.asked)
        start, end = (0, positives) if pool is None else (len(scored.columns.ids) - len(pool), len(scored.columns.ids))
        real = ~scored.mask.scatter(1, scored.labels[:, None], True)[:, start:end]
        if start == end:  # no rows at all
            return hinges(scored.scores, scored.labels, scored.mask, self.margin)
        chosen = start + self._draw(scored, real, scored.columns.ids[start:end])
        both = torch.cat([scored.labels[:, None], chosen], 1)
        none = torch.stack([torch.zeros_like(scored.labels, dtype=torch.bool), ~real.any(1)], 1)
        return hinges(scored.scores.gather(1, both), torch.zeros_like(scored.labels), none, self.margin)

    def _draw(self, scored: Scored, real: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """int64 [n, 1]: one of the real columns of each row, all of them equally likely.

        The draw depends on the ids and on one number of the process's generator (of the first rank), which a
        checkpoint holds. So it is the same after a resume, and with any number of ranks.
        """
        salt = torch.randint(2**62, (1,)) if self.training else torch.zeros(1, dtype=torch.int64)
        salt = scored.ranks.agree(salt.to(real.device))
        documents, queries = scored.rows[:, 0], scored.rows[:, 1]
        rows = torch.where(queries < 0, scored.labels, queries) * _ODD[0] + documents * _ODD[1]
        columns = torch.where(ids < 0, torch.arange(len(ids), device=ids.device), ids)
        priority = _mixed(_mixed(rows + salt)[:, None] + _mixed(columns * _ODD[2])[None, :])
        return priority.masked_fill(~real, torch.iinfo(torch.int64).min).argmax(1, keepdim=True)


_ODD = (-0x61C8864680B583EB, -0x4B47D0C5A1A6B20D, 0x2545F4914F6CDD1D)
"""Odd multipliers: neighbouring ids land far apart."""


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Scatter int64 over their range, one to one (the finaliser of splitmix64, Steele et al. 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        numbers = (numbers ^ ((numbers >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return numbers ^ ((numbers >> 31) & ((1 << 33) - 1))
