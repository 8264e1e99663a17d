"""Freed memory is kept: blocks that come and go cost no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lodesmith.core.memory import keep_freed

FAULTS = """
import resource, sys
import numpy as np
from lodesmith.core.memory import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(6):
    if turn == 2:
        before = faults()
    np.ones(48 << 17)  # 48 MiB
print(faults() - before)
"""


def test_blocks_that_come_and_go_cost_no_page_faults() -> None:
    if not keep_freed():
        pytest.skip("the C library has no mallopt")
    found = {}
    for kind in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True)
        found[kind] = int(done.stdout)
    assert found["kept"] < 500
    assert 4 * found["kept"] < found["given back"]  # which may be few, where pages are huge


HOLES = """
import sys
import numpy as np
from lodesmith.core import memory
memory.keep_freed()
if sys.argv[1] == "returned":
    assert memory.return_freed()
    assert not memory.keep_freed.__wrapped__()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before, blocks = resident(), []
for turn in range(200):  # a small block stays behind each large one
    large = np.ones(1 << 17)
    blocks.append(np.ones(1 << 10))
    del large
kept = [np.ones((1 << 17) + 512 * turn) for turn in range(64)]
del kept
print(resident() - before)
"""


def test_what_is_freed_goes_back_where_memory_is_scarce() -> None:
    if not keep_freed():
        pytest.skip("the C library has no mallopt")
    found = {}
    for kind in ("kept", "returned"):
        done = subprocess.run([sys.executable, "-c", HOLES, kind], capture_output=True, text=True, check=True)
        found[kind] = int(done.stdout)
    assert found["returned"] < 8 << 20 < found["kept"]
