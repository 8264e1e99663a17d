"""MaxSim interaction distillation: where a teacher's query tokens look in a document, its student's do too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Unpack, cast

import torch
from pydantic import Field
from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.losses.attention import attention as attended
from lodesmith.losses.attention import pooled
from lodesmith.objectives._candidates import Scored, wide
from lodesmith.objectives._regularisers import Ramp, checks
from lodesmith.objectives._terms import reader
from lodesmith.objectives.interact import SETTINGS, Interact, Terms

__all__ = ["Mid"]


class Attention(Ramp):
    """Of `losses.attention`."""

    temperature: float = Field(2.0, gt=0, allow_inf_nan=False, description="T, that softens both sides")
    scale: float = Field(0.05, gt=0, allow_inf_nan=False, description="divides the cosines, which makes them logits")
    top: int = Field(8, ge=1, le=4096, description="tokens of a document that are kept for each query token")

    @property
    def softness(self) -> float:
        """What cosines are divided by."""
        return self.temperature * self.scale


_read = reader({"attention": Attention})


def read_attention(given: Any) -> Attention:
    """The settings of the term; a number is its weight, and None stands for a weight of 0.

    Raises:
        ConfigError: one of them is wrong.
    """
    return cast(Attention, _read("attention", 0.0 if given is None else given))


class Mid(nn.Module):
    """`Interact`, and a term that holds the student's token attention against its teacher's: the distribution of each
    query token over the tokens of the document that answers the query.

    A batch is that of `Interact`, with `interactions`: `columns` int64 [r, k] and `mass` [r, k] of the r query tokens
    of its n queries, `offsets` int64 [n + 1] into them, and `lengths` int64 [n], the documents' numbers of tokens, all
    as the teacher has them. Of page images, which the teacher reads in other patches, a document's columns are cells of
    a grid and `lengths` their numbers; then there are `tokens` int64 [r], the student's query token that a row is of,
    and `cells`, packed as the student's documents: the cell of each of their tokens, −1 for none. What the student
    gives to a cell is what it gives to its tokens. In evaluation mode the terms of `Interact` alone are given, and need
    no teacher.

    Args:
        encoder: packed texts → packed token vectors.
        document_encoder: the documents' own; None where both sides share `encoder`.
        attention: {weight: 1, temperature: 2, scale: 0.05, top: 8}, or the weight alone; null or 0 leaves it out.
        interact: as `Interact` has them, the terms `infonce`, `pairwise` and `hinge` among them. All weights 0 but
            that of `attention` is possible: give `infonce: 0`.

    Raises:
        ConfigError: a setting is out of range, or no term has a weight.
    """

    taught = "interactions"
    """What its batches have of a teacher."""
    similarity = "maxsim"
    terms = (*SETTINGS, "attention")
    """Those that there are."""
    comparing = terms
    """The terms that compare queries with documents: all."""

    def __init__(  # noqa: PLR0913 - two encoders and the options, all by name
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        attention: Annotated[Mapping[str, Any] | float, checks("attention", _read)] | None = 1.0,
        temperature: float = 0.02,
        each_token: bool = True,
        negatives: str = "batch",
        known: Any = None,
        gather: bool = True,
        **terms: Unpack[Terms],
    ) -> None:
        super().__init__()
        self.settings = read_attention(attention)
        self.alone = "infonce" in terms and not any(_weighs(name, given) for name, given in terms.items())
        if self.alone and self.settings.off:
            raise ConfigError("mid has no term", f"give a weight to one of: {', '.join(self.terms)}")
        self._interact = Interact(
            encoder,
            document_encoder,
            temperature=temperature,
            each_token=each_token,
            negatives=negatives,  # type: ignore[arg-type]  # checked there
            known=known,
            gather=gather,
            **({"infonce": 1.0} if self.alone else terms),  # type: ignore[arg-type]  # what is checked must have a term
        )
        self._attention = 0.0 if self.settings.off else self.settings.at(0)

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term; while only `attention` trains, validation is by `infonce`."""
        own = {} if self.alone and self.training else self._interact.weights
        return {**own, **({} if self.settings.off else {"attention": self._attention})}

    @property
    def needs_mined(self) -> bool:
        """Whether a batch without mined negatives teaches it nothing."""
        return self._interact.needs_mined

    @property
    def chance(self) -> Mapping[str, float]:
        """What its terms are when the scores say nothing, where that is known."""
        return {} if self.alone else self._interact.chance

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss."""
        return self._interact.evidence

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms of a batch by name.

        Raises:
            InputError: as `Interact`; or the batch has no interactions, or those of other tokens than the student's.
        """
        scored = self._interact.scored(batch)
        step = int(self._interact.step)
        found = self._interact.terms_of(batch, scored)
        if not self.training:
            return found
        if not self.settings.off:
            self._attention = self.settings.at(step)
            found["attention"] = self._apart(batch, scored)
        return {name: term for name, term in found.items() if name in self.weights}

    def _apart(self, batch: Mapping[str, Any], scored: Scored) -> torch.Tensor:
        """The attention's loss, a mean over the query tokens of all ranks."""
        if "interactions" not in batch:
            raise InputError("a batch has no interactions of a teacher", "name a teacher, or leave attention out")
        told = batch["interactions"]
        queries, documents = scored.encoded.queries, scored.encoded.documents
        if "cells" in told:
            similarities = _with_cells(queries, documents, told, self.settings.softness)
        else:
            _check("query", queries["offsets"].diff(), told["offsets"].diff())
            _check("document", documents["offsets"].diff(), told["lengths"])
            similarities = _similarities(queries, documents)
        lengths = told["lengths"].repeat_interleave(told["offsets"].diff())
        loss = attended(
            similarities, lengths, told["columns"], told["mass"], self.settings.softness, self.settings.temperature
        )
        rows = torch.tensor(len(lengths), device=loss.device)
        return loss * (rows * scored.ranks.world / scored.ranks.sum(rows).clamp(min=1))


