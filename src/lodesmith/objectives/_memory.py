"""What the objectives over memory tokens share: the tower they are given, a batch's documents as memory, and means over
the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.objectives._parts import Packed, count
from lodesmith.objectives._ranks import Ranks
from lodesmith.objectives._regularisers import distinct


class Compressed(Protocol):
    """Documents as memory."""

    memory: torch.Tensor
    """[n, t, H]."""
    text: torch.Tensor
    """[n, H], the mean state of the text's own tokens."""


class Tower(Protocol):
    """What compresses, asks and answers; its memory is float32 [n, t, H]."""

    def compress(self, packed: Packed, adapter: str = "encoder") -> Compressed:
        """Packed texts as memory."""
        ...

    def losses(self, memory: torch.Tensor, of: torch.Tensor, questions: Packed, answers: Packed) -> torch.Tensor:
        """−log p of every token of the answers, float32 [total]; `of` int64 [q, k] names rows of memory, −1 none."""
        ...

    def chosen_losses(self, memory: torch.Tensor, questions: Packed, answers: Packed) -> torch.Tensor:
        """The same with memory of its own for each question, [q, k, t, H]."""
        ...

    def begin_reasoner(self) -> None:
        """Give the query reasoner the compressor's weights."""
        ...


def tower_of(encoder: nn.Module) -> Tower:
    """The encoder as what these objectives ask of it."""
    return cast(Tower, encoder)


def check_encoders(document_encoder: nn.Module | None, name: str) -> None:
    """One model does everything.

    Raises:
        ConfigError: documents have an encoder of their own.
    """
    if document_encoder is not None:
        raise ConfigError(f"{name} compresses, asks and answers by one model", "leave document_encoder out")


def check_weights(name: str, weights: Mapping[str, float], needed: tuple[str, ...]) -> dict[str, float]:
    """The terms that have a weight.

    Args:
        name: of the objective.
        weights: of each of its terms.
        needed: one of these must have a weight.

    Raises:
        ConfigError: a weight is no number from 0, or none of the needed ones has any.
    """
    for term, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"{name}: the weight of {term} is {weight}", "give a number from 0")
    if not any(weights[term] for term in needed):
        raise ConfigError(f"{name} has no term", f"give a weight to one of: {', '.join(needed)}")
    return {term: float(weight) for term, weight in weights.items() if weight}


class Read:
    """A batch's documents as memory.

    Args:
        memory: float32 [n, t, H].
        apart: float32 [n], (mean state of the document − mean of its memory)², a mean over dimensions; None where the
            memory was made before.
    """

    def __init__(self, memory: torch.Tensor, apart: torch.Tensor | None = None) -> None:
        self.memory, self.apart = memory, apart

    @classmethod
    def of(cls, batch: Mapping[str, Any], tower: Tower) -> Read:
        """`memory` of the batch as it is, or its `documents` compressed.

        Raises:
            InputError: there is neither.
        """
        if "memory" in batch:
            return cls(batch["memory"].float())
        if "documents" not in batch:
            raise InputError("a batch has neither documents nor memory", "give it one of them")
        if not count(batch["documents"]):
            empty = torch.zeros(0, 1, 1, device=batch["documents"]["ids"].device)
            return cls(empty, empty[:, 0, 0])
        found = tower.compress(batch["documents"])
        memory = found.memory.float()
        return cls(memory, (found.text.float() - memory.mean(1)).square().mean(1))


def mean(values: torch.Tensor, *, together: bool) -> torch.Tensor:
    """The mean over the values of all ranks: this rank's part of it, so that the mean of the parts is that of one
    process with all of them; 0 where there are none.

    Args:
        values: [n].
        together: whether the ranks ask each other.
    """
    ranks = Ranks.of(len(values), together=together, device=values.device)
    return values.sum() * (ranks.world / max(1, sum(ranks.counts[0])))


def mean_of_documents(values: torch.Tensor, ids: torch.Tensor | None, *, together: bool) -> torch.Tensor:
    """As `mean`, of documents: one that stands on several ranks counts once.

    Args:
        values: [n].
        ids: int64 [n], the documents' numbers, the same on all ranks; None where each is another.
        together: whether the ranks ask each other.
    """
    if ids is None:
        return mean(values, together=together)
    ranks = Ranks.of(len(ids), together=together, device=values.device)
    places = distinct(ranks.gather(ids))
    own = places[(places >= ranks.first) & (places < ranks.first + len(ids))] - ranks.first
    return mean(values[own], together=together)
