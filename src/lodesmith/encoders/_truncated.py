"""Some layers of a transformer as a model of its own: a student that begins with its teacher's weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import atomic_folder, locked, read_json, sha256_folder, verify_files, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.encoders._finetuning import layers_of
from lodesmith.encoders._identity import digest, settings
from lodesmith.encoders._loading import find_model, load_model, quiet
from lodesmith.encoders.corpus import default_cache

__all__ = ["Keep", "chosen", "truncate"]

_log = logging.getLogger(__name__)

Keep = Literal["spread", "first", "last"]

_TEXTS = ("a", "What is a vector?", "Retrieval models turn a text into a vector; texts of like meaning lie close.")
"""What the written folder is checked with."""
_TOLERANCE = 1e-4
"""Largest difference of a component, relative to the largest one."""


def truncate(model: str | Path, layers: int, keep: Keep = "spread", out: Path | str | None = None) -> Path:
    """Write a model that has some of a transformer's layers, and all else of it: embeddings, pooling, later modules,
    prompts and maximum length.

    A student that starts so learns faster than a random one (DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 3;
    of 12 layers `spread` keeps the 6 that its published code keeps: 0, 2, 4, 7, 9 and 11).

    Args:
        model: hub name, folder, or `minilm`.
        layers: how many are left.
        keep: `first` or `last` ones, or `spread` evenly from the first to the last.
        out: the folder to write, in the place of one that is there; None for one in the cache, which is made once.

    Returns:
        The folder: sentence-transformers' own modules, float32, safetensors.

    Raises:
        InputError: the model is not there, or does not load.
        ConfigError: there are fewer layers, no layers, or layers that do not work at another place.
    """
    teacher = load_model(find_model(model), "cpu")
    transformer = teacher.transformers_model
    if transformer is None:
        raise ConfigError(f"{model} is no transformer: it has no layers to choose from", "choose another base")
    blocks = layers_of(transformer)
    kept = chosen(len(blocks), layers, keep)
    if out is not None:
        return _write(teacher, blocks, kept, Path(out))
    limits = [getattr(part, "max_seq_length", None) for part in (teacher, teacher[0])]
    own = {"weights": digest(teacher), "prompts": [teacher.prompts, teacher.default_prompt_name, limits]}
    key = fingerprint(settings(teacher) | own | {"layers": kept})
    folder = default_cache() / "models" / f"{key[:32]}-{layers}-layers"
    with locked(folder.parent, wait=True):
        return folder if _is_whole(folder) else _write(teacher, blocks, kept, folder)


def chosen(total: int, layers: int, keep: Keep) -> list[int]:
    """The numbers of the layers that are kept, from 0.

    Raises:
        ConfigError: there are not so many, or the way is unknown.
    """
    if not 1 <= layers <= total:
        raise ConfigError(f"layers is {layers}, and the model has {total}", f"choose 1 to {total}")
    if keep == "first":
        return list(range(layers))
    if keep == "last" or (keep == "spread" and layers == 1):
        return list(range(total - layers, total))
    if keep == "spread":
        step, half = 2 * (total - 1), layers - 1
        return [(at * step + half) // (2 * half) for at in range(layers)]  # the nearest, the later of two
    raise ConfigError(f"keep is {keep!r}", "choose spread, first or last")


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the cache is there, as it was written."""
    if not folder.exists():
        return False
    try:
        verify_files(folder, read_json(folder / "manifest.json")["files"])
    except (IntegrityError, InputError, OSError, KeyError, TypeError) as error:
        _log.warning("a truncated model in the cache is damaged and made anew: %s", error)
        return False
    return True


def _write(teacher: Any, blocks: nn.ModuleList, kept: Sequence[int], folder: Path) -> Path:
    """Cut the model in place, write it, and compare what loads with it."""
    _cut(teacher.transformers_model, blocks, kept)
    with atomic_folder(folder) as new:
        with quiet():
            teacher.save_pretrained(str(new), create_model_card=False, safe_serialization=True)
        _check(teacher, new, kept)
        write_json(new / "manifest.json", {"layers": list(kept), "files": sha256_folder(new)})
    return folder


def _cut(transformer: Any, blocks: nn.ModuleList, kept: Sequence[int]) -> None:
    """Drop the other layers, and what the configuration says of them."""
    left, total, config = [blocks[at] for at in kept], len(blocks), transformer.config
    for at, layer in enumerate(left):
        for module in layer.modules():
            if "layer_idx" in vars(module):  # the place in a decoder's cache
                vars(module)["layer_idx"] = at
    del blocks[:]
    blocks.extend(left)
    for name, value in config.to_dict().items():
        if _of_each_layer(name, value, total):
            setattr(config, name, [value[at] for at in kept])
    config.num_hidden_layers = len(kept)


def _of_each_layer(name: str, value: Any, total: int) -> bool:
    """Whether a setting is a list with a value for each layer. Lists of token ids, of classes or of the numbers of
    layers can have that length by chance."""
    other = name.endswith(("_id", "_ids", "_layers")) or name == "architectures"
    return isinstance(value, list | tuple) and len(value) == total and not other


def _check(cut: Any, folder: Path, kept: Sequence[int]) -> None:
    """Some models treat their first layer, or every n-th, in a way of its own: what was kept must work where it is."""
    with torch.inference_mode():
        wanted, found = (
            part.encode(list(_TEXTS), convert_to_tensor=True, show_progress_bar=False)
            for part in (cut, load_model(folder, "cpu"))
        )
    difference = float((wanted - found).abs().max())
    if not difference <= _TOLERANCE * float(wanted.abs().max()):
        raise ConfigError(
            f"layers {', '.join(map(str, kept))} of this model do not work at other places: "
            f"a vector that loads differs by {difference:.1g}",
            "keep the first layers",
        )
