"""Processes that `lode` launches: signals reach them, and what they end with comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lodesmith.recipes.launching import Ended, run
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tiny_dataset(60).save(tmp_path / "tiny"))


WORKER = """
import os, signal, sys, time
rank, mode, folder = os.environ.get("RANK", "0"), sys.argv[1], sys.argv[2]
if mode == "wrong":
    sys.exit(2)
got = []
signal.alarm(120)  # nobody waits for ever
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, _: got.append(n))
if mode == "lost":
    if rank == "1":
        sys.stderr.write("only mine")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    while not got:
        time.sleep(0.02)
    sys.exit(0)
open(f"{folder}/ready-{rank}", "w").close()
while not got:
    time.sleep(0.02)
time.sleep(0.3)
open(f"{folder}/saved-{rank}", "w").write(str([int(n) for n in got]))
sys.exit(128 + got[0])
"""


@pytest.fixture
def worker(tmp_path: Path) -> str:
    (tmp_path / "worker.py").write_text(WORKER)
    return str(tmp_path / "worker.py")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_process_once(worker: str, tmp_path: Path, number: int) -> None:
    def ask() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    before = signal.signal(
        number, signal.default_int_handler
    )  # a shell starts what it runs in the background deaf to SIGINT
    try:
        threading.Thread(target=ask, daemon=True).start()
        ended = run([worker, "wait", str(tmp_path)], 2, 2)
    finally:
        signal.signal(number, before)
    assert (ended.code, ended.asked) == (128 + number, number)
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in "01"] == [f"[{int(number)}]"] * 2


def test_what_processes_end_with_comes_back(
    worker: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodesmith.recipes.launching.SOON", 0.2)
    assert run([worker, "wrong", str(tmp_path)], 2, 2) == Ended(2)
    ended = run([worker, "lost", str(tmp_path)], 2, 2)
    assert ended == Ended(128 + signal.SIGKILL, "only mine")  # and the first one did not wait for ever
    assert capfd.readouterr().err == ""


WATCHER = """
import os, sys, time
from lodesmith.recipes.launching import end_with_launcher
end_with_launcher()
assert not [name for name in os.environ if "LAUNCHER" in name]
open(sys.argv[1] + "/watching-" + os.environ["RANK"] + "-" + str(os.getpid()), "w").close()
time.sleep(120)
"""


def test_what_was_launched_ends_with_a_launcher_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "watcher.py").write_text(WATCHER)
    launcher = "import sys; from lodesmith.recipes.launching import run; run(sys.argv[1:], 2, 2)"
    command = [sys.executable, "-c", launcher, str(tmp_path / "watcher.py"), str(tmp_path)]
    started = subprocess.Popen(command)
    while len(found := list(tmp_path.glob("watching-*"))) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    workers = [psutil.Process(int(path.name.rpartition("-")[2])) for path in found]
    assert all(worker.is_running() for worker in workers)
    started.kill()
    started.wait()
    end = time.monotonic() + 20
    while (alive := [worker for worker in workers if _alive(worker)]) and time.monotonic() < end:
        time.sleep(0.1)
    for worker in alive:
        worker.kill()
    assert not alive


def _alive(process: psutil.Process) -> bool:
    """Whether it runs: nobody may have asked how one whose parent is gone has ended."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_launched_training_ends_with_its_launcher(data: str, tiny_model: Path, tmp_path: Path) -> None:
    settings = (f"data={data}", f"base={tiny_model}", "stages.0.epochs=500", "data.validation=null")
    command = [sys.executable, "-m", "lodesmith.cli.main", "train", "isotropic_full", *settings, "engine.processes=2"]
    started = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], env=dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    )
    try:
        end = time.monotonic() + 240
        while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert started.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        children = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=120) == 143
    finally:
        started.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
