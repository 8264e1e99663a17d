"""A signal that comes after two models of OpenVINO have gone finds a stack to be handled on."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from lodesmith.encoders._signal_stack import _Stack, same_signal_stack

PROGRAM = """
import faulthandler, gc, os, signal, sys
from pathlib import Path

import numpy as np
import openvino
import openvino.opset13 as ops

from lodesmith.encoders._exported import _openvino

faulthandler.enable()  # which handles signals on a stack of its own
inputs = ops.parameter([-1, 4], np.int64, name="ids")
rows = ops.matmul(ops.convert(inputs, "f32"), ops.constant(np.ones((4, 4), np.float32)), False, False)
openvino.save_model(openvino.Model([rows], [inputs]), sys.argv[1])
first, second = _openvino(Path(sys.argv[1])), _openvino(Path(sys.argv[1]))
given = {"ids": np.ones((2, 4), np.int64)}
assert (first(given) == second(given)).all()
del first
gc.collect()
del second
gc.collect()
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
assert seen == [1]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the stack is put back on Linux alone")
def test_the_stack_is_what_it_was() -> None:
    libc, room = ctypes.CDLL(None), ctypes.create_string_buffer(64 * 1024)
    before, after = _Stack(), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    with same_signal_stack():
        own = _Stack(ctypes.addressof(room), 0, len(room))
        assert libc.sigaltstack(ctypes.byref(own), None) == 0
    libc.sigaltstack(None, ctypes.byref(after))
    assert (after.pointer, after.flags, after.size) == (before.pointer, before.flags, before.size)


@pytest.mark.slow
def test_a_signal_after_two_models_have_gone_is_handled(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model.xml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