def _check(side: str, student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Token i of the one is token i of the other."""
    apart = (student != teacher.to(student.device)).nonzero().flatten()
    if len(apart):
        at = int(apart[0])
        raise InputError(
            f"the student has {int(student[at])} tokens of a {side} of which the teacher has {int(teacher[at])}",
            "choose a base with the teacher's tokenizer, and the same lengths, prompts, expansion and skip-list; "
            "pool when the model is saved, not while it learns",
        )


def _similarities(queries: Mapping[str, torch.Tensor], documents: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[r, m] of each query token with the tokens of its own document, zeros behind."""
    asked = torch.split(wide(queries["values"]), queries["offsets"].diff().tolist())  # type: ignore[no-untyped-call]
    found = torch.split(wide(documents["values"]), documents["offsets"].diff().tolist())  # type: ignore[no-untyped-call]
    longest = max((len(own) for own in found), default=0)
    blocks = [
        nn.functional.pad(query @ own.T, (0, longest - len(own))) for query, own in zip(asked, found, strict=True)
    ]
    return torch.cat(blocks) if blocks else wide(queries["values"])


def _with_cells(
    queries: Mapping[str, torch.Tensor], documents: Mapping[str, torch.Tensor], told: Mapping[str, Any], softness: float
) -> torch.Tensor:
    """[r, m] of each told query token with the cells of its own document, zeros behind."""
    cells, sizes = told["cells"], queries["offsets"].diff()
    each = told["offsets"].diff()
    alike = torch.equal(documents["offsets"], cells["offsets"]) and len(each) == len(sizes)
    if not alike or bool((told["tokens"] >= sizes.repeat_interleave(each)).any()):
        raise InputError(
            "a teacher's interactions are of other tokens than the student's", "delete `interactions` in the cache"
        )
    parts = zip(
        torch.split(wide(queries["values"]), sizes.tolist()),  # type: ignore[no-untyped-call]
        torch.split(wide(documents["values"]), documents["offsets"].diff().tolist()),  # type: ignore[no-untyped-call]
        torch.split(told["tokens"], each.tolist()),  # type: ignore[no-untyped-call]
        torch.split(cells["values"], cells["offsets"].diff().tolist()),  # type: ignore[no-untyped-call]
        told["lengths"].tolist(),
        strict=True,
    )
    widest, blocks = int(told["lengths"].max()) if len(sizes) else 0, []
    with torch.autocast(queries["values"].device.type, enabled=False):  # a softness enlarges what rounding takes
        for query, document, rows, own, count in parts:
            near = pooled(query[rows] @ document.T, own, count, softness)
            blocks.append(nn.functional.pad(near, (0, widest - count)))
    return torch.cat(blocks) if blocks else wide(queries["values"])


def _weighs(name: str, given: Any) -> bool:
    if given is None:
        return False
    return not reader(SETTINGS)(name, given).off
