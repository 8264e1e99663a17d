"""Two processes train a recipe as one does; a run that other processes began is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ranked_recipes import CASES, begin, refused

import lodesmith as lode
from lodesmith.core.errors import ConfigError
from lodesmith.recipes.train import Training, plan
from lodesmith.testing import tiny_dataset

PROGRAM = Path(__file__).with_name("ranked_recipes.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("ranked-world")
    return {"data": str(tiny_dataset(120).save(folder / "tiny")), "base": str(tiny_model)}


@pytest.fixture(scope="module")
def trained(world: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case by one process, and then by two."""
    folder = tmp_path_factory.mktemp("ranked")
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "LODESMITH_CACHE": str(folder / "cache")}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        command = [sys.executable, *launcher, str(PROGRAM), str(folder), *world.values()]
        done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=500)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["total"] for row in rows if row["event"] == "step"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_first_steps_of_two_processes_are_those_of_one(trained: Path, case: str) -> None:
    one, two = losses(trained / "1" / case), losses(trained / "2" / case)
    assert len(one) == len(two) == 16
    assert two[:10] == pytest.approx(one[:10], abs=1e-5)
    assert one[-2] < one[0] - 0.1  # it learns: the last of its batches but one is as large as the first


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_two_processes_trained_finds_no_less(
    trained: Path, case: str, world: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LODESMITH_CACHE", str(trained / "cache"))
    dataset = lode.Dataset.load(world["data"])
    found = [replace(lode.evaluate(str(trained / ranks / case), dataset, split="test"), system=ranks) for ranks in "12"]
    (pair,) = lode.compare(found).pairs
    assert not pair.significant
    assert abs(pair.difference) < 0.02


@pytest.mark.slow
def test_another_number_of_processes_does_not_go_on_with_a_run(
    trained: Path, world: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in "01":
        told = (trained / f"refused-{rank}.txt").read_text()
        assert "was written by 1 process, and 2 processes would go on" in told
        assert "with engine.processes=1" in told
    monkeypatch.setenv("LODESMITH_CACHE", str(trained / "cache"))
    told = refused("in_batch", world, trained / "begun-by-2")
    assert "was written by 2 processes, and 1 process would go on" in told
    assert "with engine.processes=2" in told


@pytest.mark.slow
def test_a_finished_run_is_left_alone_by_all_processes(trained: Path) -> None:
    assert {(trained / f"again-{rank}.txt").read_text() for rank in "01"} == {"Done"}


@pytest.mark.usefixtures("cache")
def test_one_process_goes_on_with_what_one_began(world: dict[str, str], tmp_path: Path) -> None:
    begin("in_batch", world, tmp_path / "run")
    assert refused("in_batch", world, tmp_path / "run") == "not refused"


@pytest.mark.usefixtures("cache")
def test_a_resume_leaves_the_recipe_of_the_checkpoints_as_it_is(world: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    training = plan("isotropic", {**world, "engine.processes": 2}, out=run)
    assert isinstance(training, Training)
    training._begin()
    begun = (run / "recipe.yaml").read_bytes()
    (run / "checkpoints" / "step-000000001").mkdir(parents=True)
    other = plan("isotropic", {**world, "engine.processes": 1}, out=run, resume=True)
    assert isinstance(other, Training)
    other._begin()
    assert (run / "recipe.yaml").read_bytes() == begun
    (run / "checkpoints" / "step-000000001").rmdir()
    other._begin()  # before the first of them, the number of processes is free
    assert b"processes: 1" in (run / "recipe.yaml").read_bytes()


@pytest.mark.usefixtures("cache")
def test_a_recipe_for_two_processes_is_not_trained_by_one(world: dict[str, str], tmp_path: Path) -> None:
    training = plan("isotropic", {**world, "engine.processes": 2}, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"engine\.processes is 2, and this training has 1\n.*lode train"):
        next(training.events())
    assert not (tmp_path / "run").exists()
    alone = plan("isotropic", world, out=tmp_path / "other")
    assert training.recipe.fingerprint == alone.recipe.fingerprint  # who computes is not part of the experiment
