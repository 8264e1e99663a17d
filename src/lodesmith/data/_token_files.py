"""The files of a token store: appended chunk by chunk, durable after each, and believed only by their digests.

A generation is a folder of four files, `ids.bin`, `offsets.bin` (int64, from 0), `keys.bin` (16 bytes a text) and
`cut.bin` (1 byte a text), and `journal.jsonl`: a line for each chunk, written when the chunk is on the disk. What lies
behind the last good line was never promised, and is overwritten. Committed bytes never change, so that readers need no
lock; where damage is found, the good chunks are copied into the next generation, and who reads the old one still can.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import atomic_folder, read_json, write_json
from lodesmith.core.hashing import fingerprint

__all__ = ["EMPTY", "KEY", "Chunk", "Generation", "begin", "newest"]

FORMAT = 1
KEY = 16
"""Bytes of a text's key."""
_NAMES = ("ids.bin", "offsets.bin", "keys.bin", "cut.bin")
_AGAIN = "delete the folder and tokenise again"


@dataclass(frozen=True)
class Chunk:
    """One line of the journal.

    Args:
        texts: in the store, up to the end of this chunk.
        tokens: likewise.
        digest: SHA-256 of the chunk's bytes in the four files.
        chain: over this line and all before it.
    """

    texts: int
    tokens: int
    digest: str = ""
    chain: str = ""

    def then(self, texts: int, tokens: int, digest: str) -> Chunk:
        """The line of a chunk that follows."""
        return Chunk(texts, tokens, digest, fingerprint([self.chain, texts, tokens, digest])[:16])

    @property
    def line(self) -> bytes:
        """As the journal has it."""
        return (json.dumps([self.texts, self.tokens, self.digest, self.chain]) + "\n").encode()


EMPTY = Chunk(0, 0)


