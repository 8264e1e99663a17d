"""Trackers: what they get, that they go on after a break, and that none of them can stop a training."""

from __future__ import annotations

import importlib.util
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_training import STEPS_AN_EPOCH, run, stages, weights

from lodesmith.core import events
from lodesmith.core.errors import MissingExtraError
from lodesmith.core.events import Event
from lodesmith.training import tracking
from lodesmith.training.tracking import Begin, check, figures, tracked


def needs(package: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def step(number: int, total: float = 0.5) -> events.Step:
    return events.Step(number, 1, "s", {"infonce": total}, total, {"default": 0.1}, {"default": 2.0}, 100.0)


HAPPENED: tuple[Event, ...] = (
    step(10),
    events.Validation(12, 1, "s", {"nDCG@10": 0.5}, True),
    events.Warning(12, 1, "s", "odd", "mend it", "zero"),
    step(20, 0.25),
    events.Done(20, 1, "s", "complete"),
)


class Kept:
    """A tracker that keeps everything."""

    def __init__(self) -> None:
        self.begun: list[Begin] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def __call__(self, begin: Begin) -> Kept:
        self.begun.append(begin)
        return self

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def test_figures_are_named_by_what_they_are() -> None:
    kept = Kept()
    assert list(tracked(iter(HAPPENED), {"kept": kept}, Path("x"), name="n", config={"a": 1})) == list(HAPPENED)
    assert [number for number, _ in kept.rows] == [10, 12, 12, 20]
    names = {"train/infonce", "train/total", "train/throughput", "train/epoch", "lr/default", "grad_norm/default"}
    assert set(kept.rows[0][1]) == names
    assert kept.rows[1][1] == {"validation/nDCG@10": 0.5}
    assert kept.rows[2][1] == {"health/zero": 1.0}
    assert kept.closed == 1
    assert (kept.begun[0].name, kept.begun[0].config, kept.begun[0].resumed) == ("n", {"a": 1}, None)
    assert figures(HAPPENED[-1]) == {}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def test_a_resumed_run_has_the_identity_of_the_one_it_resumes() -> None:
    kept = Kept()
    list(tracked(iter(HAPPENED), {"kept": kept}, Path("run"), name="n"))
    resumed = [events.Resumed(10, 1, "s", Path("c")), *HAPPENED[1:]]
    list(tracked(iter(resumed), {"kept": kept}, Path("run"), name="n"))
    list(tracked(iter(HAPPENED), {"kept": kept}, Path("run"), name="n"))
    first, second, third = kept.begun
    assert first.identity == second.identity != third.identity
    assert second.resumed == 10


def test_other_ranks_track_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    list(tracked(iter(HAPPENED), {"kept": kept}, Path("run"), name="n", rank=1))
    monkeypatch.setenv("RANK", "3")
    list(tracked(iter(HAPPENED), {"kept": kept}, Path("run"), name="n"))
    assert not kept.begun
    assert not Path("run").exists()


class Broken(Kept):
    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def _break(self, at: str) -> None:
        if at == self.at:
            raise SystemExit("no connection")

    def __call__(self, begin: Begin) -> Broken:
        self._break("open")
        return self

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._break("log")

    def close(self) -> None:
        self._break("close")


@pytest.mark.parametrize("at", ["open", "log", "close"])
def test_a_tracker_that_raises_is_left_out_and_the_others_go_on(at: str) -> None:
    kept = Kept()
    found = list(tracked(iter(HAPPENED), {"broken": Broken(at), "kept": kept}, Path("run"), name="n"))
    complaints = [event for event in found if event not in HAPPENED]
    (complaint,) = complaints
    assert isinstance(complaint, events.Warning)
    assert "tracking by broken has stopped: SystemExit: no connection" in complaint.message
    assert [event for event in found if event is not complaint] == list(HAPPENED)
    assert isinstance(found[-1], events.Done)
    assert len(kept.rows) == 4


def test_a_tracker_that_hangs_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSING", 0.2)
    monkeypatch.setattr(tracking, "WAITING", 2)
    stuck = threading.Event()

    class Stuck(Kept):
        def log(self, values: Mapping[str, float], step: int) -> None:
            stuck.wait(20)

    start = time.monotonic()
    found = list(tracked((step(n) for n in range(1, 50)), {"stuck": Stuck()}, Path("run"), name="n"))
    stuck.set()
    assert len(found) == 49
    assert time.monotonic() - start < 5


def test_what_a_slow_tracker_misses_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAITING", 2)
    gate = threading.Event()

    class Slow(Kept):
        def __call__(self, begin: Begin) -> Slow:
            gate.wait(10)
            return self

    def happenings() -> Iterator[Event]:
        yield from (step(n) for n in range(1, 10))
        gate.set()
        time.sleep(0.3)
        yield events.Done(10, 1, "s", "complete")

    found = list(tracked(happenings(), {"slow": Slow()}, Path("run"), name="n"))
    assert any(isinstance(event, events.Warning) and "7 reports are missing" in event.message for event in found)


def test_leaving_early_closes_trackers_and_training() -> None:
    kept, closed = Kept(), []

    def happenings() -> Iterator[Event]:
        try:
            yield from HAPPENED
        finally:
            closed.append(True)

    for _ in tracked(happenings(), {"kept": kept}, Path("run"), name="n"):
        break
    del _
    assert (kept.closed, closed) == (1, [True])


def test_what_a_tracker_prints_stays_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    class Chatty(Kept):
        def log(self, values: Mapping[str, float], step: int) -> None:
            print("* hello from the tracker")

    before = sys.stdout
    for event in tracked(iter(HAPPENED), {"chatty": Chatty()}, Path("run"), name="n"):
        print(type(event).__name__)
    assert sys.stdout is before
    out, err = capsys.readouterr()
    assert out.split() == ["Step", "Validation", "Warning", "Step", "Done"]
    assert "hello from the tracker" in err


def test_a_missing_package_is_told_before_anything_runs() -> None:
    with pytest.raises(MissingExtraError, match="lodesmith"):
        check(["no_such_tracker"])
    check([])


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_weights_are_the_same_with_trackers(tmp_path: Path) -> None:
    plain, followed = stages(epochs=1), stages(epochs=1)
    list(run(tmp_path / "a", plain))
    list(tracked(run(tmp_path / "b", followed), ["tensorboard"], tmp_path / "b", name="toy"))
    assert weights(plain) == weights(followed)
    assert STEPS_AN_EPOCH


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in read.Tags()["scalars"]}


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_one_curve_after_a_break() -> None:
    run = Path("run")
    list(tracked(iter([step(10), step(20, 9.0), step(30, 9.0)]), ["tensorboard"], run, name="n"))
    resumed = [events.Resumed(10, 1, "s", Path("c")), step(20, 0.25), events.Done(20, 1, "s", "complete")]
    list(tracked(iter(resumed), ["tensorboard"], run, name="n"))
    found = scalars(run / "tracking" / "tensorboard")
    assert found["train/total"] == [(10, 0.5), (20, 0.25)]
    assert found["grad_norm/default"] == [(10, 2.0), (20, 2.0)]


