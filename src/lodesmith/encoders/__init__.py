"""Encoders: texts of one side → `Vectors`. Names load what they need when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Bag": "bag",
    "IsotropicGaussianEncoder": "projected",
    "Passages": "transformer",
    "ProjectionLayer": "projected",
    "Recurrent": "rnn",
    "TowerPair": "_pair",
    "TransformerEncoder": "transformer",
    "VectorCache": "corpus",
    "Vocabulary": "_words",
    "WordVectors": "word_vectors",
    "encode_to": "corpus",
    "load_encoder": "transformer",
    "load_tower": "_pair",
    "read_word_vectors": "word_vectors",
    "train_word_vectors": "word_vectors",
    "write_word_vectors": "word_vectors",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
