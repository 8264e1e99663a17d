"""Texts as tokens, tokenised once: a store on disk that recipes share, and the tokens of some texts read from it.

    store = TokenStore("cache", tokenizer_of(tokenizer, 256))
    documents = store.tokens(document.content for document in dataset.documents.values())
    ids, offsets = documents.take([3, 1])

The store of a tokenizer (its rules, prompt and maximum length) is a folder of memory-mapped files. A text is found by
128 bits of BLAKE2b and tokenised only when it is not there. What has been written survives a kill, a second writer
adds to the same files, and readers need no lock.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import locked
from lodesmith.core.hashing import text_key
from lodesmith.core.progress import tell
from lodesmith.data._token_files import EMPTY, KEY, Chunk, Generation, begin, newest
from lodesmith.data._tokenizers import FastTokenizer, PlainTokenizer, Tokenised, Tokenizer, tokenizer_of

__all__ = ["FastTokenizer", "PlainTokenizer", "TokenStore", "Tokenised", "Tokenizer", "Tokens", "tokenizer_of"]

_log = logging.getLogger(__name__)

_SMALL = 1 << 16
"""So many keys are merged into the sorted ones at once, at least."""


@dataclass(frozen=True)
class _Stored:
    """A store's arrays as they were at some time. Pickles as paths: another process maps the same files."""

    generation: Generation
    last: Chunk

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.bytes_], NDArray[np.bool_]]:
        """ids, offsets, keys, cut."""
        return self.generation.arrays(self.last)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stored, (self.generation, self.last)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of n texts, in the store's memory-mapped files; a text takes 4 bytes of memory.

    Args:
        stored: the store's files.
        rows: int32 [n] (int64 in a store of 2³¹ texts): the row of each text there. Equal texts share one.
        pad: the id that fills padded batches.
    """

    stored: _Stored
    rows: NDArray[np.integer]
    pad: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, numbers: NDArray[np.integer] | Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tokens of some texts: ids int64 [total] and offsets int64 [len(numbers) + 1]."""
        ids, offsets, _, _ = self.stored.arrays
        rows = self.rows[np.asarray(numbers, np.int64)]
        starts, ends = offsets[rows], offsets[rows.astype(np.int64) + 1]
        bounds = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(ends - starts, out=bounds[1:])
        parts = [ids[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        flat = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        return flat, bounds

    def lengths(self, numbers: NDArray[np.integer] | None = None) -> NDArray[np.int32]:
        """Tokens of some texts, or of all."""
        offsets = self.stored.arrays[1]
        rows = (self.rows if numbers is None else self.rows[numbers]).astype(np.int64)
        found: NDArray[np.int32] = (offsets[rows + 1] - offsets[rows]).astype(np.int32)
        return found

    @property
    def cut(self) -> NDArray[np.bool_]:
        """bool [n]: which texts were longer than the maximum length."""
        found: NDArray[np.bool_] = self.stored.arrays[3][self.rows]
        return found

    @cached_property
    def same(self) -> NDArray[np.int64]:
        """int64 [n]: the number of the first text that is equal to each. Says nothing about the store's history."""
        _, first, place = np.unique(self.rows, return_index=True, return_inverse=True)
        equal: NDArray[np.int64] = first[place.ravel()]
        return equal

    @property
    def report(self) -> dict[str, Any]:
        """Texts, different texts, tokens, and how many texts were cut (and their share)."""
        cut = int(self.cut.sum())
        return {
            "texts": len(self),
            "distinct": len(np.unique(self.rows)),
            "tokens": int(self.lengths().sum(dtype=np.int64)),
            "cut": cut,
            "truncated": cut / max(1, len(self)),
        }


class TokenStore:
    """The tokens of every text that this tokenizer has been given, by the texts' content.

    ids are uint16 where the vocabulary fits, else int32. A text takes its tokens and 25 bytes on disk; while texts are
    looked up, 24 bytes of memory.

    Args:
        root: a cache folder; the store is in `tokens/FINGERPRINT` below it.
        tokenizer: a fast tokenizer of Hugging Face, or a `Tokenizer` (`tokenizer_of` gives one).
        chunk: texts tokenised at once; what a kill can cost.
        verify: compare every committed byte with its SHA-256 when the store is opened (once a process, as long as the
            files stay as they are). Damaged chunks are tokenised again.
    """

    def __init__(self, root: Path | str, tokenizer: Any, *, chunk: int = 8192, verify: bool = True) -> None:
        self.tokenizer = tokenizer_of(tokenizer)
        self.folder = Path(root) / "tokens" / self.tokenizer.fingerprint[:32]
        self.chunk = chunk
        self.verify = verify
        self._open()

    def __len__(self) -> int:
        return self._last.texts

    def tokens(self, texts: Iterable[str]) -> Tokens:
        """The tokens of these texts, in their order; those that are not in the store are tokenised and added.

        An interrupted call keeps the chunks it has written. Others may read and add at the same time.

        Raises:
            InputError: an item is not a text, or an id does not fit into the vocabulary.
            IntegrityError: the store was found damaged, by another process, after it was opened here.
        """
        total = len(texts) if isinstance(texts, Sized) else None
        rows: list[NDArray[np.int64]] = []
        done = 0
        for part in _parts(texts, self.chunk):
            keys = _keys(part, done)
            found = self._index.find(keys)
            if (found < 0).any():
                self._add(part, keys, found < 0)
                found = self._index.find(keys)
            rows.append(found)
            done += len(part)
            tell("tokenise", done, total, "texts")
        every = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        narrow = np.int32 if len(self) < 1 << 31 else np.int64
        return Tokens(_Stored(self._files, self._last), every.astype(narrow), self.tokenizer.pad)

    # --------------------------------------------------------------- the files

    def _open(self) -> None:
        if (found := newest(self.folder)) is None:
            with locked(self.folder, wait=True):
                if newest(self.folder) is None:
                    begin(self.folder, {"dtype": self._dtype(), "tokenizer": self.tokenizer.fingerprint})
            found = newest(self.folder)
        assert found is not None
        self._files = found
        if self.verify:
            self._mend()
        self._chunks: list[Chunk] = []
        self._last = EMPTY
        self._index = _Index()
        self._refresh()

    def _dtype(self) -> str:
        size = self.tokenizer.vocabulary
        return "<u2" if size is not None and size <= 1 << 16 else "<i4"

    def _mend(self) -> None:
        """Where bytes are not those that were written, go on in a new generation with the chunks before them."""
        if _verified.get(self._files.folder) == (state := self._files.state):
            return
        if _damaged(self._files)[1]:
            with locked(self.folder, wait=True):
                current = newest(self.folder) or self._files
                good, damaged = _damaged(current)
                if damaged:
                    _log.warning("%s is damaged after %d texts and goes on from there", self.folder, _texts(good))
                    begin(self.folder, {}, current, good)
                    shutil.rmtree(current.folder, ignore_errors=True)
            self._files = newest(self.folder) or self._files
            state = self._files.state
        _verified[self._files.folder] = state

    def _refresh(self) -> None:
        """Take in what other processes have added.

        Raises:
            IntegrityError: one of them has found damage and begun a new generation; rows given out here are not its.
        """
        current = newest(self.folder)
        if current is None or current.number != self._files.number:
            raise IntegrityError(f"{self.folder} was damaged and has been made anew", "open the store again")
        if self._files.journal_size > sum(len(chunk.line) for chunk in self._chunks):
            self._take_in(self._files.journal()[0][len(self._chunks) :])

    def _take_in(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        before = self._last.texts
        self._chunks.extend(chunks)
        self._last = chunks[-1]
        self._index.extend(np.array(self._files.arrays(self._last)[2][before:]))

    def _add(self, texts: Sequence[str], keys: NDArray[np.bytes_], missing: NDArray[np.bool_]) -> None:
        """Tokenise the missing texts, each once, and append those that no one else has added meanwhile."""
        places = np.flatnonzero(missing)
        names, first = np.unique(keys[places], return_index=True)
        order = np.argsort(first)
        names, first = names[order], first[order]
        made = self.tokenizer([texts[place] for place in places[first].tolist()])
        self._check(made)
        with locked(self.folder, wait=True):
            self._refresh()
            new = self._index.find(names) < 0
            if new.any():
                made = made.only(new)
                rest = [names[new].tobytes(), made.cut.astype(np.uint8).tobytes()]
                self._take_in([self._files.append(self._chunks, made.ids, made.lengths, rest)])

    def _check(self, made: Tokenised) -> None:
        if not len(made.ids):
            return
        largest = (1 << 8 * self._files.dtype.itemsize - (self._files.dtype.kind == "i")) - 1
        if made.ids.min() < 0 or made.ids.max() > largest:
            raise InputError(
                f"the tokenizer gave ids from {made.ids.min()} to {made.ids.max()}; 0 to {largest} fit",
                "correct the vocabulary that it announces",
            )


_verified: dict[Path, tuple[tuple[int, int], ...]] = {}
"""Generations whose bytes this process has compared with their digests, as they were then."""


def _damaged(files: Generation) -> tuple[list[Chunk], bool]:
    """The good chunks, and whether there is anything else."""
    chunks, damaged = files.journal()
    good = files.sound(chunks)
    return chunks[:good], damaged or good < len(chunks)


def _texts(chunks: Sequence[Chunk]) -> int:
    return chunks[-1].texts if chunks else 0


def _parts(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    source = iter(texts)
    while part := list(islice(source, size)):
        yield part


def _keys(texts: Sequence[str], first: int) -> NDArray[np.bytes_]:
    """Keys [n] of texts; `first` is the number of the first, for the message."""
    for at, text in enumerate(texts, start=first):
        if not isinstance(text, str):
            raise InputError(f"text {at} is a {type(text).__name__}, not a string", "give strings")
    return np.frombuffer(b"".join(bytes.fromhex(text_key(text)) for text in texts), f"S{KEY}")


class _Index:
    """Key → row: sorted arrays, a large one and a small one that is merged into it now and then."""

    def __init__(self) -> None:
        self._count = 0
        self._tiers = [_tier(np.zeros(0, f"S{KEY}"), 0) for _ in range(2)]

    def extend(self, keys: NDArray[np.bytes_]) -> None:
        """Add the keys of the rows that follow."""
        added = _tier(keys, self._count)
        self._count += len(keys)
        large, small = self._tiers
        small = _merged(small, added)
        if len(small[0]) > max(_SMALL, len(large[0]) // 4):
            large, small = _merged(large, small), _tier(np.zeros(0, f"S{KEY}"), 0)
        self._tiers = [large, small]

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The row of each key, −1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        for known, rows in self._tiers:
            if len(known):
                place = np.searchsorted(known, keys).clip(max=len(known) - 1)
                hit = known[place] == keys
                found[hit] = rows[place[hit]]
        return found


_Tier = tuple[NDArray[np.bytes_], NDArray[np.int64]]


def _tier(keys: NDArray[np.bytes_], first: int) -> _Tier:
    order = np.argsort(keys)
    return keys[order], order + first


def _merged(a: _Tier, b: _Tier) -> _Tier:
    places = np.searchsorted(a[0], b[0])
    return np.insert(a[0], places, b[0]), np.insert(a[1], places, b[1])
