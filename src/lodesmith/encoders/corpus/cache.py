"""The cache of vectors: a text that a model has encoded once is never encoded again."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, ResumeError
from lodesmith.core.files import locked, read_json, verify_files
from lodesmith.core.hashing import text_key
from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.vectors import Vectors, VectorWriter
from lodesmith.encoders.corpus.scratch import scratch
from lodesmith.encoders.corpus.stream import Appender, Item

__all__ = ["VectorCache", "default_cache"]

_log = logging.getLogger(__name__)

_PORTION = 65_536
"""Items gathered at once."""


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
        dtype: `"float32"`, or `"float16"` for half the disk, in folders of its own; what the encoder's float32 folder
            has is rounded, not encoded again.

    Raises:
        ConfigError: the type is another.
    """

    def __init__(self, root: Path | str | None = None, *, chunk: int = 8192, dtype: str = "float32") -> None:
        if dtype not in ("float32", "float16"):
            raise ConfigError(f"the cache keeps no {dtype!r}", "choose float32 or float16")
        self.root = default_cache() if root is None else Path(root)
        self.chunk, self.dtype = chunk, dtype

    def folder(self, encoder: Encoder, side: Side) -> Path:
        """Where the vectors of one encoder and side are."""
        kind = "" if self.dtype == "float32" else f"-{self.dtype}"
        return self.root / "vectors" / f"{encoder.fingerprint[:32]}-{side}{kind}"

    def vectors(self, encoder: Encoder, items: Iterable[Item], side: Side = "document") -> Vectors:
        """The vectors of (id, text) items in their order; only texts that are not there are encoded.

        An interrupted call keeps what it has encoded. A damaged folder is noticed by its hashes and made anew.

        Args:
            encoder: any.
            items: ids may share a text.
            side: whose prompt the texts get.

        Returns:
            Vectors under the items' ids: memory-mapped where they lie side by side in the cache or are many. `info`
            has `truncated`, the share of these items of which something was cut off, and `docs_per_s`, the speed over
            all that the folder holds.

        Where another process is filling this encoder's folder, this waits for it.
        """
        stored, ids, keys, cut = self._filled(encoder, items, side)
        known = {key: at for at, key in enumerate(stored.ids)}
        found = _gather(stored, np.asarray([known[key] for key in keys], np.int64), ids, self.root)
        found.info["truncated"] = sum(key in cut for key in keys) / max(1, len(keys))
        return found

    def fill(self, encoder: Encoder, items: Iterable[Item], side: Side = "document") -> tuple[Vectors, dict[str, Any]]:
        """Encode what is missing, as `vectors` does, and gather nothing.

        Returns:
            All that the folder holds, memory-mapped, under the keys of the texts (`core.hashing.text_key`), and what
            concerns these items: `items`, `texts` (distinct ones) and `truncated`.
        """
        stored, ids, keys, cut = self._filled(encoder, items, side)
        distinct = set(keys)
        return stored, {"items": len(ids), "texts": len(distinct), "truncated": len(distinct & cut)}

    def _filled(
        self, encoder: Encoder, items: Iterable[Item], side: Side
    ) -> tuple[Vectors, tuple[str, ...], list[str], frozenset[str]]:
        """What the folder holds, the items' ids and keys, and the keys of all texts that were cut off."""
        folder = self.folder(encoder, side)
        with locked(folder, wait=True):
            _mend(folder)
            writer = self._open(folder, encoder, side)
            with writer:
                source = encoder if self.dtype == "float32" else self._beside(encoder, side)
                appender = Appender(source, side, writer, cut=folder / "cut.txt")
                ids, keys = self._fill(appender, items)
                stored = appender.finish()
            return stored, ids, keys, _cut(folder)

    def _beside(self, encoder: Encoder, side: Side) -> Encoder:
        """An encoder that takes from its float32 folder what is there."""
        folder = VectorCache(self.root).folder(encoder, side)
        if not (folder / "manifest.json").exists():
            return encoder
        with locked(folder, wait=True):
            _mend(folder)
            if not (folder / "manifest.json").exists():
                return encoder
            return _Stored(encoder, Vectors.load(folder), _cut(folder))

    def _open(self, folder: Path, encoder: Encoder, side: Side) -> VectorWriter:
        info = {"model": encoder.fingerprint, "side": side, "metric": encoder.metric}
        try:
            return VectorWriter(folder, encoder.dimension, self.dtype, info)
        except (IntegrityError, ResumeError, InputError, KeyError, ValueError, TypeError) as error:
            _log.warning("the cache is damaged and made anew: %s", error)
            _clear(folder)
            return VectorWriter(folder, encoder.dimension, self.dtype, info)

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


class _Stored:
    """An encoder that reads the vectors it has in a store, and encodes the others."""

    def __init__(self, encoder: Encoder, stored: Vectors, cut: frozenset[str]) -> None:
        self._encoder, self._stored, self._cut = encoder, stored, cut
        self._places = {key: at for at, key in enumerate(stored.ids)}
        self.dimension, self.metric, self.fingerprint = encoder.dimension, encoder.metric, encoder.fingerprint

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        names = [str(at) for at in range(len(texts))] if ids is None else list(ids)
        keys = [text_key(text) for text in texts]
        known = [at for at, key in enumerate(keys) if key in self._places]
        missing = [at for at, key in enumerate(keys) if key not in self._places]
        old = self._stored.take([self._places[keys[at]] for at in known])
        cut = [names[at] for at in known if keys[at] in self._cut]
        values, offsets, tokens = old.values, old.offsets, 0
        if missing:
            new = self._encoder.encode([texts[at] for at in missing], side, [names[at] for at in missing])
            values = np.concatenate([values, new.values])
            offsets = np.concatenate([offsets, offsets[-1] + new.offsets[1:]])
            cut, tokens = [*cut, *new.info.get("cut", ())], int(new.info.get("tokens", 0))
        info = {"cut": cut, "truncated": len(cut) / max(1, len(texts)), "tokens": tokens}
        found = Vectors(values, offsets, tuple(names[at] for at in [*known, *missing]), info)
        return found.take(np.argsort([*known, *missing]))


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


def _gather(stored: Vectors, positions: NDArray[np.int64], ids: tuple[str, ...], folder: Path) -> Vectors:
    """The items at these positions under other ids; without a copy where they lie side by side. A copy that is large
    goes to a file in the folder, piece by piece."""
    info = {key: value for key, value in stored.info.items() if key not in ("items", "rows")}
    if len(positions) and bool((np.diff(positions) == 1).all()):
        first, last = int(positions[0]), int(positions[-1]) + 1
        rows = stored.offsets[first : last + 1]
        return Vectors(stored.values[rows[0] : rows[-1]], rows - rows[0], ids, info)
    offsets = np.concatenate([[0], np.cumsum(np.diff(stored.offsets)[positions])]).astype(np.int64)
    values = scratch((int(offsets[-1]), stored.dimension), stored.values.dtype, folder)
    for start in range(0, len(positions), _PORTION):
        part = positions[start : start + _PORTION]
        values[offsets[start] : offsets[start + len(part)]] = stored.take(part).values
    return Vectors(values, offsets, ids, info)