@needs("wandb")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_without_a_key_writes_files_for_a_later_sync() -> None:
    run = Path("run")
    list(tracked(iter(HAPPENED), ["wandb"], run, name="n", config={"seed": 1}))
    time.sleep(1.1)  # the folders are named by the second
    resumed = [events.Resumed(20, 1, "s", Path("c")), step(30), events.Done(30, 1, "s", "complete")]
    found = list(tracked(iter(resumed), ["wandb"], run, name="n", config={"seed": 1}))
    assert not any(isinstance(event, events.Warning) for event in found)
    folders = sorted((run / "tracking" / "wandb").glob("offline-run-*"))
    (identity,) = {folder.name.rpartition("-")[2] for folder in folders}
    assert len(folders) == 2
    assert identity in (run / "tracking" / "identity.json").read_text()
    files, patience = [folder / f"run-{identity}.wandb" for folder in folders], time.monotonic() + 20
    while not all(file.exists() and file.stat().st_size for file in files) and time.monotonic() < patience:
        time.sleep(0.1)  # a process of wandb's own writes them
    assert all(file.stat().st_size > 0 for file in files)
    logging.getLogger("wandb").handlers.clear()


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio_goes_on_with_the_same_run() -> None:
    run = Path("run")
    list(tracked(iter(HAPPENED), ["trackio"], run, name="n"))
    resumed = [events.Resumed(20, 1, "s", Path("c")), step(30), events.Done(30, 1, "s", "complete")]
    list(tracked(iter(resumed), ["trackio"], run, name="n"))
    with sqlite3.connect(Path("trackio") / "lodesmith.db") as database:
        rows = database.execute("select distinct run_name from metrics").fetchall()
        told = database.execute("select step from metrics order by step").fetchall()
    database.close()
    assert len(rows) == 1
    assert sorted({number for (number,) in told}) == [10, 12, 20, 30]
