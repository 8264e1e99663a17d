"""How near a student's vectors are to its teacher's while it learns, on queries that it never sees and on documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.recipes.targets import Targets

__all__ = ["TeacherSample"]

SAMPLE = 1000
"""Documents that are looked at."""


@dataclass(frozen=True)
class TeacherSample:
    """The teacher's vectors of some texts, beside which a student's are held.

    Args:
        numbers: int64 [n], rows of documents.
        documents: the teacher's vectors of these, [n, t].
        queries: those of all validation queries, [q, t]; none where the teacher is not there to make them.
    """

    numbers: NDArray[np.int64]
    documents: NDArray[np.float32]
    queries: NDArray[np.float32]

    @staticmethod
    def of(targets: Targets, held_out: Targets | None, distinct: NDArray[np.int64], seed: int) -> TeacherSample:
        """Draw documents by a seed.

        Args:
            targets: of every document.
            held_out: of the validation queries.
            distinct: int64 [m], rows of documents, one of each text.
            seed: of the drawing.
        """
        drawn = np.random.default_rng(seed).permutation(distinct)[:SAMPLE]
        numbers: NDArray[np.int64] = np.sort(drawn)
        queries = np.zeros((0, targets.dimension), np.float32) if held_out is None else held_out.all("query")
        return TeacherSample(numbers, targets.take("document", numbers), queries)

    def __call__(self, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Mapping[str, float]:
        """The mean cosines to the teacher's vectors, where the dimensions are the same.

        Args:
            queries: the student's, of all validation queries, [q, d].
            documents: of all documents, [m, d].
        """
        if documents.shape[1] != self.documents.shape[1]:
            return {}
        told = {"teacher_documents": _cosine(documents[self.numbers], self.documents)}
        if len(self.queries):
            told["teacher_queries"] = _cosine(queries, self.queries)
        return told


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    products: Any = (a * b).sum(axis=1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((products / np.maximum(lengths, 1e-12)).mean())
