"""Encode any number of texts into a vectors folder, in bounded memory; what is written survives a kill."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError, ResumeError
from lodesmith.core.files import locked
from lodesmith.core.hashing import text_key
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.vectors import Vectors, VectorWriter, check_range

__all__ = ["Appender", "chain", "encode_to"]

Item = tuple[str, str]
"""(id, text)."""

_SECONDS = 10.0
"""How much work a kill may lose: chunks are cut so that one takes about so long."""
_FIRST, _FEWEST = 128, 32
"""Items of the first chunk, before the speed is known, and of any later one at least."""
_CHARACTERS = 1 << 25
"""Characters of a chunk at most, whatever the number of its items."""


def encode_to(
    encoder: Encoder,
    items: Iterable[Item],
    folder: Path | str,
    *,
    side: Side = "document",
    dtype: str = "float32",
    chunk: int = 8192,
    total: int | None = None,
) -> Vectors:
    """Encode a stream of (id, text) into a vectors folder.

    A folder that was begun is continued: its first items must be those of the stream, which is checked by a hash over
    their ids and texts; they are not encoded again. Only the ids, one chunk of texts and its vectors are in memory.

    Args:
        encoder: any.
        items: ids are unique; the order is that of the vectors.
        folder: made if it is missing; locked while it is written.
        side: whose prompt the texts get.
        dtype: `"float32"`, `"float16"`, or `"int8"` with a scale a row.
        chunk: most items encoded at once; smaller ones are taken while that would take longer than ten seconds.
        total: number of items, where it is known, for the progress.

    Returns:
        The opened folder. Its `info` has `docs_per_s`, `seconds`, `tokens` and `truncated` over all calls that filled
        it.

    Raises:
        ResumeError: the folder was begun with another model, side or type, or the stream is not the one it was begun
            with.
        InputError: an id occurs twice, or a vector cannot be held by `dtype`.
        BusyError: another process is writing there.
    """
    info = {"model": encoder.fingerprint, "side": side, "metric": encoder.metric}
    with locked(folder), VectorWriter(folder, encoder.dimension, dtype, info) as writer:
        stream = iter(items)
        link = _skip(stream, writer)
        appender = Appender(encoder, side, writer, done=writer.count, total=total)
        seen = set(writer.ids)
        for batch in appender.chunks(stream, chunk):
            _check_new(batch, seen)
            for key, text in batch:
                link = chain(link, key, text)
            appender.append(batch, [key for key, _ in batch], {"chain": link})
        return appender.finish()


def chain(link: str, key: str, text: str) -> str:
    """The next link of a hash over ids and texts in their order."""
    return hashlib.blake2b(f"{link}{text_key(key)}{text_key(text)}".encode(), digest_size=16).hexdigest()


def _skip(stream: Iterator[Item], writer: VectorWriter) -> str:
    """Go past what is written and check that it is what the folder was begun with."""
    link = ""
    for at, written in enumerate(writer.ids):
        item = next(stream, None)
        if item is None or item[0] != written:
            found = f"ends after {at} items" if item is None else f"has {item[0]!r}"
            raise ResumeError(
                f"{writer.folder}: item {at + 1} of the folder is {written!r}, but the corpus {found}", _OTHER
            )
        link = chain(link, *item)
    if writer.ids and link != writer.note.get("chain"):
        raise ResumeError(f"{writer.folder}: a text among the first {writer.count} has changed since", _OTHER)
    return link


_OTHER = "give the same corpus, or choose another folder"


def _check_new(batch: list[Item], seen: set[str]) -> None:
    for key, _ in batch:
        if key in seen:
            raise InputError(f"the id {key!r} occurs twice", "make the ids unique: `lode data check DIR`")
        seen.add(key)


_EMPTY = {"items": 0, "seconds": 0.0, "tokens": 0, "cut": 0.0}


class Appender:
    """Encodes chunks into a `VectorWriter` and keeps the books: time, tokens, truncated items.

    Args:
        encoder: any.
        side: whose prompt the texts get.
        writer: of this encoder's vectors.
        done: items that the progress begins with.
        total: number of items in the end, where it is known.
        cut: a file that collects the ids of truncated items, one a line.
    """

    def __init__(
        self,
        encoder: Encoder,
        side: Side,
        writer: VectorWriter,
        *,
        done: int = 0,
        total: int | None = None,
        cut: Path | None = None,
    ) -> None:
        self.cut = cut
        self.encoder, self.side, self.writer = encoder, side, writer
        self.done, self.total = done, total
        self.books: dict[str, Any] = {"items": 0, "seconds": 0.0, "tokens": 0, "cut": 0.0} | writer.note.get(
            "books", {}
        )
        self.rate = 0.0
        self._label = f"encode {'queries' if side == 'query' else 'documents'}"
        tell(self._label, done, total, "texts")

    def chunks(self, items: Iterable[Item], most: int) -> Iterator[list[Item]]:
        """Cut a stream into chunks that take about ten seconds each."""
        batch: list[Item] = []
        characters = 0
        for item in items:
            batch.append(item)
            characters += len(item[1])
            size = min(most, max(int(self.rate * _SECONDS), _FEWEST) if self.rate else _FIRST)
            if len(batch) >= size or characters >= _CHARACTERS:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def append(self, batch: list[Item], ids: list[str], note: dict[str, Any] | None = None) -> None:
        """Encode a chunk and write it under `ids`, durably when this returns."""
        start = time.perf_counter()
        vectors = self.encoder.encode([text for _, text in batch], self.side, ids)
        check_range(vectors.values, self.writer.dtype)
        self._note_cut(vectors)
        seconds = time.perf_counter() - start
        self.rate = len(batch) / max(seconds, 1e-9)
        self.books = {
            "items": self.books["items"] + len(batch),
            "seconds": self.books["seconds"] + seconds,
            "tokens": self.books["tokens"] + int(vectors.info.get("tokens", 0)),
            "cut": self.books["cut"] + float(vectors.info.get("truncated", 0.0)) * len(batch),
        }
        self.writer.append(ids, vectors.values, vectors.offsets, (note or {}) | {"books": self.books})
        self.done += len(batch)
        tell(self._label, self.done, self.total, "texts")

    def _note_cut(self, vectors: Vectors) -> None:
        """Before the vectors are written, so that none of them can lack its note; a note too many does no harm."""
        if self.cut is not None and vectors.info.get("cut"):
            with self.cut.open("a", encoding="utf-8") as handle:
                handle.writelines(f"{key}\n" for key in vectors.info["cut"])
                handle.flush()
                os.fsync(handle.fileno())

    def finish(self) -> Vectors:
        """Close the folder and open the result; the files are hashed again only where something was added."""
        if (self.writer.folder / "manifest.json").exists():
            return Vectors.load(self.writer.folder)
        items, seconds = self.books["items"], self.books["seconds"]
        return self.writer.finish(
            {
                "seconds": round(seconds, 3),
                "docs_per_s": round(items / seconds, 3) if seconds else None,
                "tokens": self.books["tokens"],
                "truncated": self.books["cut"] / items if items else 0.0,
            }
        )
