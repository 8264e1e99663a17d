"""The trial steps of `--auto`: what they are made of, and how long they are timed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lodesmith.recipes._auto_probe import _at_once, _longest, _timed


def test_the_longest_examples_keep_together() -> None:
    def packed(*lengths: int) -> dict[str, torch.Tensor]:
        return {
            "ids": torch.cat([torch.full((length,), length) for length in lengths]),
            "offsets": torch.tensor([0, *lengths]).cumsum(0),
        }

    batch = {
        "queries": packed(3, 1, 2),
        "documents": packed(5, 9, 7),
        "negatives": packed(4, 6),
        "query_ids": torch.tensor([0, 1, 2]),
        "document_ids": torch.tensor([10, 11, 12]),
        "negative_ids": torch.tensor([[1], [2], [-1]]),
        "document_targets": torch.tensor([[0.0], [1.0], [2.0]]),
        "negative_targets": torch.tensor([[7.0], [8.0]]),
        "known": 7,
    }
    paired = _longest(batch, 2, paired=True)
    assert paired["queries"]["ids"].tolist() == [1, 2, 2]
    assert paired["documents"]["ids"].tolist() == [9] * 9 + [7] * 7
    assert paired["documents"]["offsets"].tolist() == [0, 9, 16]
    assert (paired["query_ids"].tolist(), paired["document_ids"].tolist()) == ([1, 2], [11, 12])
    assert paired["document_targets"].tolist() == [[1.0], [2.0]]
    assert paired["known"] == 7
    assert paired["negative_ids"].tolist() == [[2], [-1]]
    assert paired["negatives"]["ids"].tolist() == [6] * 6
    assert paired["negative_targets"].tolist() == [[8.0]]
    assert _longest(batch, 2, paired=False)["query_ids"].tolist() == [0, 2]


class Engine:
    """Steps of given seconds, on a clock of their own."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now = seconds, 0.0

    def step(self, batches: list[int], factor: float) -> None:
        self.now += self.seconds.pop(0)

    def read(self, rows: list[None]) -> None: ...
    def wait(self) -> None: ...
    def any(self, flag: bool) -> bool:
        return flag


@pytest.mark.parametrize(
    ("first", "then", "steps", "expected"),
    [
        (20.0, [], None, (20.0, 1)),  # long enough by itself
        (1.0, [3.0, 4.0, 9.0], None, (3.0, 3)),
        (0.1, [0.1] * 40, None, (0.1, 30)),
        (20.0, [2.0, 3.0], 3, (3.0, 3)),  # as many as another process made
        (20.0, [], 0, (None, 0)),
    ],
)
def test_steps_are_timed_until_it_is_known(
    monkeypatch: pytest.MonkeyPatch, first: float, then: list[float], steps: int | None, expected: object
) -> None:
    engine = Engine(list(then))
    monkeypatch.setattr("lodesmith.recipes._auto_probe.time.perf_counter", lambda: engine.now)
    seconds, made = _timed(engine, first, [0, 1], steps)
    assert (None if seconds is None else pytest.approx(seconds), made) == expected


def test_tokens_at_once() -> None:
    batch = {"queries": {"ids": range(6), "offsets": np.array([0, 1, 3, 6])}}
    batch["documents"] = {"ids": range(90), "offsets": np.array([0, 10, 30, 60, 90])}
    assert _at_once(batch, None) == _at_once(batch, 4) == 96
    assert _at_once(batch, 3) == 6 + 60  # the queries fit into a chunk, and are kept beside it
    assert _at_once(batch, 2) == 60
    assert _at_once(batch, 1) == 30
