"""Training on token batches: with workers and with ranks, a resumed run ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from text_training import EPOCHS, TextContrast, batches, bits, train

from lodesmith.core import events

PROGRAM = Path(__file__).with_name("text_training.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> TextContrast:
    """An objective after a training that nothing disturbs, without workers."""
    made = batches(store)
    objective = TextContrast(made.known)
    list(train(tmp_path_factory.mktemp("whole"), objective, made, 0))
    return objective


def test_a_break_mid_epoch_resumes_to_the_same_bits(whole: TextContrast, store: Path, tmp_path: Path) -> None:
    made = batches(store)
    assert 12 < len(made) < 30
    for event in train(tmp_path, TextContrast(made.known), made, 0):
        if isinstance(event, events.Checkpoint) and event.step == len(made) + 5 - len(made) % 5:
            break
    made = batches(store)
    resumed = TextContrast(made.known)
    list(train(tmp_path, resumed, made, 0, resume=True))
    assert bits(resumed) == bits(whole)
    assert whole.seen[-len(resumed.seen) :] == resumed.seen
    assert len(resumed.seen) % len(made)  # it was in the middle of an epoch


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "later"), [(2, 2), (1, 2), (2, 0)])
def test_a_killed_training_with_workers_resumes_to_the_same_bits(
    whole: TextContrast, store: Path, tmp_path: Path, workers: int, later: int
) -> None:
    made = batches(store)
    step = len(made) + len(made) // 2
    command = [sys.executable, PROGRAM, "die", tmp_path, store, str(step), str(workers)]
    dead = subprocess.run(command, env=ENVIRONMENT, check=False, timeout=200)
    assert dead.returncode == -signal.SIGKILL
    resumed = TextContrast(made.known)
    happened = list(train(tmp_path, resumed, made, later, resume=True))
    assert isinstance(happened[0], events.Resumed)
    assert len(made) < happened[0].step <= step
    assert happened[0].step % len(made)  # in the middle of an epoch
    assert bits(resumed) == bits(whole)


@pytest.mark.slow
def test_two_ranks_share_every_batch_and_resume_to_the_same_bits(store: Path, tmp_path: Path) -> None:
    made = batches(store)
    step = len(made) + len(made) // 2
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, PROGRAM, "rank", tmp_path, store, str(step), "2"]
    done = subprocess.run(command, env=ENVIRONMENT, check=False, timeout=280, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ranks: list[Any] = [json.loads((tmp_path / f"rank{number}.json").read_text()) for number in (0, 1)]
    assert len({bits_ for own in ranks for bits_ in (own["whole"], own["resumed"])}) == 1
    for own in ranks:
        assert own["seen"][-len(own["after"]) :] == own["after"]
        assert len(own["after"]) % len(made)
    # Step by step the two shares are the batch of a single process; epoch by epoch they are all examples, each once.
    alone = [sorted(zip(b["query_ids"].tolist(), b["document_ids"].tolist(), strict=True)) for b in made]
    both = [sorted(map(tuple, a + b)) for a, b in zip(ranks[0]["seen"], ranks[1]["seen"], strict=True)]
    assert both[: len(made)] == alone
    every = Counter(map(tuple, made.examples.pairs.tolist()))
    assert len(both) == EPOCHS * len(made)
    for epoch in range(EPOCHS):
        assert Counter(pair for own in both[epoch * len(made) :][: len(made)] for pair in own) == every
