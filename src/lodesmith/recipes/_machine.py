"""What this machine and installation are: what `lode doctor` says when it is asked nothing else."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Machine", "machine", "memory"]

SMALL_DISK, SMALL_MEMORY = 2 << 30, 1 << 30
"""Bytes below which most work fails."""
SECONDS = 3.0
"""How long the hub may take to answer."""


@dataclass(frozen=True)
class Machine:
    """A machine, by topic, and what is wrong with it."""

    python: dict[str, Any]
    processor: dict[str, Any]
    memory: dict[str, Any]
    disk: dict[str, Any]
    accelerators: list[str]
    packages: dict[str, str]
    extras: dict[str, Any]
    hub: dict[str, Any]
    caches: dict[str, Any]
    problems: tuple[tuple[str, str], ...]
    """(what, what to do)."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        problems = [{"what": what, "do": do} for what, do in self.problems]
        return {"healthy": self.healthy, **asdict(self), "problems": problems}


def machine() -> Machine:
    """Look at this machine. The hub is asked for its front page, unless HF_HUB_OFFLINE is set."""
    packages, missing = _packages()
    processor, free, disk, caches = _processor(), memory(), _disk(), _caches()
    return Machine(
        python=_python(),
        processor=processor,
        memory=free,
        disk=disk,
        accelerators=_accelerators(),
        packages=packages,
        extras=_extras(),
        hub=_hub(),
        caches=caches,
        problems=(*missing, *_shortages(processor, free, disk, caches)),
    )


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "virtual_environment": sys.prefix != sys.base_prefix,
        "system": f"{platform.system()} {platform.release()}",
        "encoding": sys.getfilesystemencoding(),
    }


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> dict[str, Any]:
    import torch

    from lodesmith.encoders._precision import multiplies_bfloat16

    has = {name: bool(getattr(torch.cpu, f"_is_{name}_supported", lambda: False)()) for name in _INSTRUCTIONS}
    return {
        "name": _processor_name(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "instructions": [name for name, there in has.items() if there],
        "multiplies_bfloat16": multiplies_bfloat16(torch.device("cpu")),
    }


_INSTRUCTIONS = ("avx2", "avx512", "avx512_bf16", "vnni", "amx_tile", "amx_fp16")


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory() -> dict[str, Any]:
    """Bytes; within a container, what the container allows."""
    found: dict[str, Any] = {"total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "available": None}
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        found["available"] = sizes.get("MemAvailable")
    except (OSError, ValueError, IndexError):
        pass
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        found["total"] = min(found["total"], limit)
        found["available"] = min(found["available"] or limit, max(0, limit - used))
    except (OSError, ValueError):
        pass
    return found


def _disk() -> dict[str, Any]:
    return {"folder": str(Path.cwd()), "free": shutil.disk_usage(Path.cwd()).free}


def _accelerators() -> list[str]:
    import torch

    found = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            own = torch.cuda.get_device_properties(number)
            found.append(f"{own.name}, {own.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        found.append("Apple GPU (MPS)")
    return found


# ------------------------------------------------------------------------ what is installed


def _requirements() -> Iterator[tuple[Any, str | None]]:
    """(requirement, extra or None) of this package."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("lodesmith") or []
    except metadata.PackageNotFoundError:
        lines = []
    extras = metadata.metadata("lodesmith").get_all("Provides-Extra") or [] if lines else []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement, None
            continue
        for extra in extras:
            if requirement.marker.evaluate({"extra": extra}):
                yield requirement, extra


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Versions of what is required, and what is missing or of a wrong version."""
    found: dict[str, str] = {"lodesmith": _installed("lodesmith") or "not installed"}
    wrong = []
    for requirement, extra in _requirements():
        if extra is not None:
            continue
        version = _installed(requirement.name)
        found[requirement.name] = version or "missing"
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            told = "is not installed" if version is None else f"is {version}, {requirement.specifier} is needed"
            wrong.append((f"{requirement.name} {told}", f"pip install '{requirement}'"))
    return dict(sorted(found.items(), key=lambda item: item[0].lower())), wrong


def _extras() -> dict[str, Any]:
    """Extra → what it brings, what of it is missing, and the command that installs it."""
    found: dict[str, Any] = {}
    for requirement, extra in _requirements():
        if extra is None or requirement.name == "lodesmith":
            continue
        own = found.setdefault(extra, {"packages": {}, "missing": [], "install": f"pip install 'lodesmith[{extra}]'"})
        version = _installed(requirement.name)
        own["packages"][requirement.name] = version
        if version is None:
            own["missing"].append(requirement.name)
    return dict(sorted(found.items()))


# ------------------------------------------------------------------------ hub and caches


def _hub() -> dict[str, Any]:
    """Whether the model hub answers, and whether there is a token; its value is never read out."""
    asked = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    endpoint = re.sub(r"//[^/]*@", "//", asked)  # neither shown nor asked with a password
    token = bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")) or _saved_token()
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return {"endpoint": endpoint, "state": "off: HF_HUB_OFFLINE is set", "reachable": False, "token": token}
    try:
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError("HF_ENDPOINT is no web address")
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS):
            state, reachable = "reachable", True
    except urllib.error.HTTPError as error:  # it answered
        state, reachable = f"reachable, answers {error.code}", error.code < 500
    except (OSError, ValueError, RuntimeError, HTTPException) as error:
        state, reachable = f"not reachable: {error}".partition("\n")[0], False
    return {"endpoint": endpoint, "state": state, "reachable": reachable, "token": token}


def _saved_token() -> bool:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    if (home / "token").is_file():
        return True
    try:
        lines = Path(".env").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.removeprefix("export ").strip().startswith("HF_TOKEN=") for line in lines)


def _caches() -> dict[str, Any]:
    from huggingface_hub import constants

    from lodesmith.encoders.corpus.cache import default_cache

    places = {"lodesmith": default_cache(), "hub": Path(constants.HF_HUB_CACHE)}
    return {name: {"folder": str(place), "bytes": _size(place)} for name, place in places.items()}


def _size(place: Path) -> int:
    total = 0
    for folder, _, files in os.walk(place):
        for file in files:
            path = Path(folder, file)
            total += 0 if path.is_symlink() else path.stat().st_size
    return total


# ------------------------------------------------------------------------ what is wrong


def _shortages(
    processor: dict[str, Any], memory: dict[str, Any], disk: dict[str, Any], caches: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    if disk["free"] < SMALL_DISK:
        yield f"{disk['folder']} has {disk['free'] / 2**30:.1f} GiB free", "free some, or work on another disk"
    if memory["available"] is not None and memory["available"] < SMALL_MEMORY:
        yield f"{memory['available'] / 2**30:.1f} GiB of memory are available", "end other programs"
    if processor["threads"] > processor["cores"]:
        yield (
            f"torch uses {processor['threads']} threads on {processor['cores']} cores: they wait for each other",
            f"export OMP_NUM_THREADS={processor['cores']}",
        )
    if caches["lodesmith"]["folder"].startswith(str(Path(tempfile.gettempdir()) / "lodesmith-")):
        yield (
            f"no cache folder can be written: vectors go to {caches['lodesmith']['folder']}, which a reboot empties",
            "set LODESMITH_CACHE to a folder of yours",
        )
