"""What several processes that train together know of each other: rows with their gradients, and sums.

An objective works on its own rows against the rows of all. `DistributedDataParallel` then takes the mean of the
ranks' gradients. So that this mean is the gradient of one process with the whole batch, a rank's term is its sum of
losses, divided by the count of all ranks, times the number of ranks; and the gradient of a gathered row is the sum of
what every rank has for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """The processes, and how the rows of a batch lie on them.

    Args:
        counts: rows of each rank, for each kind of rows: [kinds][ranks].
        rank: this process's number.
    """

    counts: tuple[tuple[int, ...], ...]
    rank: int = 0

    @classmethod
    def of(cls, *own: int, together: bool, device: torch.device) -> Self:
        """Tell each other how many rows of each kind there are; one process alone knows without asking.

        Args:
            own: this rank's counts.
            together: ask the others, where there are any.
            device: where the ranks' tensors are.
        """
        if not together or not several():
            return cls(tuple((number,) for number in own))
        mine = torch.tensor(own, device=device)
        every = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(every, mine)
        lists = torch.stack(every).T.tolist()
        return cls(tuple(tuple(kind) for kind in lists), distributed.get_rank())

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return len(self.counts[0])

    @property
    def share(self) -> float:
        """The weight of this rank's mean over its rows (of the first kind) in the mean of the ranks."""
        return self.world * self.counts[0][self.rank] / max(1, sum(self.counts[0]))

    @property
    def first(self) -> int:
        """The number that this rank's first row has among the rows of all."""
        return sum(self.counts[0][: self.rank])

    def gather(self, rows: torch.Tensor, kind: int = 0) -> torch.Tensor:
        """The rows of all ranks, one rank after another: [k, …] → [sum of k, …], differentiable.

        Args:
            rows: as many as were counted.
            kind: which of the counts.
        """
        if self.world == 1 or not sum(self.counts[kind]):
            return rows
        gathered: torch.Tensor = _Gather.apply(rows, self.counts[kind], self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of values without a gradient."""
        if self.world == 1:
            return values
        values = values.detach().clone()
        distributed.all_reduce(values)
        return values

    def agree(self, value: torch.Tensor) -> torch.Tensor:
        """The first rank's value."""
        if self.world > 1:
            distributed.broadcast(value, 0)
        return value


def several() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """All-gather of unequally many rows; backward, the gradients of all ranks are summed."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: Sequence[int], rank: int) -> torch.Tensor:
        ctx.counts, ctx.rank = counts, rank
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        every = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(every, padded)
        return torch.cat([part[:number] for part, number in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return torch.split(gradient, list(ctx.counts))[ctx.rank], None, None  # type: ignore[no-untyped-call]
