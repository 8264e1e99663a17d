"""What an index folder is made of, and how a generation of it is written: see `folder`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, LodesmithError
from lodesmith.core.files import locked, read_json, sha256_file, sync_folder, verify_files, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Index
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors, VectorWriter, check_range
from lodesmith.indexes._segment import portions

FORMAT = 1
_FIELDS = {"index": str, "model": str, "dimension": int, "metric": str, "generation": int, "items": int, "info": dict}
RESTORE = "build the index again, or restore a copy"


@dataclass(frozen=True)
class Segment:
    """A vectors folder below `vectors/` and the positions of its deleted items."""

    name: str
    dead: tuple[int, ...] = ()


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of the current generation, checked against its own checksum.

    Raises:
        InputError: it is no index folder. IntegrityError: the manifest is damaged.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise InputError("not an index folder", "build one: lode index build MODEL DATASET --out DIR", path=folder)
    try:
        manifest = read_json(path)
    except InputError as error:
        raise IntegrityError(f"the manifest is damaged: {error.what}", RESTORE) from None
    if not isinstance(manifest, dict) or manifest.get("sha256") != _checksum(manifest):
        raise IntegrityError(f"{path}: the manifest is damaged: it does not have its own checksum", RESTORE)
    if manifest.get("format") != FORMAT or any(not isinstance(manifest.get(k), t) for k, t in _FIELDS.items()):
        raise IntegrityError(f"{path}: the manifest is of another format than {FORMAT}", "build the index again")
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    return fingerprint({key: value for key, value in manifest.items() if key != "sha256"})


def make_index(name: str, metric: str) -> Index:
    """An empty index of this name.

    Raises:
        ConfigError: there is none.
    """
    component = find("indexes", name)
    if not isinstance(component, type) or not issubclass(component, Index):
        raise ConfigError(f"{name!r} is not an index", "choose another, such as flat")
    index: Index = component(metric=metric)  # type: ignore[call-arg]
    return index


def follows_from_vectors(index: Index) -> bool:
    """Whether the index is made of the vectors alone, quickly enough to need no files of its own."""
    return bool(getattr(index, "follows_from_vectors", False))


def is_structured(index: Index) -> bool:
    """Whether the index keeps a structure beside vectors that the folder holds anyway."""
    return bool(getattr(index, "structured", False))


def small_files(manifest: dict[str, Any]) -> dict[str, str]:
    """The digests of all files but the vectors' values."""
    return {name: digest for name, digest in manifest["files"].items() if not name.endswith("/values.npy")}


def segments_of(folder: Path, manifest: dict[str, Any]) -> list[Segment]:
    """The segments of a generation.

    Raises:
        IntegrityError: the file that lists them is damaged.
    """
    name = f"{manifest['folder']}/items.json"
    verify_files(folder, {name: manifest["files"].get(name, "")})
    items = read_json(folder / name)
    return [Segment(entry["name"], tuple(entry["dead"])) for entry in items["segments"]]


def open_segment(folder: Path, segment: Segment) -> Vectors:
    """All items of a segment, memory-mapped, the deleted too."""
    return Vectors.load(folder / "vectors" / segment.name)


def live_items(folder: Path, segment: Segment) -> tuple[Vectors, NDArray[np.int64]]:
    """A segment and the positions of the items that are not deleted."""
    vectors = open_segment(folder, segment)
    return vectors, np.delete(np.arange(len(vectors)), list(segment.dead))


@contextmanager
def writing(folder: Path, *, anew: bool = False) -> Iterator[dict[str, Any] | None]:
    """Hold the folder, tidy it before and after, and give its manifest. A full disk becomes a typed error.

    Args:
        folder: of the index.
        anew: it is to be replaced, so a damaged manifest counts as none.
    """
    try:
        with locked(folder):
            try:
                old = tidy(folder)
            except IntegrityError:
                if not anew:
                    raise
                (folder / "manifest.json").unlink()
                old = tidy(folder)
            try:
                yield old
            finally:
                with suppress(OSError, LodesmithError):
                    tidy(folder)
    except OSError as error:
        raise InputError(
            f"the index cannot be written: {error.strerror or error}", "the one that was there is intact", path=folder
        ) from error


