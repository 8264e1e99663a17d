"""log Σ exp of scores that come block by block, and each score's share of that sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LogSum:
    """The highest score of each row and the sum relative to it. As one rounded number a large sum would lose the digits
    that a share exp(score − sum) is made of.

    Args:
        top: [n], −inf where there is no score yet.
        total: [n], Σ exp(score − top).
    """

    top: torch.Tensor
    total: torch.Tensor

    @staticmethod
    def empty(like: torch.Tensor) -> LogSum:
        """Of no scores, for rows [n, ·] in their precision."""
        return LogSum(like.new_full((len(like),), -torch.inf), like.new_zeros(len(like)))

    @property
    def level(self) -> torch.Tensor:
        """[n, 1]: `top`, and 0 where no score is."""
        return self.top.where(self.top.isfinite(), 0)[:, None]

    def add(self, scores: torch.Tensor) -> LogSum:
        """With the scores of a block, [n, b]; −inf ones do not count."""
        level = LogSum(torch.maximum(self.top, scores.amax(1)), self.total)
        total = self.total * (self.top - level.level[:, 0]).exp() + (scores - level.level).exp_().sum(1)
        return LogSum(level.top, total)

    @property
    def value(self) -> torch.Tensor:
        """log Σ exp: [n], −inf where there is no score."""
        return self.top + self.total.log()

    def shares(self, scores: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """factor · exp(score − log Σ exp), [n, b].

        Args:
            scores: of a block, [n, b].
            factor: [n].
        """
        whole = torch.where(self.total > 0, self.total, torch.ones_like(self.total))
        return (scores - self.level).exp_().mul_((factor / whole)[:, None])
