"""Cosine of items whose vectors stand for each other in order, such as the memory tokens of compressed documents.

aligned(q, d) is the cosine of two [t, d] matrices, each read as one vector of t·d components (CLaRa, arXiv 2511.18659):
the i-th vector of the one meets the i-th of the other alone. All items have the same t. With t = 1 it is the cosine.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, NotFiniteError
from lodesmith.core.vectors import Vectors
from lodesmith.similarity._rows import items, positions
from lodesmith.similarity.cosine import cosine, cosine_rows
from lodesmith.similarity.maxsim import Ragged

__all__ = ["aligned", "aligned_rows", "flattened", "unflattened"]

_COMPONENTS = 1 << 20
"""Of each side that are in work at once."""
_SAME = "give every item of both sides the same number of vectors"


def aligned(queries: Ragged | torch.Tensor, documents: Ragged | torch.Tensor) -> torch.Tensor:
    """cos(q, d) of the flattened items, for every query and document: a tensor [n, m] in float32 at least, whatever
    autocast says; differentiable; 0 for an item that is all zeros.

    Args:
        queries: [n, t, d], [n, d] with one vector an item, or ragged with t vectors in each.
        documents: the same, of as many vectors and dimensions.

    Raises:
        InputError: items have different numbers of vectors, or none, or the dimensions differ.
    """
    queries, documents = Ragged.of(queries), Ragged.of(documents)
    d = queries.values.shape[1]
    _same_dimension(d, documents.values.shape[1])
    t = _common(queries.offsets.diff().tolist(), documents.offsets.diff().tolist())
    with torch.autocast(queries.values.device.type, enabled=False):
        first, second = (_wide(side.values).reshape(len(side), t * d) for side in (queries, documents))
        return cosine(first, second)


def _common(queries: list[int], documents: list[int]) -> int:
    """How many vectors every item has; 1 where there are no items."""
    counts = [*queries, *documents]
    if not counts:
        return 1
    if (other := next((at for at, count in enumerate(counts) if count != counts[0]), None)) is not None:
        name = f"query {other}" if other < len(queries) else f"document {other - len(queries)}"
        first = "query 0" if queries else "document 0"
        raise InputError(f"{first} has {counts[0]} vectors, and {name} has {counts[other]}", _SAME)
    if not counts[0]:
        raise InputError("the items have no vectors: 0 cannot be compared", "leave them out")
    return counts[0]


def _same_dimension(queries: int, documents: int) -> None:
    if queries != documents:
        raise InputError(f"queries of {queries} dimensions cannot be compared with documents of {documents}")


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def aligned_rows(
    queries: Vectors | NDArray[np.floating],
    documents: Vectors | NDArray[np.floating],
    pairs: NDArray[np.integer] | None = None,
) -> NDArray[np.float32]:
    """cos(q, d) of the flattened items of pairs: float32 [n], by the exact kernel: a pair's score has the same bits in
    any batch. 0 where either item is all zeros.

    Args:
        queries: every item of t vectors, or an array [n, d] with one vector an item.
        documents: the same, of as many vectors and dimensions.
        pairs: int64 [n, 2], positions of query and document; item i with item i where None.

    Raises:
        InputError: items have different numbers of vectors, or none, the dimensions or numbers differ, or a position
            does not exist.
        NotFiniteError: a value of a pair is NaN or infinite.
    """
    queries, documents = items(queries), items(documents)
    _same_dimension(queries.dimension, documents.dimension)
    pairs = positions(len(queries), len(documents), pairs)
    t = next((int(side.offsets[1]) for side in (queries, documents) if len(side)), None)
    first, second = (flattened(side, t).values for side in (queries, documents))
    scores = np.zeros(len(pairs), np.float32)
    step = max(1, _COMPONENTS // max(1, first.shape[1]))
    for start in range(0, len(pairs), step):
        part = pairs[start : start + step]
        scores[start : start + step] = cosine_rows(_finite(first[part[:, 0]]), _finite(second[part[:, 1]]))
    return scores


def _finite(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.asarray(rows, np.float32)
    if not np.isfinite(found).all():
        raise NotFiniteError("an item's vectors hold NaN or infinity", "repair the model, or encode again")
    return found


def flattened(vectors: Vectors, tokens: int | None = None) -> Vectors:
    """Each item of t vectors of d components as one of t·d; the values are not copied where they lie in a row.

    Args:
        vectors: the items.
        tokens: t; that of the first item where None.

    Raises:
        InputError: an item has another number of vectors, or none.
    """
    counts = np.diff(vectors.offsets)
    t = tokens if tokens is not None else int(counts[0]) if len(counts) else 1
    if (other := np.flatnonzero(counts != t)).size:
        at = int(other[0])
        raise InputError(f"the item {vectors.ids[at]!r} has {counts[at]} vectors, and {t} are compared", _SAME)
    if t < 1:
        raise InputError(f"the item {vectors.ids[0]!r} has 0 vectors", "leave it out")
    values = vectors.values.reshape(len(vectors), t * vectors.dimension)
    return Vectors(values, np.arange(len(vectors) + 1, dtype=np.int64), vectors.ids, dict(vectors.info))


def unflattened(vectors: Vectors, tokens: int) -> Vectors:
    """What `flattened` made, as items of `tokens` vectors again.

    Raises:
        InputError: they are not dense, or their components are no multiple of `tokens`.
    """
    if tokens < 1 or vectors.dimension % tokens or not vectors.is_dense:
        raise InputError(f"{vectors.dimension} components an item are not {tokens} vectors", "see flattened")
    values = vectors.values.reshape(len(vectors) * tokens, vectors.dimension // tokens)
    return Vectors(values, np.arange(len(vectors) + 1, dtype=np.int64) * tokens, vectors.ids, dict(vectors.info))
