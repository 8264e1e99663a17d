"""Indexes on disk: a folder of generations, of which a reader sees the old or the new, never a mixture.

    manifest.json         index name, model fingerprint, dimension, metric, dtype, generation, SHA-256 of each file
    generation-000002/    items.json: the segments and the items deleted from them; the index's own files, if it has any
    vectors/000001/       a segment: a vectors folder as one `create`, `add` or `compact` wrote it, never changed

A writer makes new folders beside the old, flushes them, and then exchanges `manifest.json`, which alone decides what is
there. Whatever it does not name is left over from a killed writer or an older generation, and the next writer removes
it. One process writes at a time. A reader keeps its generation: it holds its files open while they are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lodesmith.core.errors import InputError, IntegrityError, LodesmithError
from lodesmith.core.files import verify_files
from lodesmith.core.protocols import Index, Metric
from lodesmith.core.vectors import Vectors
from lodesmith.indexes._generations import (
    RESTORE,
    Segment,
    commit,
    follows_from_vectors,
    is_structured,
    live_items,
    make_index,
    next_segment,
    open_segment,
    read_manifest,
    segments_of,
    small_files,
    write_segment,
    writing,
)

__all__ = ["add", "compact", "create", "delete", "open_index", "read_manifest", "vectors_of", "verify"]

_SMALL = 256 << 20
_KEPT = ("index", "model", "dimension", "metric", "dtype", "info")
"""The manifest's fields that no change touches; folders that were built before have no dtype."""


