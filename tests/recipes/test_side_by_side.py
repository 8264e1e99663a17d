"""Work side by side: done once each, told of, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError, LodesmithError, MissingExtraError
from lodesmith.core.progress import Progress, listen, tell
from lodesmith.recipes._side_by_side import side_by_side
from lodesmith.training.interrupt import interruptions


def note(name: str, folder: Path, seconds: float = 0.0) -> None:
    """Leave a file."""
    import torch

    tell("work", 1, 2, "parts")
    time.sleep(seconds)
    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def refuse(name: str, error: Exception | None) -> None:
    """Raise."""
    if error is not None:
        raise error


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_is_worked_on_and_told_of(tmp_path: Path, processes: int) -> None:
    heard: list[Progress] = []
    names = ["one", "two", "three"]
    with listen(heard.append):
        side_by_side(note, [(name, tmp_path) for name in names], processes)
    own = {name: int((tmp_path / name).read_text().split()[0]) for name in names}
    assert (os.getpid() in own.values()) == (processes == 1)
    labels = {progress.label for progress in heard}
    assert labels == ({"work"} if processes == 1 else {f"{name}: work" for name in names})
    assert {(progress.done, progress.total, progress.unit) for progress in heard} == {(1, 2, "parts")}


def test_one_item_needs_no_process(tmp_path: Path) -> None:
    side_by_side(note, [("one", tmp_path)], 8)
    assert (tmp_path / "one").read_text().split()[0] == str(os.getpid())


@pytest.mark.parametrize(
    "error", [InputError("is bad", "mend it", path="a", line=3), MissingExtraError("x", "y"), ValueError("a defect")]
)
@pytest.mark.parametrize("processes", [1, 2])
def test_what_an_item_raises_is_raised(error: Exception, processes: int) -> None:
    with pytest.raises(type(error)) as caught:
        side_by_side(refuse, [("a", None), ("b", error), ("c", None)], processes)
    assert str(caught.value) == str(error)


def begin(name: str, folder: Path) -> None:
    """Leave a file; the second is bad."""
    (folder / name).write_text(name)
    if name == "b":
        raise InputError("is bad", "mend it")
    time.sleep(1)


@pytest.mark.parametrize("processes", [1, 2])
def test_none_begins_after_one_has_failed(tmp_path: Path, processes: int) -> None:
    with pytest.raises(InputError, match="is bad"):
        side_by_side(begin, [(name, tmp_path) for name in "abcd"], processes)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def end(name: str, file: Path) -> None:
    """Be killed, as where memory runs out."""
    file.write_text(name)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
def test_a_process_that_is_killed_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(LodesmithError, match="was ended, perhaps because memory ran out"):
        side_by_side(end, [("a", tmp_path / "a"), ("b", tmp_path / "b")], 2)


def train(name: str, folder: Path) -> None:
    """Go on until asked to end, then take a moment to save."""
    with interruptions() as asked:
        (folder / name).write_text(str(os.getpid()))
        while not asked:
            time.sleep(0.05)
        time.sleep(1)
        (folder / f"{name}.saved").write_text("")
        asked.obey()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
@pytest.mark.parametrize("asked", ["SIGINT", "SIGTERM", "SIGKILL", "Ctrl-C"])
def test_no_work_outlives_who_began_it_and_all_of_it_saves(tmp_path: Path, asked: str) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from recipes.test_side_by_side import train\n"
        "from lodesmith.recipes._side_by_side import side_by_side\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs are deaf to it
        "    side_by_side(train, [(n, Path(sys.argv[1])) for n in ('a', 'b', 'c')], 2)\n"
    )
    (tmp_path / "go.py").write_text(code)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    begun = subprocess.Popen(
        [sys.executable, str(tmp_path / "go.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
    files = [tmp_path / "a", tmp_path / "b"]
    _until(lambda: all(file.exists() and file.read_text() for file in files))
    children = _children(begun.pid)
    assert {int(file.read_text()) for file in files} <= set(children)
    if asked == "Ctrl-C":
        os.killpg(begun.pid, signal.SIGINT)
    else:
        begun.send_signal(getattr(signal, asked))
    try:
        assert begun.wait(60) != 0
    finally:
        begun.kill()
    _until(lambda: not any(map(_lives, children)))
    assert (tmp_path / "a.saved").exists()
    assert (tmp_path / "b.saved").exists()
    assert not (tmp_path / "c").exists()


def _children(process: int) -> list[int]:
    told = Path(f"/proc/{process}/task/{process}/children")
    if not told.exists():
        pytest.skip("the system does not say which processes a process has begun")
    return [int(own) for own in told.read_text().split()]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def _until(condition: object) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.1)
    pytest.fail("it did not come about in a minute")
