"""Contrast: a query's positive document against other documents, by InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Metric
from lodesmith.losses.infonce import infonce

__all__ = ["Contrast"]

Negatives = Literal["batch", "own"]


class Contrast(nn.Module):
    """InfoNCE over a batch of stored or encoded rows.

    A batch is a mapping: `queries` [n, d]; `documents` [n, d], row i the positive of query i; and where there are such,
    `negatives` [n, h, d] (mined for each query) and `pool` [p, d] (documents that are negatives of every query). With
    `query_ids` [n], `document_ids` [n], `negative_ids` [n, h] and `pool_ids` [p] (int64, −1 for an empty place)
    documents that are no true negatives leave the softmax: those with the positive's id, those of rows with the same
    query, and all that `known` lists for the query.

    Args:
        encoder: rows [·, d] → vectors [·, e].
        document_encoder: the documents' own; None where both sides share `encoder`.
        similarity: `cosine`, `dot`, `euclidean` (−‖q − d‖²), or another of the similarity family.
        temperature: divides the similarity.
        negatives: `batch`, the documents of all rows (and all mined ones); or `own`, only those mined for the query.
            The pool counts in both.
        symmetric: documents look for their queries too; needs `batch`.
        known: int64 [p, 2] of (query id, document id): known positives. The same numbers as in the batches.

    Raises:
        ConfigError: there is no such similarity, or a setting is out of range.
    """

    chance: Mapping[str, float]
    """What the loss is when the scores say nothing: log of the number of candidates in the last batch."""

    def __init__(
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        similarity: Metric = "cosine",
        temperature: float = 0.05,
        negatives: Negatives = "batch",
        symmetric: bool = False,
        known: NDArray[np.integer] | None = None,
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
        self.similarity = registry.find("similarity", similarity)
        self.temperature = temperature
        self.negatives = negatives
        self.symmetric = symmetric
        self.weights: Mapping[str, float] = {"infonce": 1.0}
        self.chance = {}
        # Not buffers: several processes would send them round at every step.
        self._starts, self._listed = _by_query(known)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The term `infonce` of a batch.

        Raises:
            InputError: queries and documents are not the same number.
        """
        queries, documents = batch["queries"], batch["documents"]
        if len(queries) != len(documents):
            raise InputError(f"a batch has {len(queries)} queries but {len(documents)} documents")
        columns = [documents]
        if "negatives" in batch:
            columns.append(batch["negatives"].flatten(0, 1))
        if "pool" in batch:
            columns.append(batch["pool"])
        scores = self._scores(queries, torch.cat(columns) if len(columns) > 1 else documents)
        mask = self._mask(batch, scores)
        self.chance = {"infonce": self._chance(batch, scores)}
        return {"infonce": infonce(scores, None, mask, self.temperature, self.symmetric)}

    def _scores(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Similarities [n, m]; a shared encoder runs once over both sides."""
        if self.document_encoder is not None:
            return cast(torch.Tensor, self.similarity(self.encoder(queries), self.document_encoder(documents)))
        encoded = self.encoder(torch.cat([queries, documents]))
        return cast(torch.Tensor, self.similarity(encoded[: len(queries)], encoded[len(queries) :]))

    def _chance(self, batch: Mapping[str, torch.Tensor], scores: torch.Tensor) -> float:
        mined = batch["negatives"].shape[1] if "negatives" in batch else 0
        pooled = len(batch["pool"]) if "pool" in batch else 0
        return math.log(max(1, scores.shape[1] if self.negatives == "batch" else 1 + mined + pooled))

    # ------------------------------------------------------- what is no negative

    def _mask(self, batch: Mapping[str, torch.Tensor], scores: torch.Tensor) -> torch.Tensor | None:
        """Bool [n, m]: true where a column is no negative of the row; None where nothing is known about it."""
        mask = None if "document_ids" not in batch else self._no_negatives(batch)
        if self.negatives == "own":
            others = self._others(batch, scores)
            mask = others if mask is None else mask | others
        return mask

    def _no_negatives(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        own = batch["document_ids"]
        parts = [own]
        if "negatives" in batch:
            parts.append(batch["negative_ids"].flatten())
        if "pool" in batch:
            parts.append(batch["pool_ids"])
        columns = torch.cat(parts) if len(parts) > 1 else own
        mask = columns[None, :] == own[:, None]
        if "query_ids" in batch:
            queries = batch["query_ids"]
            mask[:, : len(own)] |= queries[None, :] == queries[:, None]
            if len(self._listed):
                mask |= self._known(queries, columns)
        if len(parts) > 1:
            mask |= columns[None, :] < 0
        return mask

    def _known(self, queries: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Bool [n, m]: whether the column's document is a known positive of the row's query.

        The known documents of the batch's queries are looked up among the sorted columns: no n × m × positives.
        """
        if self._starts.device != queries.device:
            self._starts, self._listed = self._starts.to(queries.device), self._listed.to(queries.device)
        last = len(self._starts) - 2
        counted = queries.clamp(0, last)
        starts = self._starts[counted]
        counts = torch.where((queries >= 0) & (queries <= last), self._starts[counted + 1] - starts, 0)
        rows = torch.repeat_interleave(torch.arange(len(queries), device=queries.device), counts)
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        documents = self._listed[starts[rows] + within]
        distinct, place_of = torch.unique(columns, return_inverse=True)
        place = torch.searchsorted(distinct, documents).clamp(max=len(distinct) - 1)
        hit = distinct[place] == documents
        table = torch.zeros(len(queries), len(distinct), dtype=torch.bool, device=queries.device)
        table[rows[hit], place[hit]] = True
        return table[:, place_of]

    def _others(self, batch: Mapping[str, torch.Tensor], scores: torch.Tensor) -> torch.Tensor:
        """Bool [n, m]: the columns that belong to other rows."""
        n = len(scores)
        owners = torch.arange(n, device=scores.device)
        if "negatives" in batch:
            owners = torch.cat([owners, owners.repeat_interleave(batch["negatives"].shape[1])])
        mask = torch.ones_like(scores, dtype=torch.bool)
        mask[:, : len(owners)] = owners[None, :] != torch.arange(n, device=scores.device)[:, None]
        mask[:, len(owners) :] = False
        return mask


def _by_query(known: NDArray[np.integer] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Known pairs sorted by query: where each query's documents start (int64 [queries + 1]), and the documents."""
    if known is None or not len(known):
        return torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    if known.ndim != 2 or known.shape[1] != 2 or known.min() < 0:
        raise InputError(f"known must be [p, 2] of ids from 0, not {list(known.shape)}")
    pairs = np.unique(known.astype(np.int64), axis=0)
    counts = np.bincount(pairs[:, 0])
    starts = np.concatenate([[0], np.cumsum(counts)])
    return torch.from_numpy(starts), torch.from_numpy(np.ascontiguousarray(pairs[:, 1]))
