"""Encoders: texts of one side → `Vectors`. Names load what they need when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lodesmith.encoders._mlx_encoder import MLXMemoryEncoder
    from lodesmith.encoders._pair import TowerPair, load_tower
    from lodesmith.encoders._teacher_rows import teacher_rows
    from lodesmith.encoders._truncated import truncate
    from lodesmith.encoders._words import Vocabulary
    from lodesmith.encoders.bag import Bag
    from lodesmith.encoders.corpus import VectorCache, encode_to
    from lodesmith.encoders.memory import MemoryEncoder, MemoryTower
    from lodesmith.encoders.projected import IsotropicGaussianEncoder, ProjectionLayer
    from lodesmith.encoders.rnn import Recurrent
    from lodesmith.encoders.student import StudentModelWithProjection
    from lodesmith.encoders.tokens import LateInteractionEncoder
    from lodesmith.encoders.transformer import Passages, TransformerEncoder, load_encoder
    from lodesmith.encoders.word_vectors import (
        WordVectors,
        read_word_vectors,
        train_word_vectors,
        write_word_vectors,
    )

_HOMES = {
    "Bag": "bag",
    "IsotropicGaussianEncoder": "projected",
    "LateInteractionEncoder": "tokens",
    "MLXMemoryEncoder": "_mlx_encoder",
    "MemoryEncoder": "memory",
    "MemoryTower": "memory",
    "Passages": "transformer",
    "ProjectionLayer": "projected",
    "Recurrent": "rnn",
    "StudentModelWithProjection": "student",
    "TowerPair": "_pair",
    "TransformerEncoder": "transformer",
    "VectorCache": "corpus",
    "Vocabulary": "_words",
    "WordVectors": "word_vectors",
    "encode_to": "corpus",
    "load_encoder": "transformer",
    "load_tower": "_pair",
    "read_word_vectors": "word_vectors",
    "teacher_rows": "_teacher_rows",
    "train_word_vectors": "word_vectors",
    "truncate": "_truncated",
    "write_word_vectors": "word_vectors",
}

__all__ = [
    "Bag",
    "IsotropicGaussianEncoder",
    "LateInteractionEncoder",
    "MLXMemoryEncoder",
    "MemoryEncoder",
    "MemoryTower",
    "Passages",
    "ProjectionLayer",
    "Recurrent",
    "StudentModelWithProjection",
    "TowerPair",
    "TransformerEncoder",
    "VectorCache",
    "Vocabulary",
    "WordVectors",
    "encode_to",
    "load_encoder",
    "load_tower",
    "read_word_vectors",
    "teacher_rows",
    "train_word_vectors",
    "truncate",
    "write_word_vectors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
