"""The cache of vectors: a text that a model has encoded once is never encoded again."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, IntegrityError, ResumeError
from lodesmith.core.files import locked, read_json, verify_files
from lodesmith.core.hashing import text_key
from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.vectors import Vectors, VectorWriter
from lodesmith.encoders.corpus.stream import Appender, Item

__all__ = ["VectorCache", "default_cache"]

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """`$LODESMITH_CACHE`, else `$XDG_CACHE_HOME/lodesmith`, else `~/.cache/lodesmith`.

    Where none can be written, a folder of this user's below the temporary folder.
    """
    for place in _places():
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
        except OSError as error:
            _log.info("%s cannot hold the cache: %s", place, error)
    place = Path(tempfile.gettempdir()) / f"lodesmith-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise InputError(f"{place} belongs to someone else", "set LODESMITH_CACHE to a folder of yours")
    return place


def _places() -> Iterator[Path]:
    if own := os.environ.get("LODESMITH_CACHE"):
        yield Path(own)
        return
    if shared := os.environ.get("XDG_CACHE_HOME"):
        yield Path(shared) / "lodesmith"
    try:
        yield Path.home() / ".cache" / "lodesmith"
    except RuntimeError:
        return


class VectorCache:
    """Vectors by the content of their texts: a vectors folder for each encoder and side, which grows.

    Args:
        root: where; None for `default_cache()`.
        chunk: most texts encoded at once.
    """

    def __init__(self, root: Path | str | None = None, *, chunk: int = 8192) -> None:
        self.root = default_cache() if root is None else Path(root)
        self.chunk = chunk

    def folder(self, encoder: Encoder, side: Side) -> Path:
        """Where the vectors of one encoder and side are."""
        return self.root / "vectors" / f"{encoder.fingerprint[:32]}-{side}"

    def vectors(self, encoder: Encoder, items: Iterable[Item], side: Side = "document") -> Vectors:
        """The vectors of (id, text) items in their order; only texts that are not there are encoded.

        An interrupted call keeps what it has encoded. A damaged folder is noticed by its hashes and made anew.

        Args:
            encoder: any.
            items: ids may share a text.
            side: whose prompt the texts get.

        Returns:
            Vectors under the items' ids: memory-mapped where they lie side by side in the cache, else in memory. `info`
            has `truncated`, the share of these items of which something was cut off, and `docs_per_s`, the speed over
            all that the folder holds.

        Where another process is filling this encoder's folder, this waits for it.
        """
        folder = self.folder(encoder, side)
        with locked(folder, wait=True):
            _mend(folder)
            writer = self._open(folder, encoder, side)
            with writer:
                appender = Appender(encoder, side, writer, cut=folder / "cut.txt")
                ids, keys = self._fill(appender, items)
                known = {key: at for at, key in enumerate(writer.ids)}
                stored = appender.finish()
            cut = _cut(folder)
        found = _gather(stored, np.asarray([known[key] for key in keys], np.int64), ids)
        found.info["truncated"] = sum(key in cut for key in keys) / max(1, len(keys))
        return found

    def _open(self, folder: Path, encoder: Encoder, side: Side) -> VectorWriter:
        info = {"model": encoder.fingerprint, "side": side, "metric": encoder.metric}
        try:
            return VectorWriter(folder, encoder.dimension, "float32", info)
        except (IntegrityError, ResumeError, InputError, KeyError, ValueError, TypeError) as error:
            _log.warning("the cache is damaged and made anew: %s", error)
            _clear(folder)
            return VectorWriter(folder, encoder.dimension, "float32", info)

    def _fill(self, appender: Appender, items: Iterable[Item]) -> tuple[tuple[str, ...], list[str]]:
        """Encode what is missing; the items' ids and the keys of their texts, in order."""
        ids: list[str] = []
        keys: list[str] = []
        present = set(appender.writer.ids)

        def missing() -> Iterator[Item]:
            for key, text in items:
                name = text_key(text)
                ids.append(key)
                keys.append(name)
                if name not in present:
                    present.add(name)
                    yield name, text

        for batch in appender.chunks(missing(), self.chunk):
            appender.append(batch, [name for name, _ in batch])
        return tuple(ids), keys


_verified: dict[Path, tuple[tuple[str, int, int], ...]] = {}
"""Folders whose files this process has compared with their manifest, as they were then."""


def _mend(folder: Path) -> None:
    """Clear a folder whose files are not those of its manifest."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return
    state = tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(folder.glob("*.*")))
    if _verified.get(folder) == state:
        return
    try:
        verify_files(folder, read_json(manifest)["files"])
        _verified[folder] = state
        journal = read_json(folder / "journal.json")
        for name in ("values.npy", "ids.txt", "counts.part"):
            if journal[name] != (folder / name).stat().st_size:
                raise IntegrityError(f"{folder / name} is not as long as the journal says")
    except (IntegrityError, InputError, OSError, KeyError, TypeError, AttributeError) as error:
        _log.warning("the cache is damaged and made anew: %s", error)
        _clear(folder)


def _cut(folder: Path) -> frozenset[str]:
    """The keys of the texts that were cut off."""
    file = folder / "cut.txt"
    return frozenset(file.read_text(encoding="utf-8").split()) if file.exists() else frozenset()


def _clear(folder: Path) -> None:
    """Empty a folder but for its lock."""
    for entry in folder.iterdir():
        if entry.name != ".lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _gather(stored: Vectors, positions: NDArray[np.int64], ids: tuple[str, ...]) -> Vectors:
    """The items at these positions under other ids; without a copy where they lie side by side."""
    info = {key: value for key, value in stored.info.items() if key not in ("items", "rows")}
    if len(positions) and bool((np.diff(positions) == 1).all()):
        first, last = int(positions[0]), int(positions[-1]) + 1
        rows = stored.offsets[first : last + 1]
        return Vectors(stored.values[rows[0] : rows[-1]], rows - rows[0], ids, info)
    taken = stored.take(positions)
    return Vectors(taken.values, taken.offsets, ids, info)
