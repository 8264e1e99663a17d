"""What every benchmark needs: fair timing, peak memory, a description of the machine, and the result file."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system, and the vector instructions that decide speed."""
    cpu = _fields(Path("/proc/cpuinfo"))
    memory = _fields(Path("/proc/meminfo")).get("MemTotal", "0 kB")
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1),
        "instructions": [flag for flag in FLAGS if flag in cpu.get("flags", "").split()],
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _fields(path: Path) -> dict[str, str]:
    """`name: value` lines of a file of /proc; the first of each name. Empty where there is no such file."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
    return found


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of Python, numpy, lodesmith and the packages given."""
    found = {"python": platform.python_version()}
    for package in ("lodesmith", "numpy", *packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def interleaved(
    cases: Mapping[str, Callable[[], Any]], repeats: int = 5, warmup: int = 1
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time the cases in turn, round after round, so that a slow minute of the machine hits all of them.

    Args:
        cases: name → what to time.
        repeats: rounds that count.
        warmup: rounds before them that do not (compilation, caches).

    Returns:
        The seconds of every counted round by name, and what each case returned last.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    returned: dict[str, Any] = {}
    for number in range(-warmup, repeats):
        for name, case in cases.items():
            returned.pop(name, None)
            gc.collect()
            start = time.perf_counter()
            returned[name] = case()
            took = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(took)
    return seconds, returned


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each case."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(prepare: Callable[..., Any], work: Callable[[Any], Any], *arguments: Any) -> dict[str, float]:
    """Resident memory of `work(prepare(*arguments))` in a fresh process of its own.

    Both functions must be importable (top level of a module).

    Returns:
        MiB: `before` (interpreter, imports and inputs), `peak` during the work, `extra` = the difference.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, work, arguments).result()


def _peak(prepare: Callable[..., Any], work: Callable[[Any], Any], arguments: tuple[Any, ...]) -> dict[str, float]:
    inputs = prepare(*arguments)
    gc.collect()
    with suppress(OSError):  # "5" sets the high-water mark back to now; where that is refused, inputs count too
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    kept = work(inputs)
    peak = _resident("VmHWM")
    del kept
    return {"before": round(before, 1), "peak": round(peak, 1), "extra": round(peak - before, 1)}


def _resident(field: str) -> float:
    return int(_fields(Path("/proc/self/status"))[field].split()[0]) / 1024


def command() -> str:
    """The command that runs this benchmark again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name if spec else Path(sys.argv[0]).name
    return " ".join(["python", "-m", name, *sys.argv[1:]])


def write(
    name: str,
    unit: str,
    ours: float,
    peers: Mapping[str, float],
    *,
    limit: float | None = None,
    less_is_better: bool = False,
    packages: tuple[str, ...] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Write benchmarks/results/NAME.json and print a summary.

    Args:
        name: of the benchmark.
        unit: of all figures, such as `documents/s`.
        ours: our figure.
        peers: the rivals' figures.
        limit: the physical limit, where one is known.
        less_is_better: for times and sizes; the ratio is turned, so that above 1 always means ours is better.
        packages: whose versions to record.
        extra: anything else worth keeping: all medians, memory, sizes.
    """
    best = (min if less_is_better else max)(peers.values(), default=None)
    ratio = None if best is None else best / ours if less_is_better else ours / best
    result = {
        "name": name,
        "unit": unit,
        "ours": ours,
        "peers": dict(peers),
        "ratio": ratio,
        "limit": limit,
        "machine": machine(),
        "versions": versions(*packages),
        "command": command(),
        **extra,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    rivals = ", ".join(f"{peer} {value:,.4g}" for peer, value in peers.items())
    print(f"{name}: ours {ours:,.4g} {unit}; {rivals}; ratio {ratio if ratio is None else round(ratio, 2)}")
    return result
