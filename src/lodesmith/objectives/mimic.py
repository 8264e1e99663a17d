"""Mimic: a student's vectors, or the similarities of its vectors, are its teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Unpack, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Metric
from lodesmith.losses.cosine import cosine
from lodesmith.losses.infonce import infonce
from lodesmith.losses.kl import kl
from lodesmith.losses.margin_mse import margin_mse
from lodesmith.losses.mse import mse
from lodesmith.losses.relational import relational
from lodesmith.losses.relative import relative
from lodesmith.objectives._candidates import EMPTY, Comparison, Scored, own_candidates
from lodesmith.objectives._evidence import Sample
from lodesmith.objectives._parts import Encoded, encode_batch
from lodesmith.objectives._targets import Texts, candidate_targets, targets_of
from lodesmith.objectives._terms import COMPARING, SETTINGS, Kl, Mse, Relative, Terms, read_term

__all__ = ["Mimic"]

Negatives = Literal["batch", "own"]
Loss = Callable[[torch.Tensor], torch.Tensor]


class Mimic(nn.Module):
    """A weighted sum of terms that make a student's vectors, or their similarities, those of its teacher.

    Batches, masks of known positives and several processes are those of `objectives.contrast.Contrast`. Every term but
    `infonce` needs the teacher's vectors in the batch: `query_targets` [n, t], `document_targets` [n, t], and where the
    batch has such texts `negative_targets` ([k, t], the filled places of packed negatives; [n, h, t] of rows) and
    `pool_targets`. Where no term compares queries with documents (neither `infonce`, `kl` nor `margin_mse`), there may
    be any number of either, and none too.

    `mse` and `cosine` need vectors of the teacher's dimension; the others do with any.

    In evaluation mode it gives `infonce` alone, where it has it, with a weight of 1: the loss of a validation is
    comparable between weights, and needs no teacher. Otherwise all terms, with the weights that they come to.

    Args:
        encoder: rows [·, d], or packed texts → vectors [·, e].
        document_encoder: the documents' own; None where both sides share `encoder`.
        similarity: of the student's vectors; `cosine`, `dot`, `euclidean` (−‖q − d‖²), or another of the family.
        teacher_similarity: of the teacher's.
        temperature: of `infonce`; divides the similarity.
        negatives: the candidates of `infonce` and `kl`: `batch`, the documents of all rows and all mined ones; or
            `own`, only those mined for the query. The pool counts in both.
        known: int64 [p, 2] of (query id, document id): known positives. The same numbers as in the batches.
        gather: False keeps each process to its own candidates and texts.
        dimensions: the first so many components must do by themselves too, each of these numbers as much as all of
            them (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147), in all terms but `mse` and `cosine`. The teacher
            stays whole.
        infonce: {weight: 0.8}, or the weight alone. As for every term, `begin`, `steps` and `schedule` let the weight
            change as those of `Contrast` do; a term without a weight is not computed.
        mse: `losses.mse` over all texts of the batch: {weight: 0.2, over: sum, of: null}. A sum over dimensions is
            2(1 − cos) for unit vectors; a mean is that divided by the dimension, and vanishes beside other terms. `of`
            is `unit`, vectors scaled to length 1, as by default under cosine, or `raw`.
        cosine: `losses.cosine` over all texts of the batch, mean of 1 − cos.
        kl: `losses.kl` of the queries' candidates: {weight: 1, temperature: 1}. A known positive is a candidate here.
        margin_mse: `losses.margin_mse` of each query's positive and the documents mined for it.
        relational: `losses.relational` of all pairs of the batch's texts.
        relative: `losses.relative` of all triplets of the batch's texts: {weight: 1, margin: 0.015}.

    Raises:
        ConfigError: there is no such similarity, a setting is out of range, or no term has a weight.
    """

    taught = "vectors"
    """What its batches have of a teacher."""
    terms = tuple(SETTINGS)
    """Those that there are."""
    comparing = COMPARING
    """The terms that compare queries with documents."""
    step: torch.Tensor
    """Of the batches trained on; there where a weight changes."""

    def __init__(  # noqa: PLR0913 - two encoders and the options, all by name
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        similarity: Metric = "cosine",
        teacher_similarity: Metric = "cosine",
        temperature: float = 0.02,
        negatives: Negatives = "batch",
        known: NDArray[np.integer] | None = None,
        gather: bool = True,
        dimensions: tuple[int, ...] = (),
        **terms: Unpack[Terms],
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"the temperature must be above 0, not {temperature}")
        if negatives not in get_args(Negatives):
            raise ConfigError(f"negatives is {negatives!r}", registry.did_you_mean(negatives, [*get_args(Negatives)]))
        if dimensions and min(dimensions) < 1:
            raise ConfigError(f"dimensions {list(dimensions)} are numbers from 1", "leave the others out")
        if unknown := terms.keys() - SETTINGS.keys():
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        read = {name: read_term(name, given) for name, given in terms.items() if given is not None}
        self.settings = {name: read[name] for name in SETTINGS if name in read and not read[name].off}
        if not self.settings:
            raise ConfigError("mimic has no term", f"give a weight to one of: {', '.join(SETTINGS)}")
        self.encoder = encoder
        self.document_encoder = document_encoder
        self.similarity = similarity
        self.temperature = temperature
        self.negatives = negatives
        self.gather = gather
        self.dimensions = tuple(dimensions)
        self._moves = any(term.begin is not None for term in self.settings.values())
        if self._moves:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.weights: dict[str, float] = {name: term.at(0) for name, term in self.settings.items()}
        self.chance: Mapping[str, float] = {}
        """What `infonce` is when the scores say nothing: log of the number of candidates in the last batch."""
        self._sample: Sample | None = None
        self._compare = Comparison(similarity, known, gather)
        self._teacher = Comparison(teacher_similarity, None, gather)

    @property
    def needs_mined(self) -> bool:
        """Whether it has no loss of a query and its document alone, without mined negatives or a teacher."""
        return self.negatives == "own" or "infonce" not in self.settings

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss, where queries are compared: `spread`, `rank`, `tied`."""
        return {} if self._sample is None else self._sample.evidence()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms of a batch by name.

        Raises:
            InputError: the teacher's vectors of some texts are missing; or queries are compared with documents, and
                are not the same number, or `margin_mse` finds no mined ones.
            ConfigError: `mse` or `cosine` compares vectors of two dimensions.
        """
        names = self._begin()
        encoders, scored, targets = (self.encoder, self.document_encoder), None, None
        if any(name in COMPARING for name in names):
            scored = self._compare(batch, *encoders, training=self.training, local=self.negatives == "own")
        encoded = encode_batch(batch, *encoders, paired=False) if scored is None else scored.encoded
        if any(name != "infonce" for name in names):
            targets = targets_of(batch, encoded, pool="kl" in names or "margin_mse" in names)
        terms = {} if scored is None else self._of_candidates(batch, scored, targets, names)
        if targets is not None and any(name not in COMPARING for name in names):
            texts = Texts.of(batch, encoded, targets, together=self.gather and self.training)
            terms |= {**self._of_texts(texts, names), **self._of_pairs(texts, names)}
        return {name: terms[name] for name in names}

    def _begin(self) -> Collection[str]:
        """The terms of this batch; their weights, those of this step, or of any validation."""
        if self.training:
            step = int(self.step) if self._moves else 0
            self.weights.update({name: term.at(step) for name, term in self.settings.items()})
            if self._moves:
                self.step += 1
            return self.settings
        if "infonce" in self.settings:
            self.weights["infonce"] = 1.0
            return ("infonce",)
        self.weights.update({name: term.weight for name, term in self.settings.items()})
        return self.settings

    def _of_candidates(
        self, batch: Mapping[str, Any], scored: Scored, targets: Encoded | None, names: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """Terms of each query against its candidates."""
        if self.training:
            self._sample = Sample.of(scored)
        cut = self._compare.beginnings(scored.encoded.queries, scored.columns.vectors, self.dimensions)
        every, terms = [scored.scores, *cut], {}
        if "infonce" in names:
            terms["infonce"] = self._contrast(batch, scored, every)
        if targets is not None and ("kl" in names or "margin_mse" in names):
            columns = candidate_targets(targets, scored, local=self.negatives == "own")
            teacher = self._teacher.score(targets.queries, columns)
            if "kl" in names:
                terms["kl"] = self._divergence(scored, teacher, every)
            if "margin_mse" in names:
                terms["margin_mse"] = _margins(scored, teacher, every)
        return terms

    def _contrast(self, batch: Mapping[str, Any], scored: Scored, every: Sequence[torch.Tensor]) -> torch.Tensor:
        """InfoNCE, a mean over the rows of all ranks."""
        own = self.negatives == "own"
        number = own_candidates(batch, scored) if own else scored.scores.shape[1]
        self.chance = {"infonce": math.log(max(1, number))}
        mask = scored.mask | scored.others if own else scored.mask
        return _mean(lambda s: infonce(s, scored.labels, mask, self.temperature), every) * scored.ranks.share

    def _divergence(self, scored: Scored, teacher: torch.Tensor, every: Sequence[torch.Tensor]) -> torch.Tensor:
        """KL of the candidates, a mean over the rows of all ranks; empty places are no candidates."""
        temperature = cast(Kl, self.settings["kl"]).temperature
        gone = (scored.columns.ids == EMPTY).expand_as(scored.mask)
        if self.negatives == "own":
            gone = gone | scored.others
        return _mean(lambda s: kl(s, teacher, gone, temperature), every) * scored.ranks.share

    def _of_texts(self, texts: Texts, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Terms of each text and its target, each a mean over the texts of all ranks."""
        terms = {}
        if "mse" in names:
            settings = cast(Mse, self.settings["mse"])
            unit = (settings.of or ("unit" if self.similarity == "cosine" else "raw")) == "unit"
            terms["mse"] = mse(*texts.alike("mse", unit=unit), settings.over) * texts.ranks.share
        if "cosine" in names:
            terms["cosine"] = cosine(*texts.alike("cosine", unit=False)) * texts.ranks.share
        return terms

    def _of_pairs(self, texts: Texts, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Terms of this rank's texts against those of all, each a mean over the texts of all ranks."""
        if "relational" not in names and "relative" not in names:
            return {}
        share, labels = texts.ranks.share, texts.labels
        others = texts.ranks.gather(texts.vectors)
        cut = self._compare.beginnings(texts.vectors, others, self.dimensions)
        every = [self._compare.score(texts.vectors, others), *cut]
        teacher = self._teacher.score(texts.targets, texts.ranks.gather(texts.targets))
        terms = {}
        if "relational" in names:
            terms["relational"] = share * _mean(lambda s: relational(s, teacher, labels), every)
        if "relative" in names:
            margin = cast(Relative, self.settings["relative"]).margin
            terms["relative"] = share * _mean(lambda s: relative(s, teacher, labels, margin), every)
        return terms


def _mean(loss: Loss, every: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of the loss of each of the scores."""
    return torch.stack([loss(scores) for scores in every]).mean()


def _margins(scored: Scored, teacher: torch.Tensor, every: Sequence[torch.Tensor]) -> torch.Tensor:
    """Margin-MSE over the documents mined for each query, a mean over the pairs of all ranks."""
    if scored.encoded.negatives is None:
        raise InputError("margin_mse needs mined negatives, and the batches hold none", "mine some, or leave it out")
    labels = scored.labels
    mask = scored.mask | (scored.columns.owners[None, :] != labels[:, None])
    pairs = (~mask.scatter(1, labels[:, None], True)).sum()
    part = pairs * scored.ranks.world / scored.ranks.sum(pairs).clamp(min=1)
    return part * _mean(lambda s: margin_mse(s, teacher, labels, mask), every)
