"""What makes a model's vectors: its weights and its settings, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["VOLATILE", "digest", "digest_of", "plain", "settings"]

VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation", "architectures")
"""Fields of a configuration that do not change a vector."""


def digest(module: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's state."""
    return digest_of(module.state_dict())


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {list(plain.shape)}\n".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def settings(model: Any) -> dict[str, Any]:
    """Everything but the weights that a `SentenceTransformer` computes its vectors from, as JSON."""
    transformer = model.transformers_model
    config = {} if transformer is None else transformer.config.to_dict()
    tokenizer = getattr(getattr(model[0], "tokenizer", None), "backend_tokenizer", None)
    if tokenizer is not None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return {
        "modules": [[type(module).__name__, _config_of(module)] for module in model],
        "config": {key: plain(value) for key, value in config.items() if key not in VOLATILE},
        "tokenizer": "" if tokenizer is None else hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "truncate_dim": getattr(model, "truncate_dim", None),
        "similarity": str(model.similarity_fn_name),
    }


def _config_of(module: Any) -> Any:
    return plain(module.get_config_dict()) if hasattr(module, "get_config_dict") else {}


def plain(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)
