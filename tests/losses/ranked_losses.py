"""The losses over the rows of several processes. As a program: `ranked_losses.py FOLDER RANK RANKS` writes what one
of them finds with its share of the rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import distributed

from lodesmith.losses._sums import Total
from lodesmith.losses.covariance import covariance
from lodesmith.losses.sigreg import sigreg

SHARES = (40, 23)
"""Rows of each of two ranks."""
Loss = Callable[[torch.Tensor, Total | None], torch.Tensor]

LOSSES: dict[str, Loss] = {
    "sigreg": lambda rows, total: sigreg(rows, directions=20, seed=3, step=7, total=total),
    "covariance": lambda rows, total: covariance(rows, variance=0.7, total=total),
}


def rows(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The rows of all ranks: neither centred nor round."""
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randn(sum(SHARES), 6, generator=generator, dtype=dtype)
    return drawn * torch.tensor([2.0, 1, 1, 0.5, 0.5, 0.1], dtype=dtype) + 0.3


def found(name: str, share: torch.Tensor, total: Total | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient in the rows of this rank."""
    share = share.clone().requires_grad_()
    loss = LOSSES[name](share, total)
    loss.backward()
    assert share.grad is not None
    return loss.detach(), share.grad


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over the processes of the group."""
    values = values.detach().clone()
    distributed.all_reduce(values)
    return values


def main(arguments: Sequence[str]) -> None:
    folder, rank, ranks = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks)
    share = rows().split(SHARES)[rank]
    torch.save({name: found(name, share, total) for name in LOSSES}, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
