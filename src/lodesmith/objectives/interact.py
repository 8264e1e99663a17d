"""Interact: queries and documents as the vectors of their tokens, compared by MaxSim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict, Unpack, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError
from lodesmith.losses.infonce import infonce
from lodesmith.losses.pairwise import pairwise
from lodesmith.losses.triplet import triplet
from lodesmith.objectives._candidates import Comparison, Scored, own_candidates
from lodesmith.objectives._evidence import Sample
from lodesmith.objectives._regularisers import Ramp, checks
from lodesmith.objectives._terms import reader

__all__ = ["Interact"]

Negatives = Literal["batch", "own"]


class Hinge(Ramp):
    """Of `losses.triplet`, against the hardest negative."""

    margin: float = Field(0.1, gt=0, allow_inf_nan=False, description="in units of the scores")


SETTINGS: Mapping[str, type[Ramp]] = {"infonce": Ramp, "pairwise": Ramp, "hinge": Hinge}


read_term = reader(SETTINGS)


class Terms(TypedDict, total=False):
    """What `Interact` may consist of."""

    infonce: Annotated[Mapping[str, Any] | float, checks("infonce", read_term)] | None
    pairwise: Annotated[Mapping[str, Any] | float, checks("pairwise", read_term)] | None
    hinge: Annotated[Mapping[str, Any] | float, checks("hinge", read_term)] | None


class Interact(nn.Module):
    """Contrast under late interaction. A batch is that of `Contrast`, of packed texts; `encoder` makes of them packed
    token vectors, `values` [total, d] and `offsets` [n + 1].

    Args:
        encoder: packed texts → packed token vectors.
        document_encoder: the documents' own; None where both sides share `encoder`.
        temperature: divides the scores in `infonce` and `pairwise`.
        each_token: scores are divided by the query's number of tokens, so that a temperature fits queries of any
            length; False leaves the sum (Khattab and Zaharia 2020, arXiv 2004.12832, with temperature 1).
        negatives: `batch`, the documents of all rows, and all mined ones; `own`, only those mined for the query.
        known: int64 [p, 2] of (query id, document id): known positives. The same numbers as in the batches.
        gather: False keeps each process to its own candidates.
        infonce: `losses.infonce` among the candidates: {weight: 1}, or the weight alone. As for every term, `begin`,
            `steps` and `schedule` let the weight change as those of `Contrast` do; one without a weight is left out.
        pairwise: `losses.pairwise`, the positive against the hardest negative.
        hinge: `losses.triplet` of the same two: {weight: 1, margin: 0.1}.

    Raises:
        ConfigError: a setting is out of range, or no term has a weight.
    """

    similarity = "maxsim"
    step: torch.Tensor
    """Of the batches trained on."""

    def __init__(
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        temperature: float = 0.02,
        each_token: bool = True,
        negatives: Negatives = "batch",
        known: NDArray[np.integer] | None = None,
        gather: bool = True,
        **terms: Unpack[Terms],
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"the temperature must be above 0, not {temperature}")
        if negatives not in get_args(Negatives):
            raise ConfigError(f"negatives is {negatives!r}", registry.did_you_mean(negatives, [*get_args(Negatives)]))
        if unknown := terms.keys() - SETTINGS.keys():
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        read = {name: read_term(name, given) for name, given in ({"infonce": 1.0} | terms).items() if given is not None}
        self.settings = {name: read[name] for name in SETTINGS if name in read and not read[name].off}
        if not self.settings:
            raise ConfigError("interact has no term", f"give a weight to one of: {', '.join(SETTINGS)}")
        self.encoder, self.document_encoder = encoder, document_encoder
        self.temperature, self.negatives = temperature, negatives
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.weights: dict[str, float] = {name: term.at(0) for name, term in self.settings.items()}
        self.chance: Mapping[str, float] = {}
        """What `infonce` and `pairwise` are when the scores say nothing."""
        self._sample: Sample | None = None
        self._compare = Comparison("maxsim", known, gather, each_token=each_token)

    @property
    def needs_mined(self) -> bool:
        """Whether a batch without mined negatives teaches it nothing."""
        return self.negatives == "own"

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss: `rank`, `tied`."""
        return {} if self._sample is None else self._sample.evidence()

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms of a batch by name.

        Raises:
            InputError: queries and documents are not the same number, or a document has no token.
        """
        return self.terms_of(batch, self.scored(batch))

    def scored(self, batch: Mapping[str, Any]) -> Scored:
        """The queries against their candidates.

        Raises:
            InputError: as `forward`.
        """
        own = self.negatives == "own"
        return self._compare(batch, self.encoder, self.document_encoder, training=self.training, local=own)

    def terms_of(self, batch: Mapping[str, Any], scored: Scored) -> dict[str, torch.Tensor]:
        """The terms of what `scored` made of a batch, by name; a step of training is counted here."""
        own = self.negatives == "own"
        if self.training:
            self._sample = Sample.of(scored)
        self._weigh()
        number = own_candidates(batch, scored) if own else scored.scores.shape[1]
        known = {"infonce": math.log(max(1, number)), "pairwise": math.log(2)}
        self.chance = {name: known[name] for name in self.settings if name in known}
        mask = scored.mask | scored.others if own else scored.mask
        return {name: self._term(name, scored, mask) for name in self.settings}

    def _weigh(self) -> None:
        """The terms' weights of this step, or of any validation."""
        step = int(self.step) if self.training else None
        for name, term in self.settings.items():
            self.weights[name] = term.weight if step is None else term.at(step)
        if self.training:
            self.step += 1

    def _term(self, name: str, scored: Scored, mask: torch.Tensor) -> torch.Tensor:
        """One term, a mean over the rows of all ranks; those without a negative are counted by `infonce` alone."""
        scores, labels = scored.scores, scored.labels
        if name == "infonce":
            return infonce(scores, labels, mask, self.temperature) * scored.ranks.share
        rows = (~mask.scatter(1, labels[:, None], True)).any(1).sum()
        part = rows * scored.ranks.world / scored.ranks.sum(rows).clamp(min=1)
        if name == "pairwise":
            return pairwise(scores, labels, mask, self.temperature) * part
        return triplet(scores, labels, mask, cast(Hinge, self.settings[name]).margin, "hard") * part
