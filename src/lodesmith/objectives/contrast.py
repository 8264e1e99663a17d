"""Contrast: a query's positive document against other documents, by InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import logsigmoid

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Metric
from lodesmith.losses.infonce import infonce
from lodesmith.objectives._candidates import Comparison, Scored, own_candidates, wide
from lodesmith.objectives._corpus import Blocks, Corpus, Struck, log_sums
from lodesmith.objectives._evidence import Sample
from lodesmith.objectives._regularisers import Beside, Regularisers

__all__ = ["Contrast"]

Negatives = Literal["batch", "own", "corpus"]


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
        negatives: `batch`, the documents of all rows (and all mined ones); `own`, only those mined for the query (the
            pool counts in both); or `corpus`, every document there is: a batch then has `corpus`, a `Corpus` of stored
            rows, to which mined ones and the pool belong anyway. They are encoded and scored block by block in both
            passes, in memory that does not grow with them.
        symmetric: documents look for their queries too; needs `batch`.
        dimensions: the first so many components must rank by themselves too, each of these numbers as much as all of
            them: vectors that may be cut (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147). Not with `corpus`.
        known: int64 [p, 2] of (query id, document id): known positives. The same numbers as in the batches.
        gather: False keeps each process to its own candidates.
        sigreg: a regulariser of the queries' and documents' vectors, `losses.sigreg`: {weight: 0.1}; with the loss's
            own settings (`directions`, `knots`, `reach`); and where the weight is to change, `begin`, the one at first,
            and `steps`, the number of batches that lead to `weight` by `schedule`, linear or cosine. `of` is `unit`,
            vectors scaled to length √e, as by default under cosine, or `raw`. It counts in training only: the loss
            of a validation is comparable between weights.
        covariance: the same of `losses.covariance`.
        uniformity: the same of `losses.uniformity`.
        gor: the same of `losses.gor`.
        prediction: {weight: 1}, the default where there is a predictor; and `begin`, `steps`, `schedule`. The mean of
            1 − cos(predictor(q), d) under cosine, else of ‖predictor(q) − d‖² / e; in training only.
        predictor: query vectors [·, e] → document vectors [·, e]; trains with the encoders.
        seed: of the regularisers' directions and pairs.

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
        dimensions: tuple[int, ...] = (),
        known: NDArray[np.integer] | None = None,
        gather: bool = True,
        **beside: Unpack[Beside],
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"the temperature must be above 0, not {temperature}")
        if negatives not in get_args(Negatives):
            nearest = registry.did_you_mean(negatives, list(get_args(Negatives)))
            raise ConfigError(f"negatives is {negatives!r}", f"{nearest}; in a recipe also auto")
        if symmetric and negatives != "batch":
            raise ConfigError("a symmetric loss needs negatives: batch", "set symmetric to false")
        if dimensions and (symmetric or negatives == "corpus" or min(dimensions) < 1):
            raise ConfigError(
                f"dimensions {list(dimensions)} are numbers from 1, without symmetric and negatives: corpus",
                "leave one of them out",
            )
        self.encoder = encoder
        self.document_encoder = document_encoder
        self.similarity = similarity
        self.temperature = temperature
        self.negatives = negatives
        self.symmetric = symmetric
        self.dimensions = tuple(dimensions)
        self.regularisers = Regularisers(similarity, **beside)
        self.predictor = beside.get("predictor") if self.regularisers.predicts else None
        self.weights: dict[str, float] = {"infonce": 1.0, **self.regularisers.weights}
        self.chance = {}
        self._sample: Sample | None = None
        self._compare = Comparison(similarity, known, gather)

    @property
    def needs_mined(self) -> bool:
        """Whether a batch without mined negatives teaches it nothing."""
        return self.negatives == "own"

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss: `spread`, `rank`, `tied`; and `sigreg_floor`."""
        return {} if self._sample is None else {**self._sample.evidence(), **self.regularisers.evidence}

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The term `infonce` of a batch; in training, those of the regularisers and the prediction beside it.

        Raises:
            InputError: queries and documents are not the same number, or the corpus is missing.
        """
        whole = self.negatives == "corpus"
        if whole:
            batch = {name: part for name, part in batch.items() if name not in ("negatives", "negative_ids", "pool")}
        local = self.negatives != "batch"
        scored = self._compare(batch, self.encoder, self.document_encoder, training=self.training, local=local)
        self.chance = {"infonce": math.log(max(1, self._candidates(batch, scored)))}
        if self.training:
            self._sample = Sample.of(scored)
        loss = self._against_corpus(batch, scored) if whole else self._against_batch(scored)
        terms = {"infonce": loss * scored.ranks.share if scored.ranks.world > 1 else loss}
        terms.update(self.regularisers(scored, self.predictor, self.weights))
        return terms

    def _against_batch(self, scored: Scored) -> torch.Tensor:
        """Mean over rows of −log softmax at the positive, among the columns."""
        mask = scored.mask | scored.others if self.negatives == "own" else scored.mask
        apart = self.symmetric and scored.ranks.world > 1
        loss = infonce(scored.scores, scored.labels, mask, self.temperature, self.symmetric and not apart)
        if self.dimensions:
            cut = self._compare.beginnings(scored.encoded.queries, scored.columns.vectors, self.dimensions)
            every = [infonce(scores, scored.labels, mask, self.temperature) for scores in cut]
            loss = torch.stack([loss, *every]).mean()
        if apart:
            scores, back = self._compare.backwards(scored)
            loss = (loss + infonce(scores, scored.labels, back, self.temperature)) / 2
        return loss

    def _against_corpus(self, batch: Mapping[str, Any], scored: Scored) -> torch.Tensor:
        """Mean over rows of −log softmax at the positive, among all documents but other positives of the query."""
        corpus, queries = _corpus_of(batch), wide(scored.encoded.queries)
        struck = Struck.of(scored, self._compare.known, corpus)  # asks the other ranks, whatever this one has
        if not len(queries):
            return scored.scores.sum()
        blocks = Blocks.of(corpus, struck, queries)
        encoder = self.document_encoder or self.encoder
        others = log_sums(queries, blocks, encoder, self.similarity, self._compare.score, self.temperature)
        positives = scored.scores.gather(1, scored.labels[:, None])[:, 0]
        return -logsigmoid(positives.to(others.dtype) / self.temperature - others).mean()

    def _candidates(self, batch: Mapping[str, Any], scored: Scored) -> int:
        """Candidates of a row, the masked ones among them."""
        if self.negatives == "batch":
            return scored.scores.shape[1]
        if self.negatives == "corpus":
            return len(_corpus_of(batch).ids)
        return own_candidates(batch, scored)


def _corpus_of(batch: Mapping[str, Any]) -> Corpus:
    corpus = batch.get("corpus")
    if not isinstance(corpus, Corpus):
        raise InputError("negatives: corpus needs a corpus of stored vectors in each batch", "use another kind")
    return corpus
