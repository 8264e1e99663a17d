"""Steps that are done once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodesmith.recipes.steps import Steps


def test_a_step_runs_again_only_when_its_inputs_or_products_changed(tmp_path: Path) -> None:
    made: list[str] = []

    def work() -> None:
        made.append("x")
        (tmp_path / "product").write_text("x")

    def once(inputs: object) -> None:
        Steps(tmp_path, lambda line: None).once("make", inputs, work, products=[tmp_path / "product"])

    once({"a": 1})
    once({"a": 1})
    assert len(made) == 1
    once({"a": 2})
    assert len(made) == 2
    (tmp_path / "product").unlink()
    once({"a": 2})
    assert len(made) == 3


def test_an_interrupted_step_is_not_remembered(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    steps = Steps(tmp_path, lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        steps.once("make", 1, interrupted, products=[])
    ran: list[int] = []
    Steps(tmp_path, lambda line: None).once("make", 1, lambda: ran.append(1), products=[])
    assert ran == [1]


def test_a_damaged_memory_starts_over(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("{")
    told: list[str] = []
    steps = Steps(tmp_path, told.append)
    steps.once("make", 1, lambda: None, products=[])
    assert "damaged" in told[0]
    assert steps.seconds() >= 0
