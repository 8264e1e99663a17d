"""Towers small enough to check by hand, and texts that ask a lot of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from lodesmith.encoders import Vocabulary

TEXTS = ["the cat eats 3.14 apples", "a dog, the dog", "", "zzz xyzzy 中", "the " * 50, "Ünïcode the cat", "dog"]
"""The third and fourth have no known word; the fifth is longer than twenty words."""

VOCABULARY = Vocabulary.build([*TEXTS[:2], "the cat eats a dog", "ünïcode apples"], min_count=1)

word_lists = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=7)
"""The words of a text, padding and unknown ones among them."""


def packed(texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Texts given as ids."""
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    ids = np.array([word for text in texts for word in text], np.int64)
    return {"ids": torch.from_numpy(ids), "offsets": torch.from_numpy(offsets)}


def sentence_vectors(folder: Path, texts: list[str], **settings: Any) -> list[np.ndarray]:
    """What sentence-transformers makes of a model folder: encode, encode_query, encode_document."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", **settings)
    return [model.encode(texts, batch_size=3), model.encode_query(texts), model.encode_document(texts)]


def flip(file: Path) -> None:
    """Change a bit in the middle of a file."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
