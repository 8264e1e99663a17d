"""The teacher's vectors beside a batch's texts: for each candidate of a comparison, or for each text by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import normalize

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.objectives._candidates import Scored, gathered, wide
from lodesmith.objectives._parts import Encoded, count
from lodesmith.objectives._ranks import Ranks

_NAMES = {
    "queries": "query_targets",
    "documents": "document_targets",
    "negatives": "negative_targets",
    "pool": "pool_targets",
}


def targets_of(batch: Mapping[str, Any], encoded: Encoded, *, pool: bool) -> Encoded:
    """The teacher's vectors of each side, [·, t] in float32 at least, in the order of the student's.

    Args:
        batch: `query_targets` [n, t], `document_targets` [n, t], and where there are such texts `negative_targets`
            ([k, t] of packed texts, the filled places row by row; [n, h, t] of rows) and `pool_targets` [p, t].
        encoded: the student's.
        pool: whether those of the pool are wanted.

    Raises:
        InputError: a side has none, or not one for each text.
    """
    found = {}
    for side, name in _NAMES.items():
        vectors = getattr(encoded, side)
        if vectors is None or (side == "pool" and not pool):
            continue
        if name not in batch:
            raise InputError(f"a batch has {side} but no {name}", "name a teacher, or leave out all terms but infonce")
        targets = cast(torch.Tensor, wide(batch[name])).flatten(0, -2)
        if len(targets) != count(vectors):
            raise InputError(
                f"a batch has {count(vectors)} {side} but {len(targets)} {name}", "give each text its teacher's vector"
            )
        found[side] = targets
    return Encoded(**found)


def candidate_targets(targets: Encoded, scored: Scored, *, local: bool) -> torch.Tensor:
    """The teacher's vectors of a comparison's columns, [m, t].

    Args:
        targets: of this rank's texts.
        scored: the comparison.
        local: whether it has the candidates of this rank alone.
    """
    mined = 0 if targets.negatives is None else len(targets.negatives)
    ranks = Ranks(((len(targets.documents),), (mined,))) if local else scored.ranks
    return cast(torch.Tensor, gathered(targets, ranks))


@dataclass(frozen=True)
class Texts:
    """This rank's texts one by one: queries, documents, and what was mined.

    Args:
        vectors: the student's, [k, e].
        targets: the teacher's, [k, t].
        ranks: how the texts lie on the ranks.
    """

    vectors: torch.Tensor
    targets: torch.Tensor
    ranks: Ranks

    @staticmethod
    def of(batch: Mapping[str, Any], encoded: Encoded, targets: Encoded, *, together: bool) -> Texts:
        """All texts that there are: empty places of mined rows are none.

        Args:
            batch: for `negative_ids`.
            encoded: the student's vectors.
            targets: the teacher's.
            together: count the texts of all ranks.

        Raises:
            InputError: the student has several vectors a text.
        """
        if not isinstance(encoded.queries, torch.Tensor) or encoded.queries.ndim != 2:
            raise InputError(
                "a text has several vectors, and its teacher one",
                "choose an encoder of one vector a text, or the terms infonce, kl and margin_mse",
            )
        sides = [[wide(found.queries), wide(found.documents)] for found in (encoded, targets)]
        if encoded.negatives is not None:
            filled = _filled(batch)
            for side, found in zip(sides, (encoded, targets), strict=True):
                side.append(wide(found.negatives)[filled])
        vectors, wanted = (torch.cat(side) for side in sides)
        return Texts(vectors, wanted, Ranks.of(len(vectors), together=together, device=vectors.device))

    @property
    def labels(self) -> torch.Tensor:
        """int64 [k], the number that each text has among those of all ranks."""
        return torch.arange(len(self.vectors), device=self.vectors.device) + self.ranks.first

    def alike(self, name: str, *, unit: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides' vectors, [k, e] each, to be compared number by number.

        Args:
            name: of the term.
            unit: scaled to length 1.

        Raises:
            ConfigError: student and teacher have not the same dimension.
        """
        student, teacher = self.vectors.shape[1], self.targets.shape[1]
        if student != teacher:
            raise ConfigError(
                f"{name} compares the student's vectors of {student} dimensions with the teacher's of {teacher}",
                f"set encoder.output_dim to {teacher}, or choose terms over similarities: relational, kl, margin_mse",
            )
        return (
            (normalize(self.vectors, dim=1), normalize(self.targets, dim=1)) if unit else (self.vectors, self.targets)
        )


def _filled(batch: Mapping[str, Any]) -> torch.Tensor | slice:
    """Which of the negatives' vectors are of a text; packed texts are all."""
    if isinstance(batch["negatives"], torch.Tensor) and "negative_ids" in batch:
        return cast(torch.Tensor, batch["negative_ids"]).flatten() >= 0
    return slice(None)
