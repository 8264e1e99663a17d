"""Whether a model of memory tokens loads here: its files, the language model under it, and that its adapters fit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json
from lodesmith.recipes._transformer_checks import (
    Checkup,
    base_folder,
    check_transformer,
    describe,
    is_for_mlx,
    weigh,
)
from lodesmith.recipes._weights import Tensor

if TYPE_CHECKING:
    from lodesmith.encoders._memory_folder import MemorySettings

__all__ = ["check_memory"]

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


def check_memory(found: Checkup, folder: Path) -> None:
    """Examine a folder that `MemoryEncoder.save` wrote.

    Raises:
        IntegrityError: it does not say what it is, or the language model is another.
        InputError: the language model is not here, or is none that loads.
    """
    from lodesmith.encoders._memory_folder import base_of, read_told, verify_told
    from lodesmith.encoders._memory_model import ADAPTERS
    from lodesmith.encoders._memory_weights import OWN, file_of

    told = read_told(folder)
    own = told.settings
    found.facts |= {"base": told.name or "a copy in base/", "rate": own.rate, "document_length": own.document_length}
    found.facts |= {"memory_tokens": own.count, "rank": own.lora["rank"]}
    if found.healthy:  # else it has been said which file is not the one that training wrote
        found.attempt(lambda: verify_told(folder, told))
    parts = {part: weigh(found, file_of(folder, part).parent) for part in (*ADAPTERS, OWN)}
    found.facts["adapter_parameters"] = found.facts["parameters"]
    base, known = base_of(folder, told, _here), len(found.faults)
    if (width := check_transformer(found, base, mlx=True)) is not None:
        found.facts["dimension"] = width
    if len(found.faults) == known:
        _fits(found, base, own, parts)


def _here(name: str) -> Path:
    """The folder of a language model, which is not fetched."""
    if (place := base_folder(name, Path())) is None:
        raise InputError(
            f"the language model under the adapters, {name}, is not here", "put it back, or fetch it while online"
        )
    return place


def _fits(found: Checkup, base: Path, settings: MemorySettings, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """The tensors of adapters and memory tokens against the language model's, and documents against its length."""
    from lodesmith.encoders._language_model import load_tokenizer
    from lodesmith.encoders._memory_weights import check_shapes, file_of

    for_mlx = is_for_mlx(read_json(base / "config.json"))
    room, shapes = (_by_mlx if for_mlx else _by_torch)(base, settings)
    found.attempt(lambda: load_tokenizer(base))
    found.attempt(lambda: settings.check_room(room))
    for part, tensors in parts.items():
        own = {name: tensor.shape for name, tensor in tensors.items()}
        if own:  # else its file is missing or damaged, which has been said
            found.attempt(partial(check_shapes, file_of(found.folder, part), own, shapes[part]))


def _by_torch(base: Path, settings: MemorySettings) -> tuple[int | None, Shapes]:
    """Tokens that a language model reads at most, and the shapes that the parts over it have; nothing is allocated."""
    from lodesmith.encoders._language_model import check_language_model
    from lodesmith.encoders._memory_weights import shapes_of

    model = describe(base, check_language_model(base))
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return room, shapes_of(model, settings)


def _by_mlx(base: Path, settings: MemorySettings) -> tuple[int | None, Shapes]:
    from lodesmith.encoders._mlx_folder import read_config
    from lodesmith.encoders._mlx_memory import shapes_of

    config, _ = read_config(base)
    return config.room, shapes_of(config, settings)