class Generation:
    """One generation of the files.

    Args:
        folder: as `begin` made it.

    Raises:
        IntegrityError: it is of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = read_json(folder / "meta.json")
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise IntegrityError(f"{folder}: not a token store of format {FORMAT}", _AGAIN)
        self.meta: dict[str, Any] = meta
        self.dtype = np.dtype(meta["dtype"])

    @property
    def number(self) -> int:
        """From 1."""
        return int(self.folder.name)

    @property
    def state(self) -> tuple[tuple[int, int], ...]:
        """Size and time of each file: where they are the same, so is the content."""
        stats = [(self.folder / name).stat() for name in (*_NAMES, "journal.jsonl") if (self.folder / name).exists()]
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)

    @property
    def journal_size(self) -> int:
        """Bytes."""
        return (self.folder / "journal.jsonl").stat().st_size

    def journal(self) -> tuple[list[Chunk], bool]:
        """The chunks up to the first bad line, and whether that line is damage rather than the trace of a kill."""
        chunks: list[Chunk] = []
        last = EMPTY
        raw = (self.folder / "journal.jsonl").read_bytes()
        for line in raw.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return chunks, False
            try:
                texts, tokens, digest, chain = json.loads(line)
                chunk = last.then(texts, tokens, digest)
            except (ValueError, TypeError):
                return chunks, True
            if chunk.chain != chain:
                return chunks, True
            chunks.append(chunk)
            last = chunk
        return chunks, False

    # ---------------------------------------------------------------- writing

    def append(
        self, chunks: Sequence[Chunk], ids: NDArray[np.int64], lengths: NDArray[np.int64], rest: Sequence[bytes]
    ) -> Chunk:
        """Write a chunk, durable when this returns; only the holder of the lock may.

        Args:
            chunks: all there are.
            ids: int64 [total].
            lengths: int64 [n].
            rest: the bytes for `keys.bin` and `cut.bin`.
        """
        last = chunks[-1] if chunks else EMPTY
        ends = last.tokens + np.cumsum(lengths)
        parts = [ids.astype(self.dtype).tobytes(), ends.astype("<i8").tobytes(), *rest]
        chunk = last.then(last.texts + len(lengths), last.tokens + len(ids), _digest(parts))
        for name, start, part in zip(_NAMES, self._sizes(last), parts, strict=True):
            _write(self.folder / name, start, part)
        _write(self.folder / "journal.jsonl", sum(len(c.line) for c in chunks), chunk.line)
        return chunk

    def _sizes(self, chunk: Chunk) -> tuple[int, ...]:
        """Bytes of each file up to the end of a chunk."""
        return chunk.tokens * self.dtype.itemsize, 8 * (chunk.texts + 1), KEY * chunk.texts, chunk.texts

    # ---------------------------------------------------------------- reading

    def sound(self, chunks: Sequence[Chunk]) -> int:
        """How many of the chunks, from the first on, have the bytes that were written."""
        for number, (before, chunk) in enumerate(pairwise([EMPTY, *chunks])):
            if _digest(self._parts(before, chunk)) != chunk.digest:
                return number
        return len(chunks)

    def _parts(self, before: Chunk, chunk: Chunk) -> Iterator[bytes]:
        for name, start, end in zip(_NAMES, self._sizes(before), self._sizes(chunk), strict=True):
            with (self.folder / name).open("rb") as handle:
                handle.seek(start)
                yield handle.read(end - start)

    def arrays(self, last: Chunk) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bytes_], NDArray[np.bool_]]:
        """Memory-mapped up to the end of a chunk: ids [tokens], offsets [texts + 1], keys [texts], cut [texts].

        Raises:
            IntegrityError: a file is shorter than the journal says.
        """
        kinds = (self.dtype, np.dtype("<i8"), np.dtype(f"S{KEY}"), np.dtype(np.bool_))
        mapped = []
        for name, kind, size in zip(_NAMES, kinds, self._sizes(last), strict=True):
            path = self.folder / name
            if path.stat().st_size < size:
                raise IntegrityError(f"{path} is shorter than what was written", _AGAIN)
            # A view: slices of np.memmap itself are ten times slower.
            empty = np.zeros(0, kind)
            mapped.append(np.asarray(np.memmap(path, kind, "r", shape=(size // kind.itemsize,))) if size else empty)
        ids, offsets, keys, cut = mapped
        return ids, offsets, keys, cut

    def copy(self, chunks: Sequence[Chunk], to: Path) -> None:
        """Copy the first chunks into another folder."""
        sizes = self._sizes(chunks[-1] if chunks else EMPTY)
        _start(to, self.meta, b"".join(chunk.line for chunk in chunks))
        for name, size in zip(_NAMES, sizes, strict=True):
            with (self.folder / name).open("rb") as source, (to / name).open("wb") as target:
                if name == "offsets.bin":  # its leading zero belongs to no chunk
                    source.seek(8)
                    target.write(bytes(8))
                while left := size - target.tell():
                    target.write(source.read(min(left, 1 << 20)))


def newest(folder: Path) -> Generation | None:
    """The generation that counts: the one of the highest number."""
    numbers = sorted(path for path in folder.glob("[0-9]*") if (path / "meta.json").exists())
    return Generation(numbers[-1]) if numbers else None


def begin(folder: Path, meta: dict[str, Any], after: Generation | None = None, good: Sequence[Chunk] = ()) -> None:
    """Make the first generation, or the one after another with its good chunks."""
    with atomic_folder(folder / f"{after.number + 1 if after else 1:04d}") as new:
        if after is not None:
            after.copy(good, new)
        else:
            _start(new, {"format": FORMAT, **meta}, b"")


def _start(folder: Path, meta: dict[str, Any], journal: bytes) -> None:
    for name in _NAMES:
        (folder / name).write_bytes(bytes(8) if name == "offsets.bin" else b"")
    (folder / "journal.jsonl").write_bytes(journal)
    write_json(folder / "meta.json", meta)


def _write(path: Path, start: int, part: bytes) -> None:
    """Put bytes at a place, which is the file's end or where a killed process's remains begin; flush them."""
    with path.open("r+b") as handle:
        handle.truncate(start)
        handle.seek(start)
        handle.write(part)
        handle.flush()
        os.fsync(handle.fileno())


def _digest(parts: Iterator[bytes] | Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