def create(
    folder: Path | str,
    index_name: str,
    vectors: Vectors,
    *,
    metric: Metric,
    model: str = "",
    info: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Write an index folder. An index that is there, intact or damaged, is replaced.

    Args:
        folder: made if it is missing.
        index_name: a component of `indexes`, such as `flat`.
        vectors: the items.
        metric: how they are compared.
        model: the fingerprint of what made them.
        info: anything worth keeping, such as the model's name and the dataset's path.
        dtype: in which the vectors are kept, these and what is added: `"float32"`, `"float16"`, or `"int8"` with a
            scale a row. None for that of `vectors`.

    Returns:
        The manifest.

    Raises:
        InputError: the vectors cannot be indexed or kept in `dtype`, or the folder cannot be written.
        BusyError: another process is writing here.
    """
    folder = Path(folder)
    make_index(index_name, metric).add(vectors)
    dtype = dtype or str(vectors.values.dtype)
    kind = {"index": index_name, "model": model, "dimension": vectors.dimension, "metric": metric, "dtype": dtype}
    with writing(folder, anew=True) as old:
        name = next_segment(folder)
        write_segment(folder, name, [(vectors, np.arange(len(vectors)))], dtype=dtype)
        generation = 1 + (old["generation"] if old else 0)
        return commit(folder, kind | {"info": dict(info or {})}, generation, [Segment(name)], None)


def open_index(
    folder: Path | str,
    *,
    model: str | None = None,
    metric: Metric | None = None,
    dimension: int | None = None,
    verify: bool | None = None,
) -> Index:
    """Open the current generation for searching. Adding to what this returns changes nothing on disk.

    Args:
        folder: an index folder.
        model: the fingerprint of the model whose vectors will be searched.
        metric: the metric it must have.
        dimension: the dimension it must have.
        verify: compare all bytes with the manifest. None: all where they are under 256 MB, else all but the vectors'.

    Raises:
        InputError: it is no index folder.
        IntegrityError: it belongs to another model, metric or dimension, or a file is damaged.
    """
    folder = Path(folder)
    while True:
        manifest = read_manifest(folder)
        _same(folder, manifest, model=model, metric=metric, dimension=dimension)
        try:
            return _load(folder, manifest, verify)
        except (LodesmithError, OSError) as error:
            # A writer may have removed this generation after its manifest was read.
            if read_manifest(folder)["sha256"] != manifest["sha256"]:
                continue
            if isinstance(error, OSError):
                raise InputError(f"the index cannot be read: {error.strerror or error}", path=folder) from error
            raise


def add(folder: Path | str, vectors: Vectors, *, model: str | None = None, metric: Metric | None = None) -> int:
    """Add items by id; an id that is there is replaced. Returns how many items the index holds then.

    Raises:
        InputError: no index folder, or vectors of another dimension or with impossible values.
        IntegrityError: the vectors are another model's, or for another metric.
        BusyError: another process is writing here.
    """
    folder = Path(folder)

    def change(manifest: dict[str, Any], segments: list[Segment]) -> list[Segment]:
        _same(folder, manifest, model=model, metric=metric)
        if vectors.dimension != manifest["dimension"]:
            raise InputError(
                f"the vectors have {vectors.dimension} dimensions, the index has {manifest['dimension']}",
                "encode with the index's model",
                path=folder,
            )
        make_index(manifest["index"], manifest["metric"]).add(vectors)
        if not len(vectors):
            return segments
        name = next_segment(folder)
        write_segment(folder, name, [(vectors, np.arange(len(vectors)))], dtype=manifest.get("dtype"))
        return [*_without(folder, segments, set(vectors.ids)), Segment(name)]

    return int(_update(folder, change)["items"])


def delete(folder: Path | str, ids: Iterable[str]) -> int:
    """Take items out; returns how many there were. Their vectors stay on disk until `compact`; no other item moves.

    Raises:
        InputError: no index folder. BusyError: another process is writing here.
    """
    folder, wanted = Path(folder), set(ids)
    before = 0

    def change(manifest: dict[str, Any], segments: list[Segment]) -> list[Segment]:
        nonlocal before
        before = manifest["items"]
        return _without(folder, segments, wanted)

    after = _update(folder, change)["items"]
    return int(before - after)


def compact(folder: Path | str) -> dict[str, Any]:
    """Rewrite the vectors without what was deleted, as one segment. Returns the manifest.

    Raises:
        InputError: no index folder. IntegrityError: a file is damaged. BusyError: another process is writing here.
    """
    folder = Path(folder)

    def change(manifest: dict[str, Any], segments: list[Segment]) -> list[Segment]:
        if len(segments) == 1 and not segments[0].dead:
            return segments
        verify_files(folder, manifest["files"])  # damage must not get a fresh checksum
        name = next_segment(folder)
        parts = [live_items(folder, segment) for segment in segments]
        write_segment(folder, name, parts, manifest["dimension"], manifest.get("dtype"))
        return [Segment(name)]

    return _update(folder, change)


def verify(folder: Path | str) -> int:
    """Compare every file with its SHA-256; returns how many files there are.

    Raises:
        InputError: no index folder. IntegrityError: a file is missing or damaged.
    """
    manifest = read_manifest(folder)
    verify_files(Path(folder), manifest["files"])
    return len(manifest["files"])


def vectors_of(folder: Path | str, ids: Sequence[str]) -> Vectors:
    """The vectors of items, in memory and in this order, of the current generation.

    Raises:
        InputError: no index folder, or an item is not in it.
    """
    folder, wanted = Path(folder), dict.fromkeys(ids)
    manifest = read_manifest(folder)
    found: dict[str, tuple[Vectors, int]] = {}
    for segment in segments_of(folder, manifest):
        vectors, positions = live_items(folder, segment)
        found |= {vectors.ids[at]: (vectors, at) for at in positions.tolist() if vectors.ids[at] in wanted}
    if (missing := next((key for key in wanted if key not in found), None)) is not None:
        raise InputError(f"the item {missing!r} is not in the index", path=folder)
    parts = [found[key][0].take([found[key][1]]) for key in ids]
    if not parts:
        values = np.empty((0, manifest["dimension"]), np.float32)
        return Vectors(values, np.zeros(1, np.int64), ())
    return Vectors.joined(parts)


def _same(folder: Path, manifest: dict[str, Any], **wanted: Any) -> None:
    for name, value in wanted.items():
        if value is not None and manifest[name] != value:
            shown = [v[:12] + "…" if isinstance(v, str) and len(v) > 24 else v for v in (manifest[name], value)]
            raise IntegrityError(
                f"{folder}: the index has the {name} {shown[0]!r}, not {shown[1]!r}",
                "open it with what it was built with, or build it again",
            )


def _load(folder: Path, manifest: dict[str, Any], thorough: bool | None) -> Index:
    files: dict[str, str] = manifest["files"]
    if thorough is None:
        thorough = sum((folder / name).stat().st_size for name in files if (folder / name).is_file()) <= _SMALL
    verify_files(folder, files if thorough else small_files(manifest))
    index = make_index(manifest["index"], manifest["metric"])
    if not follows_from_vectors(index) and not is_structured(index):
        index.load(folder / manifest["folder"])
        return index
    for segment in segments_of(folder, manifest):
        vectors = open_segment(folder, segment)
        if vectors.dimension != manifest["dimension"]:
            raise IntegrityError(
                f"{folder}: segment {segment.name} has {vectors.dimension} dimensions, the manifest says "
                f"{manifest['dimension']}",
                RESTORE,
            )
        index.add(vectors)
        index.delete(vectors.ids[i] for i in segment.dead)
    if is_structured(index):
        index.load_structure(folder / manifest["folder"])  # type: ignore[attr-defined]
    return index


def _without(folder: Path, segments: Sequence[Segment], ids: set[str]) -> list[Segment]:
    """The segments less these ids; a segment of which nothing is left falls away."""
    kept = []
    for segment in segments:
        names = open_segment(folder, segment).ids
        dead = set(segment.dead) | {i for i, name in enumerate(names) if name in ids}
        if len(dead) < len(names) or not names:
            kept.append(replace(segment, dead=tuple(sorted(dead))))
    return kept


def _update(folder: Path, change: Callable[[dict[str, Any], list[Segment]], list[Segment]]) -> dict[str, Any]:
    """One new generation from the current one; none where nothing changes."""
    read_manifest(folder)  # no lock file in a folder that is no index
    with writing(folder) as manifest:
        assert manifest is not None
        verify_files(folder, small_files(manifest))
        segments = segments_of(folder, manifest)
        changed = change(manifest, segments)
        if changed == segments:
            return manifest
        kind = {key: manifest[key] for key in _KEPT if key in manifest}
        return commit(folder, kind, manifest["generation"] + 1, changed, manifest)
