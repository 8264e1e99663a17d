"""`Vectors`: what an encoder makes of items. Flat rows and offsets; a dense item has one row.

On disk it is a folder of `values.npy` (memory-mapped when loaded), `offsets.npy`, `ids.txt` and `manifest.json`; with
values in int8 also `scales.npy`, float32 [total, 1], by which they are multiplied wherever they are read.
`VectorWriter` fills such a folder piece by piece: what it has committed survives a kill, and it goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from lodesmith.core._eight_bit import Scaled, scaled
from lodesmith.core.errors import InputError, IntegrityError, ResumeError
from lodesmith.core.files import (
    atomic_file,
    atomic_folder,
    read_json,
    read_object,
    sha256_file,
    sync_folder,
    verify_files,
    write_json,
)

_HEADER = 128
"""Bytes kept for the .npy header, so that its shape can be set once the number of rows is known."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of n items, ragged: item i owns values[offsets[i]:offsets[i + 1]].

    Args:
        values: float32 or float16 [total, d]; of a folder in int8 `Scaled`, of which rows are taken as float32.
        offsets: int64 [n + 1].
        ids: the n items' ids.
        info: what made them (the manifest's other fields).
    """

    values: NDArray[np.floating]
    offsets: NDArray[np.int64]
    ids: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise InputError(f"values must be [total, d], not {list(self.values.shape)}")
        if len(self.offsets) != len(self.ids) + 1:
            raise InputError(
                f"ids and offsets do not fit: {len(self.ids)} ids, {len(self.offsets)} offsets (one more is right)"
            )
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != len(self.values) or (np.diff(self.offsets) < 0).any():
            raise InputError(f"offsets must rise from 0 to {len(self.values)}")

    @classmethod
    def dense(cls, values: NDArray[np.floating], ids: Sequence[str], **info: Any) -> Vectors:
        """One row an item."""
        if len(values) != len(ids):
            raise InputError(f"ids and vectors are not the same number: {len(ids)} != {len(values)}")
        return cls(values, np.arange(len(ids) + 1, dtype=np.int64), tuple(ids), info)

    @classmethod
    def joined(cls, parts: Sequence[Vectors]) -> Vectors:
        """The items of several vectors of one dimension, one after another, in memory; `info` is the last one's."""
        values = np.concatenate([part.values for part in parts])
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(values, offsets, tuple(name for part in parts for name in part.ids), dict(parts[-1].info))

    @classmethod
    def load(cls, folder: Path | str, *, verify: bool = False) -> Vectors:
        """Open a vectors folder, memory-mapped.

        Args:
            folder: as `VectorWriter.finish` left it.
            verify: compare every file with the manifest's SHA-256 first.

        Raises:
            InputError: it is not a finished vectors folder.
            IntegrityError: a file is damaged (sizes are always checked, bytes with `verify`).
        """
        folder = Path(folder)
        if not (folder / "manifest.json").exists():
            raise InputError("not a finished vectors folder", "run `lode encode` again: it continues", path=folder)
        manifest = read_json(folder / "manifest.json")
        if verify:
            verify_files(folder, manifest["files"])
        try:
            values = _opened(folder)
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
            ids = tuple(json.loads(line) for line in (folder / "ids.txt").read_text(encoding="utf-8").splitlines())
            return cls(values, offsets, ids, {k: v for k, v in manifest.items() if k != "files"})
        except (OSError, EOFError, ValueError, InputError) as error:
            raise IntegrityError(
                f"{folder}: the vectors are damaged: {error}", "encode again, or restore a copy"
            ) from None

    def save(self, folder: Path | str) -> Path:
        """Write the folder as a whole: it takes the place of one that is there; an interrupted call changes nothing."""
        with (
            atomic_folder(folder) as new,
            VectorWriter(new, self.dimension, self.values.dtype, self.info) as writer,
        ):
            writer.append(self.ids, self.values, self.offsets)
            writer.finish()
        return Path(folder)

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.values.shape[1])

    @property
    def is_dense(self) -> bool:
        """Whether every item has exactly one row."""
        return len(self.ids) == len(self.values) and bool((np.diff(self.offsets) == 1).all())

    def take(self, positions: NDArray[np.integer] | Sequence[int]) -> Vectors:
        """The items at these positions, in this order, in memory."""
        positions = np.asarray(positions, np.int64)
        counts = np.diff(self.offsets)[positions]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][positions] - offsets[:-1], counts)
        return Vectors(np.asarray(self.values[rows]), offsets, tuple(self.ids[i] for i in positions), dict(self.info))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Vectors({len(self)} items, {len(self.values)} rows × {self.dimension}, {self.values.dtype})"


