"""Two processes, each with a share of every batch, train as one process with the whole batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranked_objectives import STEPS, every

from lodesmith.objectives._ranks import Ranks, several

PROGRAM = Path(__file__).with_name("ranked_objectives.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_one_process_alone_asks_nobody() -> None:
    rows = torch.randn(3, 2)
    ranks = Ranks.of(3, 5, together=True, device=rows.device)
    assert not several()
    assert (ranks.world, ranks.share, ranks.first) == (1, 1.0, 0)
    assert ranks.gather(rows) is rows
    assert ranks.sum(rows) is rows
    assert ranks.agree(rows) is rows


def test_shares_of_unequal_ranks() -> None:
    shares = [Ranks(((8, 7, 0), (2, 0, 1)), rank) for rank in range(3)]
    assert [own.first for own in shares] == [0, 8, 15]
    assert [own.share for own in shares] == pytest.approx([3 * 8 / 15, 3 * 7 / 15, 0])
    assert Ranks(((0, 0),), 1).share == 0.0


@pytest.mark.slow
def test_the_losses_of_two_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, PROGRAM, tmp_path], env=ENVIRONMENT, check=False, timeout=280, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    alone: dict[str, list[Any]] = every((0, 1), tmp_path / "alone")
    for case, expected in alone.items():
        found = first[case]
        assert len(found) == len(expected) == STEPS
        # What is told to keep to itself has fewer candidates, and another loss.
        close = all(a == pytest.approx(b, rel=1e-5, abs=1e-5) for a, b in zip(found, expected, strict=True))
        assert close != case.startswith("local"), case
