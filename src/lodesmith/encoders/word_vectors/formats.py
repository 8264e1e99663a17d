"""Files of word vectors: word2vec (text and binary) and GloVe (text).

    vectors = read_word_vectors("glove.6B.100d.txt.gz", only=vocabulary.ids)

Files are read as streams: only the rows of wanted words are kept, a header's promises are compared with the file's
size before anything is reserved, and a broken line is named by its number.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_file
from lodesmith.core.lines import LineError, bounded_lines, decode_text, shorten
from lodesmith.core.progress import tell
from lodesmith.encoders.word_vectors.vectors import WordVectors, of_folder

__all__ = ["Format", "read_word_vectors", "write_word_vectors"]

Format = Literal["word2vec", "word2vec-binary", "glove"]

_WIDEST = 16_384
"""The most dimensions that are believed."""
_LONGEST = 1 << 12
"""The longest word of a binary file, in bytes."""
_LINE = 1 << 20
"""The longest line of a text file, in bytes."""
_EVERY = 20_000
_CORRECT = "correct the file, or fetch it again"


# ------------------------------------------------------------------------ reading


def read_word_vectors(
    path: Path | str, *, only: Container[str] | None = None, limit: int | None = None, fold: bool = True
) -> WordVectors:
    """Read word vectors of any of the formats; the file says which it is, and may be compressed by gzip.

    Args:
        path: a file of word2vec or GloVe; a folder that `WordVectors.save` wrote; or a bag of words that was trained:
            its model folder or run directory.
        only: keep these words alone.
        limit: read so many rows of the file at most; the most frequent words usually stand first.
        fold: a word that is not wanted as it is written counts as its lower-case form, unless that has a row of its own
            (of several forms the first counts).

    Returns:
        The rows kept. `info` has `rows` read, `kept`, and `repeated`, rows of a word that was there already.

    Raises:
        InputError: the file is missing or broken; the message has the line (of a binary file: the row).
    """
    path = Path(path)
    keep = _Kept(only, fold)
    if path.is_dir():
        return _chosen(of_folder(path), keep, limit, path)
    with _opened(path) as (file, size):
        header = _header(file.peek(_LINE).partition(b"\n")[0])
        rows = _text_rows(path, file, None) if header is None else _by_header(path, file, header, size)
        expected = None if header is None else header[0]
        for number, (word, values) in enumerate(rows, start=1):
            keep.add(word, values)
            if number % _EVERY == 0:
                tell("read word vectors", number, expected, "words")
            if number == limit:
                break
        else:
            if expected is not None and keep.rows != expected:
                raise InputError(f"the header announces {expected} words, there are {keep.rows}", _CORRECT, path=path)
    return keep.result(path)


class _Kept:
    """The rows that are wanted."""

    def __init__(self, only: Container[str] | None, fold: bool) -> None:
        self.only, self.fold = only, fold
        self.rows = self.repeated = 0
        self._exact: dict[str, NDArray[np.float32]] = {}
        self._folded: dict[str, NDArray[np.float32]] = {}

    def add(self, word: str, values: Any) -> None:
        """Take a row, or not; `values` is a function, so that rows that are not wanted are not parsed."""
        self.rows += 1
        if self.only is None or word in self.only:
            if word in self._exact:
                self.repeated += 1
            else:
                self._exact[word] = values()
        elif self.fold and (lower := word.lower()) in self.only and lower not in self._folded:
            self._folded[lower] = values()

    def result(self, path: Path) -> WordVectors:
        found = self._exact | {word: row for word, row in self._folded.items() if word not in self._exact}
        if not self.rows:
            raise InputError("holds no word vectors", _CORRECT, path=path)
        if not found:
            raise InputError(f"none of the wanted words is among its {self.rows}", "choose other vectors", path=path)
        info = {"source": path.name, "rows": self.rows, "kept": len(found), "repeated": self.repeated}
        return WordVectors(tuple(found), np.stack(list(found.values())).astype(np.float32), info)


def _chosen(vectors: WordVectors, keep: _Kept, limit: int | None, path: Path) -> WordVectors:
    """The wanted rows of a folder, by the rules of files."""
    if keep.only is None and limit is None:
        return vectors
    for word, row in islice(zip(vectors.words, vectors.values, strict=True), limit):
        keep.add(word, row.copy)
    found = keep.result(path)
    return WordVectors(found.words, found.values, found.info | vectors.info)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader[Any], int | None]]:
    """The file's bytes, and how many there are; None where it is compressed."""
    try:
        with BufferedReader(FileIO(path), _LINE) as raw:
            if raw.peek(2)[:2] != b"\x1f\x8b":
                yield raw, path.stat().st_size
                return
            with gzip.open(raw) as file, BufferedReader(file, _LINE) as unpacked:
                yield unpacked, None
    except FileNotFoundError:
        raise InputError("no such file", "give a file of word2vec or GloVe, or a folder", path=path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", _CORRECT, path=path) from None


def _header(line: bytes) -> tuple[int, int] | None:
    """Words and dimensions, where a line is the header of word2vec."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() and len(field) < 16 for field in fields):
        return None
    return int(fields[0]), int(fields[1])


def _by_header(
    path: Path, file: BufferedReader[Any], header: tuple[int, int], size: int | None
) -> Iterator[tuple[str, Any]]:
    words, dimension = header
    if not 1 <= dimension <= _WIDEST:
        raise InputError(f"the header announces {dimension} dimensions", _CORRECT, path=path, line=1)
    first = len(file.readline(_LINE))
    rest = None if size is None else size - first
    binary = not _is_text(file.peek(_LINE)[:_LINE], dimension)
    least = words * (4 * dimension + 2 if binary else 2 * dimension + 1)
    if rest is not None and rest < least - 1:
        raise InputError(
            f"the header announces {words} words of {dimension} dimensions, at least {least:,} bytes; {rest:,} follow",
            _CORRECT,
            path=path,
            line=1,
        )
    return _binary_rows(path, file, words, dimension) if binary else _text_rows(path, file, dimension, 1)


def _is_text(start: bytes, dimension: int) -> bool:
    """Whether the first row is written in letters: a word and numbers, or anything else that is printable (which is
    broken then). The bytes of `dimension` floats hardly ever are.
    """
    line = start.partition(b"\n")[0]
    try:
        float(line.split()[-1])
        return len(line.split()) == dimension + 1 or line.isascii()
    except (ValueError, IndexError):
        return start[: 4 * dimension].isascii() and start[: 4 * dimension].replace(b"\n", b" ").decode().isprintable()


def _text_rows(
    path: Path, file: BufferedReader[Any], dimension: int | None, before: int = 0
) -> Iterator[tuple[str, Any]]:
    """Rows of letters: a word and its numbers. A word may hold spaces (GloVe 840B): the numbers count from the end."""
    for line in bounded_lines(file, _LINE):
        number = line.number + before
        try:
            fields = decode_text(line).rstrip(" ").split(" ")
        except LineError as error:
            raise InputError(str(error), _CORRECT, path=path, line=number) from None
        if dimension is None:
            dimension = _dimension(fields, path)
        word = " ".join(fields[:-dimension])
        if len(fields) <= dimension or not word:
            raise InputError(
                f"a word and {dimension} numbers are wanted, there are {len(fields)} fields",
                _CORRECT,
                path=path,
                line=number,
            )
        yield word, _Numbers(fields[-dimension:], path, number)


def _dimension(fields: list[str], path: Path) -> int:
    """Numbers of the first row of GloVe, which has no header."""
    if not 2 <= len(fields) <= _WIDEST:
        raise InputError(f"is no file of word vectors: its first line has {len(fields)} fields", _CORRECT, path=path)
    return len(fields) - 1


@dataclass(frozen=True)
class _Numbers:
    """The numbers of a line, parsed when they are asked for."""

    fields: list[str]
    path: Path
    line: int

    def __call__(self) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore"):
                row = np.array(self.fields, np.float64).astype(np.float32)
            if np.isfinite(row).all():
                return row
        except ValueError:
            pass
        wrong = next((f for f in self.fields if not _is_number(f)), self.fields[0])
        raise InputError(f"{shorten(wrong)} is not a finite number", _CORRECT, path=self.path, line=self.line)


def _is_number(text: str) -> bool:
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.float32(float(text))))
    except ValueError:
        return False


def _binary_rows(path: Path, file: BufferedReader[Any], words: int, dimension: int) -> Iterator[tuple[str, Any]]:
    """Rows of word2vec's binary format: the word, a space, float32 little-endian, and often a line end."""
    for row in range(1, words + 1):
        raw = b""
        while (letter := file.read(1)) not in (b" ", b""):
            raw += letter if raw or letter != b"\n" else b""
            if len(raw) > _LONGEST:
                raise InputError(f"row {row}: the word does not end", _CORRECT, path=path)
        numbers = file.read(4 * dimension)
        if len(numbers) < 4 * dimension:
            raise InputError(f"row {row} of {words}: the file ends", _CORRECT, path=path)
        values = np.frombuffer(numbers, "<f4")
        if not np.isfinite(values).all():
            raise InputError(f"row {row}: a number is NaN or infinite", _CORRECT, path=path)
        yield raw.decode("utf-8", "replace"), values.copy
    if file.read(2).strip(b"\n"):
        raise InputError(f"the header announces {words} words, more follow", _CORRECT, path=path, line=1)


# ------------------------------------------------------------------------ writing


def write_word_vectors(vectors: WordVectors, path: Path | str, format: Format = "word2vec") -> Path:
    """Write a file of word2vec or GloVe, atomically. Text has nine digits, which give the same float32 back.

    Raises:
        InputError: a word holds white space or is empty, which these formats cannot carry.
    """
    for word in vectors.words:
        if not word or word.split() != [word]:
            raise InputError(f"the word {word!r} cannot be written: it is empty or has white space", "leave it out")
    values = np.ascontiguousarray(vectors.values, "<f4")
    with atomic_file(path, "wb") as file:
        if format != "glove":
            file.write(f"{len(vectors)} {vectors.dimension}\n".encode())
        for word, row in zip(vectors.words, values, strict=True):
            if format == "word2vec-binary":
                file.write(word.encode() + b" " + row.tobytes() + b"\n")
            else:
                file.write(f"{word} {' '.join(f'{number:.9g}' for number in row.tolist())}\n".encode())
    return Path(path)
