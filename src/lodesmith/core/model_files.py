"""The files of a transformers model folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lodesmith.core.errors import NotFiniteError
from lodesmith.core.files import read_object, sha256_file

__all__ = ["MODEL_FILES", "digests", "names_no_family", "refuse_damaged"]

MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""What decides what a language model writes."""


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model folder that decides what it writes, by name."""
    files = sorted(file for kind in MODEL_FILES for file in folder.glob(kind))
    return {file.name: sha256_file(file) for file in files}


def refuse_damaged(weights: Iterable[tuple[str, Any]], folder: Path) -> None:
    """Look through the weights of a model that was just loaded.

    Args:
        weights: name and tensor.
        folder: where they were read.

    Raises:
        NotFiniteError: one is NaN or infinite: what is written with it is chance, and what is trained on it, too.
    """
    for name, weight in weights:
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise NotFiniteError(
                f"the weight {name} is NaN or infinite", "the files are damaged: fetch or train them again", path=folder
            )


def names_no_family(folder: Path) -> bool:
    """Whether a tokenizer is what its tokenizer.json says and nothing else. By the kind of the model, transformers
    would otherwise take another, with other words."""
    config = folder / "tokenizer_config.json"
    if not (config.is_file() and (folder / "tokenizer.json").is_file()):
        return False
    return read_object(config).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
