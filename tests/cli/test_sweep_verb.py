"""`lode train … --sweep`: what comes out on standard output, and what is refused with two lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import lode
from lodesmith.cli.sweeping import several
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> list[str]:
    dataset = tiny_dataset().save(tmp_path / "tiny")
    return [f"data={dataset}", f"base={tiny_model}", "stages.0.epochs=1", "stages.0.batch_size=8"]


def test_a_sweep_prints_its_table_and_goes_on_when_asked_again(
    capsys: pytest.CaptureFixture[str], settings: list[str], tmp_path: Path
) -> None:
    # as in the shell: what follows the option's own value is an argument, and its commas are a sweep too
    command = ("train", "isotropic", *settings, "--sweep", "temperature=0.05,0.5", "kind=linear,residual_linear")
    code, out, err = lode(capsys, *command, "--out", tmp_path / "out", "--json")
    assert code == 0
    found = json.loads(out)
    assert [row["name"] for row in found["settings"]][:2] == [
        "temperature=0.05, kind=linear",
        "temperature=0.05, kind=residual_linear",
    ]
    assert found["comparison"]["pairs"]
    assert found == json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert "[4/4] temperature=0.5, kind=residual_linear, seed 0: new" in err
    code, out, err = lode(capsys, *command, "--out", tmp_path / "out")
    assert code == 0
    assert "[4/4] temperature=0.5, kind=residual_linear, seed 0: finished" in err
    table = out.splitlines()
    assert table[0].startswith("setting")
    assert [line.split()[0] for line in table[1:8]] == [
        *["temperature=0.05,"] * 2,
        *["temperature=0.5,"] * 2,
        "random",
        "bm25",
        "model",
    ]
    assert "Command: lode train isotropic" in (tmp_path / "out" / "sweep.md").read_text()


def test_a_dry_run_lists_the_runs_and_trains_none(
    capsys: pytest.CaptureFixture[str], settings: list[str], tmp_path: Path
) -> None:
    command = ("train", "isotropic", *settings, "--sweep", "seed=0,1", "--dry-run", "--out", tmp_path / "out")
    code, out, _ = lode(capsys, *command)
    assert code == 0
    assert "new      isotropic,seed=1" in out
    assert "to_train: 2" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("temprature=1,2", "did you mean 'temperature'?"),
        ("temperature", "is not a sweep"),
        ("data=a,b", "cannot be swept"),
    ],
)
def test_a_wrong_sweep_exits_2_before_training(
    capsys: pytest.CaptureFixture[str], settings: list[str], tmp_path: Path, sweep: str, said: str
) -> None:
    code, out, err = lode(capsys, "train", "isotropic", *settings, "--sweep", sweep, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_recipe_s_path_may_have_a_comma(tmp_path: Path) -> None:
    odd = tmp_path / "a,b.yaml"
    odd.write_text("name: odd")
    assert several(str(odd)) == [str(odd)]
    assert several("a.yaml,two_tower_bag") == ["a.yaml", "two_tower_bag"]


def test_help_shows_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lode(capsys, "train", "--help")
    assert code == 0
    assert "--sweep" in out
    assert "seed=0,1,2" in out
