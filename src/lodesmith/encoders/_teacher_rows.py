"""Word vectors that a teacher gives: where a bag of words begins in the teacher's space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lodesmith.encoders.corpus import VectorCache
from lodesmith.encoders.word_vectors import WordVectors

if TYPE_CHECKING:
    from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["teacher_rows"]


def teacher_rows(teacher: TransformerEncoder, words: Sequence[str], cache: VectorCache | None = None) -> WordVectors:
    """Each word through the teacher alone: its token outputs, pooled and finished as the teacher does with documents.

    Nothing is centred, turned or scaled, so that the mean of such rows lies in the teacher's space (unlike those of
    `distil:MODEL`). `Bag(vocabulary, teacher.dimension, init=teacher_rows(teacher, vocabulary.words))` begins there.

    Args:
        teacher: any model with one vector a text.
        words: different from each other.
        cache: of vectors, which keeps them; None for the usual one.

    Returns:
        The words and their vectors, float32 [v, d].

    Raises:
        InputError: a word occurs twice.
    """
    found = (cache or VectorCache()).vectors(teacher, zip(words, words, strict=True))
    info = {"model": teacher.fingerprint, "metric": teacher.metric}
    return WordVectors(tuple(words), np.asarray(found.values, np.float32), info)
