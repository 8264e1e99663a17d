"""Checkpoints: folders of safetensors and JSON that appear whole or not at all, and are believed only after their
SHA-256 is checked. Nothing in them is executed: there is no pickle.

A checkpoint is `step-NNNNNNNNN/` with `model.safetensors`, further tensor files, `state.json` and `manifest.json`;
`best/` holds the best weights of the stage in progress.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import InputError, IntegrityError, ResumeError
from lodesmith.core.files import atomic_folder, read_json, sha256_folder, verify_files
from lodesmith.core.hashing import fingerprint

if TYPE_CHECKING:
    import torch

FORMAT = 1
_AGAIN = "an earlier checkpoint is used where there is one; else train again without resuming"


@dataclass(frozen=True)
class Snapshot:
    """All that a training needs to go on to the same bits.

    Args:
        tensors: file stem (`model`, `optimizer`, `rng`) → name → tensor.
        state: everything else, as JSON.
    """

    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The newest good checkpoint, and what is wrong with those that are newer."""

    snapshot: Snapshot
    path: Path
    damaged: tuple[IntegrityError, ...] = ()


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: made when the first one is written.
        keep: how many to keep; the newest may turn out to be damaged, so two is the least that is safe.
    """

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(f"keep must be at least 1, not {keep}")
        self.folder = Path(folder)
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    @property
    def best_path(self) -> Path:
        """Where the best weights lie."""
        return self.folder / "best"

    def save(self, step: int, snapshot: Snapshot) -> Path:
        """Write a checkpoint, then delete the oldest above `keep` and what a killed process left half-written."""
        path = self.folder / f"step-{step:09d}"
        write(path, snapshot)
        self.clean()
        return path

    def clean(self) -> None:
        """Delete the oldest above `keep`, and what a killed process left half-written."""
        remains = [path for path in self.folder.glob(".*") if path.suffix in (".tmp", ".old")]
        for path in [*self.paths()[: -self.keep], *remains]:
            shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Delete all of them: a training starts from the beginning."""
        for path in [*self.paths(), self.best_path]:
            shutil.rmtree(path, ignore_errors=True)
        self.clean()

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints after a step: training goes on from there, and they would mislead the next reader."""
        for path in self.paths():
            if path.name > f"step-{step:09d}":
                shutil.rmtree(path, ignore_errors=True)

    def save_best(self, snapshot: Snapshot) -> Path:
        """Write the best weights."""
        write(self.best_path, snapshot)
        return self.best_path

    def last(self) -> Found | None:
        """The newest checkpoint whose bytes are those that were written; None where there is none at all.

        Raises:
            IntegrityError: there are checkpoints, and all are damaged.
        """
        damaged: list[IntegrityError] = []
        for path in reversed(self.paths()):
            try:
                return Found(read(path), path, tuple(damaged))
            except IntegrityError as error:
                damaged.append(error)
        if damaged:
            raise damaged[0]
        return None


def write(path: Path, snapshot: Snapshot) -> None:
    """Write one checkpoint folder: whole, flushed to the disk and then put in place."""
    from safetensors.torch import save_file

    with atomic_folder(path) as new:
        for stem, tensors in snapshot.tensors.items():
            save_file(dict(tensors), new / f"{stem}.safetensors")
        state = {"format": FORMAT, **snapshot.state}
        _write_plain(new / "state.json", state)
        files = sha256_folder(new)
        _write_plain(new / "manifest.json", {"files": files, "fingerprint": fingerprint(files)})


def _write_plain(path: Path, value: Any) -> None:
    """Strict JSON; the folder around it is flushed as a whole."""
    path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Snapshot:
    """Read one checkpoint folder.

    Raises:
        IntegrityError: a file is missing, truncated or changed; the message names it.
        ResumeError: a later version of the program wrote it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify_files(path, _digests(path / "manifest.json"))
    state = _state(path / "state.json")
    if state.get("format") != FORMAT:
        raise ResumeError(
            f"{path} has format {state.get('format')!r}, this program reads {FORMAT}", "use the version that wrote it"
        )
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            tensors[file.stem] = load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise IntegrityError(f"{file}: not a good safetensors file: {error}", _AGAIN) from None
    return Snapshot(tensors, state)


def _digests(path: Path) -> dict[str, str]:
    try:
        manifest = read_json(path)
        files: dict[str, str] = manifest["files"]
        if manifest["fingerprint"] != fingerprint(files) or "state.json" not in files:
            raise ValueError("its fingerprint is not that of its content")
        return files
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: the manifest is damaged: {error}", _AGAIN) from None


def _state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_json(path)
        return state
    except InputError as error:
        raise IntegrityError(str(error), _AGAIN) from None
