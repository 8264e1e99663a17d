"""What a batch's vectors and scores say about the training, beside the loss.

A step only puts a small sample aside; the figures are worked out when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from lodesmith.objectives._candidates import Scored

ROWS, COLUMNS = 64, 256
"""The part of a batch that is looked at: as telling as the whole, and nothing beside a large one."""
TIED = 2e-6
"""Relative difference below which two scores count as one: the same text encoded twice differs by rounding."""


@dataclass(frozen=True)
class Sample:
    """The corner of a comparison, without gradients.

    Args:
        sides: vectors of queries and of documents, [≤ ROWS, e] each; none where they are not one vector an item.
        scores: [r, c].
        positives: [r, 1], each row's positive score.
        negative: bool [r, c], what is a negative of the row.
    """

    sides: tuple[torch.Tensor, ...]
    scores: torch.Tensor
    positives: torch.Tensor
    negative: torch.Tensor

    @staticmethod
    def of(scored: Scored) -> Sample:
        """A copy of what is needed: the whole comparison does not stay in memory."""
        labels = scored.labels[:ROWS, None]
        scores = scored.scores.detach()[:ROWS]
        columns = torch.arange(scores.shape[1], device=scores.device)[:COLUMNS]
        negative = ~scored.mask[:ROWS, :COLUMNS] & (columns[None, :] != labels)
        return Sample(
            tuple(_rows(side) for side in (scored.encoded.queries, scored.encoded.documents) if _is_dense(side)),
            scores[:, :COLUMNS].float().clone(),
            scores.gather(1, labels).float(),
            negative,
        )

    @torch.no_grad()
    def evidence(self) -> dict[str, torch.Tensor]:
        """Scalars on the device.

        Returns:
            `spread`: 1 − the mean cosine of two queries of the batch, or of two documents where that is less; 0 when
            all vectors point the same way.
            `rank`: the mean share of a row's negatives that score above its positive, ties half; .5 is guessing.
            `tied`: the share of rows where a negative has the positive's very score.
            A batch that has no two queries, or no negatives, leaves the figures out that need them.
        """
        found = {"spread": torch.stack([_spread(side) for side in self.sides]).min()} if len(self.sides) == 2 else {}
        counts = self.negative.sum(1)
        if not counts.any():
            return found
        margins = self.scores - self.positives
        equal = self.negative & (margins.abs() <= TIED * self.positives.abs())
        above = self.negative & (margins > 0) & ~equal
        shares = (above.sum(1) + 0.5 * equal.sum(1)) / counts.clamp(min=1)
        rows = (counts > 0).sum()
        return found | {"rank": shares.sum() / rows, "tied": equal.any(1).sum() / rows}


def _is_dense(side: Any) -> bool:
    return isinstance(side, torch.Tensor) and side.ndim == 2 and len(side) > 1


def _rows(side: torch.Tensor) -> torch.Tensor:
    return side.detach()[:ROWS].float().clone()


def _spread(vectors: torch.Tensor) -> torch.Tensor:
    """Neighbours in a shuffled batch are pairs at random."""
    unit = normalize(vectors, dim=1)
    return 1 - (unit * unit.roll(1, 0)).sum() / len(unit)
