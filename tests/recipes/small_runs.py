"""Short trainings of recipes, and the weights that they end with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from lodesmith.recipes._run_folder import finished


def overrides(dataset: Path, model: Path, **more: object) -> dict[str, object]:
    return {"data": str(dataset), "base": str(model), "stages.0.batch_size": 16} | more


def weights(run: Path) -> dict[str, np.ndarray]:
    files = sorted((run / "model").rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": value for file in files for name, value in load_file(file).items()}


def equal(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return bool(left) and left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def killed_is_whole(script: str, arguments: tuple[str, ...], out: Path, checkpoints: int, **environment: str) -> None:
    """A training that is killed after so many checkpoints, and gone on with, ends with the bits of one that was not.

    Args:
        script: trains in the folder that is its last argument, goes on with what is there, and prints its events.
        arguments: of the script before that.
        out: holds both runs.
        checkpoints: after which the second is killed.
        environment: variables that are added to this process's.
    """

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *arguments, str(out / name)]
        variables = {**os.environ, **environment}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables)

    assert start("whole").communicate()[0].split()[-2] == "Done"
    killed = start("killed")
    assert killed.stdout is not None
    seen = 0
    for line in killed.stdout:
        seen += line.startswith("Checkpoint")
        if seen == checkpoints:
            time.sleep(0.02)
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    assert not finished(out / "killed")
    assert start("killed").communicate()[0].startswith("Resumed")
    assert equal(out / "whole", out / "killed")
