"""The tensors of a memory model's folder: the adapters' factors, memory tokens and mark, by name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lodesmith.core.errors import IntegrityError
from lodesmith.core.model_files import refuse_damaged
from lodesmith.encoders._memory_model import ADAPTERS, MemoryModel

if TYPE_CHECKING:
    from lodesmith.encoders._memory_folder import MemorySettings

__all__ = ["OWN", "check_shapes", "file_of", "load_weights", "read_parts", "shapes_of"]

OWN = "memory"
"""The part of a model that is no adapter: memory tokens and mark."""
_AGAIN = "train again, or restore a copy"


@torch.no_grad()
def load_weights(folder: Path, model: MemoryModel) -> None:
    """Give a model the adapters and memory tokens of a folder.

    Raises:
        IntegrityError: a tensor is missing, unknown, or of another shape.
    """
    wanted = _parts(model)
    for part, state in read_parts(folder, _shapes(wanted)).items():
        for name, tensor in state.items():
            wanted[part][name].copy_(tensor)


def shapes_of(language_model: Any, settings: MemorySettings) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of every tensor of every part of a memory model, by name.

    Args:
        language_model: that gets adapters; on the device `meta`, so that nothing is allocated.
        settings: of the model.

    Raises:
        ConfigError: lora does not fit the language model.
        MissingExtraError: peft is not installed.
    """
    with torch.device("meta"):
        return _shapes(_parts(MemoryModel(language_model, settings.count, settings.lora)))


def _parts(model: MemoryModel) -> dict[str, dict[str, Tensor]]:
    own: dict[str, Tensor] = {"memory": model.memory, "mark": model.mark}
    return {**{name: dict(model.weights(name)) for name in ADAPTERS}, OWN: own}


def _shapes(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {part: {name: tuple(weight.shape) for name, weight in own.items()} for part, own in parts.items()}


def read_parts(folder: Path, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each adapter, and `memory` and `mark` under `OWN`.

    Args:
        folder: that `write_folder` wrote.
        shapes: of every tensor of every part, by name.

    Raises:
        IntegrityError: a tensor is missing, unknown, or of another shape.
        NotFiniteError: one is NaN or infinite.
    """
    found = {}
    for part, wanted in shapes.items():
        file = file_of(folder, part)
        found[part] = _tensors(file)
        check_shapes(file, {name: tuple(tensor.shape) for name, tensor in found[part].items()}, wanted)
        refuse_damaged(found[part].items(), file)
    return found


def file_of(folder: Path, part: str) -> Path:
    """The weights of a part: an adapter, or `OWN`."""
    return folder / "memory.safetensors" if part == OWN else folder / "adapters" / part / "adapter_model.safetensors"


def check_shapes(file: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the tensors of a file, name → shape, with those that the model has.

    Raises:
        IntegrityError: one is missing, unknown, or of another shape.
    """
    if strange := sorted(found.keys() ^ wanted.keys()):
        how = "is missing" if strange[0] in wanted else "has no place in the model"
        raise IntegrityError(f"{file}: the tensor {strange[0]} {how}", _AGAIN)
    for name, shape in found.items():
        if shape != wanted[name]:
            both = zip(shape, wanted[name], strict=False)
            numbers = next((f": {a} ≠ {b}" for a, b in both if a != b), "")
            raise IntegrityError(
                f"{file}: the tensor {name} has the shape {list(shape)}, not {list(wanted[name])}{numbers}", _AGAIN
            )


def _tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{file}: the weights are damaged: {error}", _AGAIN) from None