def _opened(folder: Path) -> NDArray[np.floating]:
    """The values of a folder, memory-mapped."""
    values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
    if values.dtype != np.int8:
        return cast("NDArray[np.floating]", values)
    scales = np.load(folder / "scales.npy", mmap_mode="r", allow_pickle=False)
    return cast("NDArray[np.floating]", Scaled(values, scales))


def check_range(values: NDArray[np.floating], dtype: np.dtype[Any]) -> None:
    """Refuse what a type cannot hold.

    Raises:
        InputError: a value is NaN, or too large for the type.
    """
    # Of float32's own kind: a larger Python number would overflow where float16 values are compared with it.
    most = np.finfo(np.float32).max / np.float32(2) if dtype == np.int8 else np.float32(np.finfo(dtype).max)
    if not (np.abs(values) <= most).all():  # NaN is not <= either
        raise InputError(f"a vector has NaN, or a component that {dtype} cannot hold", "use float32")


def begun_dtype(folder: Path | str) -> str | None:
    """The type of the values of a folder that a `VectorWriter` has begun; None where none has."""
    journal = Path(folder) / "journal.json"
    return read_object(journal).get("dtype") if journal.is_file() else None


class VectorWriter:
    """Appends items to a vectors folder; each `append` is durable when it returns.

    A folder that an earlier process left unfinished (or finished) is continued: `ids` says what it holds.

    Args:
        folder: made if it is missing.
        dimension: d.
        dtype: float32, float16, or int8, which gives each row a scale of its own.
        info: what makes the vectors; a folder begun with other `info` is refused.

    Raises:
        InputError: the folder holds something else.
        ResumeError: it was begun with another dimension, type or `info`.
    """

    def __init__(self, folder: Path | str, dimension: int, dtype: Any, info: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self.info = info
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = self.folder / "journal.json"
        state = self._begin()
        self.note: dict[str, Any] = state.get("note", {})
        """What the last `append` said beside its vectors."""
        self.ids: list[str] = []
        self._files = {name: self._open(name, state[name]) for name in self._begun_at()}
        self._files["ids.txt"].seek(0)
        self.ids = [json.loads(line) for line in self._files["ids.txt"].read().splitlines()]
        self.rows = (state["values.npy"] - _HEADER) // (self.dimension * self.dtype.itemsize)
        counts = self._counts()
        scales = (state["scales.npy"] - _HEADER) // 4 if self._narrow else self.rows
        if len(counts) != len(self.ids) or int(counts.sum()) != self.rows or scales != self.rows:
            self.close()
            raise IntegrityError(
                f"{self.folder}: {len(self.ids)} ids, {len(counts)} counts of {int(counts.sum())} rows and "
                f"{self.rows} rows{f' with {scales} scales' if self._narrow else ''} do not fit",
                "delete the folder and encode again",
            )

    @property
    def _narrow(self) -> bool:
        """Whether rows have scales."""
        return bool(self.dtype == np.int8)

    def _begun_at(self) -> dict[str, int]:
        """The files, and how long each is before anything is written."""
        start = {"values.npy": _HEADER, "counts.part": 0, "ids.txt": 0}
        return start | ({"scales.npy": _HEADER} if self._narrow else {})

    def _begin(self) -> dict[str, Any]:
        identity = {"dimension": self.dimension, "dtype": str(self.dtype), "info": self.info}
        if not self._journal.exists():
            if found := [file.name for file in self.folder.iterdir() if not file.name.startswith(".")]:
                raise InputError(
                    f"{self.folder} holds other things ({', '.join(sorted(found)[:3])})", "choose another folder"
                )
            write_json(self._journal, identity | self._begun_at())
        state: dict[str, Any] = read_json(self._journal)
        for name, value in identity.items():
            if state.get(name) != value:
                raise ResumeError(
                    f"{self.folder} was begun with {name} {state.get(name)!r}, not {value!r}",
                    "choose another folder, or delete it",
                )
        return state

    def _open(self, name: str, size: int) -> IO[bytes]:
        path = self.folder / name
        path.touch()
        handle = path.open("r+b")
        new = name.endswith(".npy") and size == _HEADER  # the header is written last
        if handle.seek(0, os.SEEK_END) < size and not new:
            raise IntegrityError(f"{path} is shorter than what was written", "delete the folder and encode again")
        handle.truncate(size)
        handle.seek(0, os.SEEK_END)
        return handle

    def _counts(self) -> NDArray[np.int64]:
        """Rows of each item so far."""
        self._files["counts.part"].seek(0)
        return np.frombuffer(self._files["counts.part"].read(), "<i8").astype(np.int64)

    @property
    def count(self) -> int:
        """Items written so far."""
        return len(self.ids)

    def append(
        self,
        ids: Sequence[str],
        values: NDArray[np.floating],
        offsets: NDArray[np.int64] | None = None,
        note: dict[str, Any] | None = None,
    ) -> None:
        """Write items, durably when it returns.

        Args:
            ids: n ids.
            values: their rows [total, d].
            offsets: [n + 1], where items have not one row each.
            note: a JSON object that takes the place of the last one, at the same instant as the items become durable.
        """
        counts = np.ones(len(ids), np.int64) if offsets is None else np.diff(offsets)
        if values.shape != (int(counts.sum()), self.dimension) or len(counts) != len(ids):
            raise InputError(
                f"{len(ids)} ids of {int(counts.sum())} rows do not fit vectors of shape {list(values.shape)}"
            )
        parts = self._kept(values) | {
            "counts.part": counts.astype("<i8").tobytes(),
            "ids.txt": "".join(json.dumps(i) + "\n" for i in ids).encode(),
        }
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for name, handle in self._files.items():
            handle.write(parts[name])
            handle.flush()
            os.fsync(handle.fileno())
        self.ids.extend(ids)
        self.rows += len(values)
        sizes = {name: handle.tell() for name, handle in self._files.items()}
        self.note = self.note if note is None else note
        identity = {"dimension": self.dimension, "dtype": str(self.dtype), "info": self.info}
        write_json(self._journal, identity | sizes | {"note": self.note})

    def _kept(self, values: NDArray[np.floating]) -> dict[str, bytes]:
        """Rows as they are written."""
        if not self._narrow:
            return {"values.npy": np.ascontiguousarray(values, self.dtype).tobytes()}
        codes, scales = scaled(values)
        return {"values.npy": codes.tobytes(), "scales.npy": scales.tobytes()}

    def finish(self, extra: dict[str, Any] | None = None) -> Vectors:
        """Write header, offsets and manifest, and open the result. More may be appended by a later writer.

        Args:
            extra: fields of the manifest that are not part of what makes the vectors, such as timings.
        """
        _write_header(self._files["values.npy"], self.dtype, (self.rows, self.dimension))
        if self._narrow:
            _write_header(self._files["scales.npy"], np.dtype(np.float32), (self.rows, 1))
        offsets = np.concatenate([[0], np.cumsum(self._counts())]).astype(np.int64)
        with atomic_file(self.folder / "offsets.npy", "wb") as handle:
            np.save(handle, offsets)
        names = ("values.npy", "offsets.npy", "ids.txt", *(["scales.npy"] if self._narrow else []))
        manifest = (
            (extra or {})
            | self.info
            | {
                "items": self.count,
                "rows": self.rows,
                "dimension": self.dimension,
                "dtype": str(self.dtype),
                "files": {name: sha256_file(self.folder / name) for name in names},
            }
        )
        write_json(self.folder / "manifest.json", manifest)
        sync_folder(self.folder)
        return Vectors.load(self.folder)

    def close(self) -> None:
        """Close the files; what was appended stays."""
        for handle in self._files.values():
            handle.close()

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    """Fill the room that was kept for the header of a .npy file."""
    descr = np.lib.format.dtype_to_descr(dtype)
    header = repr({"descr": descr, "fortran_order": False, "shape": shape})
    body = header.ljust(_HEADER - 11) + "\n"
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body.encode())
    file.flush()
    os.fsync(file.fileno())
    file.seek(0, os.SEEK_END)