def tidy(folder: Path) -> dict[str, Any] | None:
    """Remove what the manifest does not name: older generations and what killed writers left. Returns the manifest."""
    manifest, wanted = None, set()
    if (folder / "manifest.json").exists():
        manifest = read_manifest(folder)
        wanted = {manifest["folder"], *(f"vectors/{segment.name}" for segment in segments_of(folder, manifest))}
    for path in [*folder.glob("generation-*"), *folder.glob("vectors/*"), *folder.glob(".manifest.json.*.tmp")]:
        if path.relative_to(folder).as_posix() in wanted:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return manifest


def next_segment(folder: Path) -> str:
    """A name that no segment has."""
    numbers = [int(path.name) for path in folder.glob("vectors/*") if path.name.isdigit()]
    return f"{max(numbers, default=0) + 1:06d}"


def write_segment(
    folder: Path,
    name: str,
    parts: Sequence[tuple[Vectors, NDArray[np.int64]]],
    dimension: int | None = None,
    dtype: str | None = None,
) -> None:
    """Write items of several vectors as one segment, about 64 MB at a time; without `dtype` in the type that all have,
    else in float32.

    Raises:
        InputError: the type cannot hold a value.
    """
    kinds = {vectors.values.dtype for vectors, _ in parts}
    kind = np.dtype(dtype or (kinds.pop() if len(kinds) == 1 else np.float32))
    total, done = sum(len(items) for _, items in parts), 0
    place = folder / "vectors" / name
    with VectorWriter(place, dimension or parts[0][0].dimension, kind, {}) as writer:
        for vectors, items in parts:
            for portion in portions(items, vectors):
                piece = vectors.take(portion)
                if vectors.values.dtype != kind:
                    check_range(piece.values, kind)
                writer.append(piece.ids, piece.values, piece.offsets)
                done += len(piece)
                tell("write vectors", done, total, "items")
        writer.finish()
    for scratch in ("journal.json", "counts.part"):
        (place / scratch).unlink(missing_ok=True)
    _flush(place)
    sync_folder(folder / "vectors")


def _flush(place: Path) -> None:
    for file in place.iterdir():
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(place)


def commit(
    folder: Path, kind: dict[str, Any], generation: int, segments: list[Segment], old: dict[str, Any] | None
) -> dict[str, Any]:
    """Write the generation's folder, then exchange the manifest: the moment from which it counts.

    Args:
        folder: of the index.
        kind: the manifest's fields that stay: index, model, dimension, metric, dtype, info.
        generation: its number.
        segments: what it holds; their folders are written.
        old: the manifest before, whose digests of unchanged segments are taken over.

    Returns:
        The new manifest.
    """
    place = folder / f"generation-{generation:06d}"
    place.mkdir(parents=True)
    entries = [{"name": segment.name, "dead": list(segment.dead)} for segment in segments]
    write_json(place / "items.json", {"segments": entries}, indent=None)
    index = make_index(kind["index"], kind["metric"])
    if is_structured(index):
        for segment in segments:
            vectors = open_segment(folder, segment)
            index.add(vectors)
            index.delete(vectors.ids[i] for i in segment.dead)
        index.save_structure(place)  # type: ignore[attr-defined]
    elif not follows_from_vectors(index):
        for segment in segments:
            vectors, items = live_items(folder, segment)
            index.add(vectors.take(items))
        index.save(place)
    _flush(place)
    files = {f"{place.name}/{n.relative_to(place).as_posix()}": sha256_file(n) for n in _files(place)}
    counts = []
    for segment in segments:
        known = {n: h for n, h in (old["files"] if old else {}).items() if n.startswith(f"vectors/{segment.name}/")}
        held = folder / "vectors" / segment.name
        files |= known or {n.relative_to(folder).as_posix(): sha256_file(n) for n in _files(held)}
        counts.append(int(read_json(held / "manifest.json")["items"]) - len(segment.dead))
    manifest = {"format": FORMAT} | kind | {"generation": generation, "folder": place.name}
    manifest |= {"items": sum(counts), "files": files}
    manifest["sha256"] = _checksum(manifest)
    write_json(folder / "manifest.json", manifest)
    return manifest


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())
