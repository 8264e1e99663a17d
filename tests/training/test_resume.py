"""Whatever ends a training, the resumed one ends with the same bits and the same metrics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import run, stages, weights

from lodesmith.core import events
from lodesmith.core.errors import InputError, IntegrityError, ResumeError, Terminated
from lodesmith.training import read_metrics
from lodesmith.training.engine import TorchEngine
from lodesmith.training.position import check_processes

TIMINGS = ("throughput", "seconds")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], Path]:
    """The weights and the folder of a training that nothing disturbs, reported at every step."""
    folder = tmp_path_factory.mktemp("whole")
    plan = stages()
    for _ in run(folder, plan, log_every=1):
        pass
    return weights(plan), folder


def test_the_training_has_what_a_resume_must_bring_back(whole: tuple[list[bytes], Path]) -> None:
    told = [line for line in lines(whole[1]) if line["event"] == "step"]
    groups = [set(line["lr"]) for line in told if line["stage"] == "one"]
    assert groups == [{"default"}] * 12 + [{"default", "encoder.3.*"}] * 12
    assert all(line["grad_norm"].keys() == line["lr"].keys() for line in told)
    rates = [line["lr"]["default"] for line in told if line["stage"] == "two"]
    assert max(rates) > min(rates[2:])


def test_the_same_recipe_gives_the_same_bits(whole: tuple[list[bytes], Path], tmp_path: Path) -> None:
    plan = stages()
    for _ in run(tmp_path, plan, log_every=1):
        pass
    assert weights(plan) == whole[0]
    assert lines(tmp_path) == lines(whole[1])
    assert weights(stages()) != whole[0]


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("step", 15),  # in the third epoch
        ("write", 7),  # the second checkpoint; each writes model, optimizer and rng, the best weights only the model
    ],
)
def test_a_killed_training_resumes_to_the_same_bits(
    whole: tuple[list[bytes], Path], tmp_path: Path, how: str, number: int
) -> None:
    program = Path(__file__).with_name("toy_training.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    dead = subprocess.run([sys.executable, program, str(tmp_path), how, str(number)], env=environment, check=False)
    assert dead.returncode == -signal.SIGKILL
    remains = list((tmp_path / "checkpoints").glob(".*.tmp"))
    assert bool(remains) == (how == "write")
    plan = stages()
    first = next(happenings := run(tmp_path, plan, resume=True, log_every=1))
    assert isinstance(first, events.Resumed)
    assert 0 < first.step < 24
    for _ in happenings:
        pass
    assert weights(plan) == whole[0]
    assert lines(tmp_path) == lines(whole[1])
    assert not list((tmp_path / "checkpoints").glob(".*.tmp"))


@pytest.mark.parametrize("step", [1, 6, 13, 24, 25, 30, 39])
def test_a_break_at_any_step_resumes_to_the_same_bits(
    whole: tuple[list[bytes], Path], tmp_path: Path, step: int
) -> None:
    for event in run(tmp_path, stages(), log_every=1):
        if event.step >= step and not isinstance(event, events.Done):
            break
    plan = stages()
    for _ in run(tmp_path, plan, resume=True, log_every=1):
        pass
    assert weights(plan) == whole[0]
    assert lines(tmp_path) == lines(whole[1])


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_between_reports_and_the_means_come_out_the_same(
    tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    undisturbed, plan = stages(), stages()
    for _ in run(tmp_path / "a", undisturbed):
        pass
    handler = signal.getsignal(number)
    asked = []
    validate = plan[1].validate
    assert validate is not None

    def interrupted() -> Any:
        if not asked:
            asked.append(os.kill(os.getpid(), number))
        return validate()

    object.__setattr__(plan[1], "validate", interrupted)
    happened: list[events.Event] = []
    with pytest.raises(error) as caught:
        happened.extend(run(tmp_path / "b", plan))
    last = happened[-1]
    assert isinstance(last, events.Checkpoint)
    assert last.step == 29  # validated and asked there: between the reports of steps 28 and 32
    if error is Terminated:
        assert caught.value.code == 143
    assert signal.getsignal(number) is handler
    plan = stages()
    for _ in run(tmp_path / "b", plan, resume=True):
        pass
    assert weights(plan) == weights(undisturbed)
    assert lines(tmp_path / "b") == lines(tmp_path / "a")


def test_a_signal_at_the_very_end_is_still_obeyed(tmp_path: Path) -> None:
    happenings = run(tmp_path, stages()[:1])
    while not isinstance(event := next(happenings), events.Checkpoint) or event.step < 24:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(next(happenings), events.Done)
    with pytest.raises(Terminated):
        next(happenings)


def stop_after(folder: Path, step: int) -> list[Path]:
    """Train until a step; the checkpoints there are then, oldest first."""
    for event in run(folder, stages()):
        if event.step >= step and isinstance(event, events.Checkpoint):
            break
    return sorted((folder / "checkpoints").glob("step-*"))


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def oversize(path: Path) -> None:
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, oversize, remove])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    before, last = stop_after(tmp_path, 12)
    damage(last / name)
    happenings = run(tmp_path, stages(), resume=True)
    resumed, warning = next(happenings), next(happenings)
    happenings.close()  # type: ignore[attr-defined]
    assert isinstance(resumed, events.Resumed)
    assert resumed.path == before
    assert isinstance(warning, events.Warning)
    assert str(last / name) in warning.message


def test_after_damage_the_bits_are_the_same(whole: tuple[list[bytes], Path], tmp_path: Path) -> None:
    _, last = stop_after(tmp_path, 18)
    flip(last / "optimizer.safetensors")
    plan = stages()
    for _ in run(tmp_path, plan, resume=True):
        pass
    assert weights(plan) == whole[0]


def test_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    for path in stop_after(tmp_path, 12):
        truncate(path / "rng.safetensors")
    with pytest.raises(IntegrityError, match=r"step-000000012/rng\.safetensors"):
        next(run(tmp_path, stages(), resume=True))


def test_another_recipe_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    stop_after(tmp_path, 6)
    with pytest.raises(ResumeError, match=r"stages\.0\.optim\.lr is 0\.02, the checkpoint has 0\.01"):
        next(run(tmp_path, stages(lr=0.02), resume=True))
    with pytest.raises(ResumeError, match=r"recipe\.toy is 2, the checkpoint has 1"):
        next(run(tmp_path, stages(), resume=True, recipe={"toy": 2}))
    with pytest.raises(ResumeError, match=r"engine\.seed is 6"):
        next(run(tmp_path, stages(), resume=True, engine=TorchEngine(seed=6)))


def test_another_number_of_threads_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(tmp_path, 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    happenings = run(tmp_path, stages(), resume=True)
    next(happenings)
    warning = next(happenings)
    assert isinstance(warning, events.Warning)
    assert "threads 3, begun with 1" in warning.message
    happenings.close()  # type: ignore[attr-defined]


def test_starting_anew_over_checkpoints_is_refused(tmp_path: Path) -> None:
    stop_after(tmp_path, 6)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds the checkpoints"):
        next(run(tmp_path, stages()))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_resuming_what_is_finished_changes_nothing(whole: tuple[list[bytes], Path]) -> None:
    before = lines(whole[1])
    plan = stages()
    happened = list(run(whole[1], plan, resume=True, log_every=1))
    assert [type(event) for event in happened] == [events.Resumed, events.Done]
    assert weights(plan) == whole[0]
    assert lines(whole[1]) == before


def test_resume_without_a_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    first = next(run(tmp_path, stages(), resume=True))
    assert isinstance(first, events.Step)
    assert first.step == 4


def test_two_checkpoints_are_kept_and_hold_no_pickle(whole: tuple[list[bytes], Path]) -> None:
    folder = whole[1] / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best", "step-000000036", "step-000000039"]
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    state = json.loads((folder / "step-000000036" / "state.json").read_text())
    assert state["surroundings"]["threads"] == 1
    assert state["position"]["stage_step"] == 12


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    class Two:
        world = 2

    check_processes({"processes": 2}, Two(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(
        ResumeError, match=r"was written by 1 process, and 2 processes would go on\n.*engine\.processes=1"
    ):
        check_processes({"processes": 1}, Two(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ResumeError, match=r"was written by 4 processes, and 2 .*\n.*engine\.processes=4"):
        check_processes({"processes": 4}, Two(), tmp_path)  # type: ignore[arg-type]
