"""The tensors of a model folder by name, shape and type, from the files' headers: no weight is read."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import read_json

__all__ = ["Tensor", "headers", "of_folder"]

LARGEST = 100 << 20
"""Bytes of a header; the format allows no more."""
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
BITS |= {"U64": 64, "U32": 32, "U16": 16}
AGAIN = "the file is damaged or not fully copied: fetch or save it again"


@dataclass(frozen=True)
class Tensor:
    """A tensor as its file's header describes it."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def headers(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file.

    Raises:
        IntegrityError: the header is no header, or the file is longer or shorter than it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= min(LARGEST, size - 8):
            raise IntegrityError(f"{path}: not a safetensors file ({size:,} bytes, header {length:,})", AGAIN)
        raw = file.read(length)
    try:
        found = {name: _tensor(own) for name, own in json.loads(raw).items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path}: the header is damaged: {error}", AGAIN) from None
    told = 8 + length + sum(tensor.bytes for tensor in found.values())
    if told != size:
        raise IntegrityError(f"{path}: the file has {size:,} bytes, its header tells of {told:,}", AGAIN)
    for name, tensor in found.items():
        if tensor.dtype in BITS and tensor.bytes * 8 != tensor.count * BITS[tensor.dtype]:
            raise IntegrityError(f"{path}: {name} {list(tensor.shape)} {tensor.dtype} has {tensor.bytes} bytes", AGAIN)
    return found


def _tensor(own: dict[str, object]) -> Tensor:
    first, last = (int(str(offset)) for offset in own["data_offsets"])  # type: ignore[attr-defined]
    shape = tuple(int(n) for n in own["shape"])  # type: ignore[attr-defined]
    if last < first or min(shape, default=0) < 0:
        raise ValueError("offsets or shape are negative")
    return Tensor(shape, str(own["dtype"]), last - first)


def of_folder(folder: Path, stem: str = "model") -> dict[str, Tensor]:
    """The tensors of a folder: of `model.safetensors`, of the shards that its index lists, or of each such file.

    Raises:
        InputError: there are none.
        IntegrityError: a shard is missing or damaged, or lacks what the index says of it.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if index.is_file() and not whole.is_file():
        return _shards(folder, index)
    files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError("no safetensors file", "fetch or save the model again, with its weights", path=folder)
    return {name: tensor for file in files for name, tensor in headers(file).items()}


def _shards(folder: Path, index: Path) -> dict[str, Tensor]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict):
        raise IntegrityError(f"{index}: it has no weight_map", AGAIN)
    found: dict[str, Tensor] = {}
    for shard in dict.fromkeys(listed.values()):
        file = folder / Path(str(shard)).name
        if not file.is_file():
            raise IntegrityError(f"{file}: missing, though {index.name} lists it", "fetch the model again, whole")
        found |= headers(file)
    if absent := [name for name in listed if name not in found]:
        raise IntegrityError(f"{index}: {absent[0]} is listed, but in no shard", AGAIN)
    return found
