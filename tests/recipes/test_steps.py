"""Steps that are done once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lodesmith.core.files import read_object, write_json
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
        time.sleep(0.06)
        raise KeyboardInterrupt

    steps = Steps(tmp_path, lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        steps.once("make", 1, interrupted, products=[])
    spent = Steps(tmp_path, lambda line: None).seconds()
    ran: list[int] = []
    again = Steps(tmp_path, lambda line: None)
    again.once("make", 1, lambda: ran.append(1), products=[])
    assert ran == [1]
    assert again.seconds() >= spent >= 0.05  # both times together
    other = Steps(tmp_path, lambda line: None)
    other.once("make", 2, lambda: ran.append(2), products=[])
    assert other.seconds() < 0.05


def test_a_folder_of_before_is_known(tmp_path: Path) -> None:
    Steps(tmp_path, lambda line: None).once("make", 1, lambda: None, products=[])
    told = read_object(tmp_path / "steps.json")
    del told["make"]["whole"]
    write_json(tmp_path / "steps.json", told)
    said: list[str] = []
    Steps(tmp_path, said.append).once("make", 1, lambda: None, products=[])
    assert said == ["make: done before (0 s)"]


def test_a_damaged_memory_starts_over(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("{")
    told: list[str] = []
    steps = Steps(tmp_path, told.append)
    steps.once("make", 1, lambda: None, products=[])
    assert "damaged" in told[0]
    assert steps.seconds() >= 0


@pytest.mark.parametrize("text", ["[]", "null", '"x"', '{"make": 5}', '{"make": []}', '{"make": {"key": "k"}}'])
def test_a_memory_of_another_shape_starts_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "steps.json").write_text(text)
    told: list[str] = []
    steps = Steps(tmp_path, told.append)
    assert "damaged" in told[0]
    steps.once("make", 1, lambda: None, products=[])
    assert steps.seconds() >= 0


def test_one_damaged_step_leaves_the_others(tmp_path: Path) -> None:
    ran: list[str] = []
    steps = Steps(tmp_path, lambda line: None)
    for name in ("a", "b"):
        steps.once(name, 1, lambda: None, products=[])
    told = read_object(tmp_path / "steps.json")
    write_json(tmp_path / "steps.json", told | {"b": {"key": told["b"]["key"], "seconds": "long"}})
    steps = Steps(tmp_path, lambda line: None)
    for name in ("a", "b"):
        steps.once(name, 1, lambda name=name: ran.append(name), products=[])  # type: ignore[misc]
    assert ran == ["b"]
    steps.again("a")
    steps.once("a", 1, lambda: ran.append("a"), products=[])
    assert ran == ["b", "a"]
