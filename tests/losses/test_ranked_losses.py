"""Two processes with a share of the rows each have the loss and the gradient of one process with all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ranked_losses import LOSSES, SHARES, found, rows

from lodesmith.losses import sigreg

PROGRAM = Path(__file__).with_name("ranked_losses.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
Found = tuple[torch.Tensor, torch.Tensor]


class Meeting:
    """Sums over threads that call together, as `all_reduce` does over processes."""

    def __init__(self, parties: int) -> None:
        self._values: dict[int, torch.Tensor] = {}
        self._barrier = threading.Barrier(parties, timeout=20)
        self.calls = 0

    def total(self, rank: int, values: torch.Tensor) -> torch.Tensor:
        self._values[rank] = values.detach().clone()
        self.calls += 1
        self._barrier.wait()
        result = torch.stack([self._values[each] for each in sorted(self._values)]).sum(0)
        self._barrier.wait()
        return result


def together(name: str, shares: tuple[torch.Tensor, ...]) -> list[Found]:
    meeting = Meeting(len(shares))
    with ThreadPoolExecutor(len(shares)) as pool:
        jobs = [
            pool.submit(found, name, share, lambda values, rank=rank: meeting.total(rank, values))
            for rank, share in enumerate(shares)
        ]
        done = [job.result() for job in jobs]
    assert meeting.calls >= len(shares)
    return done


def check(name: str, ranks: list[Found]) -> None:
    loss, gradient = found(name, rows(), None)
    for own, _ in ranks:
        assert own.item() == pytest.approx(loss.item(), rel=1e-12)
    # The mean over ranks of the gradients, as DistributedDataParallel takes it of the parameters.
    mean = torch.cat([part for _, part in ranks]) / len(ranks)
    assert torch.allclose(mean, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shares", [SHARES, (63, 0), (20, 1, 42)])
def test_ranks_agree_with_one_process(name: str, shares: tuple[int, ...]) -> None:
    check(name, together(name, rows().split(shares)))


def test_unequal_ranks_take_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigreg, "_CPU_BLOCK", 200)
    monkeypatch.setattr(sigreg, "_NARROW", 1)
    check("sigreg", together("sigreg", rows().split((60, 3))))


@pytest.mark.parametrize("name", LOSSES)
def test_no_rows_at_all_give_nothing(name: str) -> None:
    for loss, gradient in together(name, (torch.zeros(0, 6), torch.zeros(0, 6))):
        assert loss.item() == 0.0
        assert gradient.shape == (0, 6)


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, tmp_path, str(rank), "2"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name in LOSSES:
        check(name, [rank[name] for rank in ranks])
