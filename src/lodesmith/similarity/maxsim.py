"""MaxSim, the similarity of late interaction: each query token's best document token, summed.

maxsim(q, d) = Σ_i max_j q_i·d_j (Khattab and Zaharia, "ColBERT", 2020). Items are ragged: each has as many vectors as
tokens. Nothing is padded, so no padding can win a maximum: a score does not depend on what else is in the batch.
With one vector an item it is the inner product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.similarity._machine import full_float32, multiplies_bfloat16
from lodesmith.similarity._maxsim_gradient import Layout, MaxSim
from lodesmith.similarity._maxsim_rows import Asked, check, lengths
from lodesmith.similarity._maxsim_scan import Task, everything, listed, narrowed, scored
from lodesmith.similarity._rows import items, positions
from lodesmith.similarity.dot import dot_rows

__all__ = ["maxsim", "maxsim_rows", "maxsim_top", "Ragged"]  # noqa: RUF022 — the first is the component

BUDGET = 1 << 22
"""Similarities that training holds at once (16 MiB in float32)."""
_PRECISIONS = ("auto", "bfloat16", "float32")


@dataclass(frozen=True, eq=False)
class Ragged:
    """Token vectors of n items that training differentiates: item i owns values[offsets[i]:offsets[i + 1]].

    Args:
        values: [total, d].
        offsets: int64 [n + 1], rising from 0 to total.

    Raises:
        InputError: they do not fit.
    """

    values: torch.Tensor
    offsets: torch.Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.offsets.ndim != 1 or not len(self.offsets):
            raise InputError(
                f"values must be [total, d] and offsets [n + 1], not {list(self.values.shape)} and "
                f"{list(self.offsets.shape)}"
            )
        bounds = self.offsets.tolist()
        if bounds[0] != 0 or bounds[-1] != len(self.values) or any(a > b for a, b in pairwise(bounds)):
            raise InputError(f"offsets must rise from 0 to {len(self.values)}")

    @classmethod
    def of(cls, items: Ragged | torch.Tensor | Sequence[torch.Tensor]) -> Ragged:
        """Ragged items from a tensor [n, d] (one vector each), [n, t, d] (t each), or tensors [t_i, d]."""
        if isinstance(items, Ragged):
            return items
        if isinstance(items, torch.Tensor):
            width = items.shape[1] if items.ndim == 3 else 1
            values = items.reshape(-1, items.shape[-1])
            return cls(values, torch.arange(len(items) + 1, device=values.device) * width)
        values = torch.cat(list(items))
        counts = torch.tensor([0, *map(len, items)], device=values.device)
        return cls(values, counts.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1


def maxsim(
    queries: Ragged | torch.Tensor, documents: Ragged | torch.Tensor, *, normalize: bool = False, budget: int = BUDGET
) -> torch.Tensor:
    """Σ_i max_j q_i·d_j for every query and document: a tensor [n, m]; differentiable once. Equal best tokens give the
    gradient to the first. Half precision is widened to float32.

    Memory, beside the scores and gradients: 8 bytes a (query token, document) and the budget.

    Args:
        queries: ragged, or [n, d] with one vector an item, or [n, t, d] with t; one without tokens scores 0.
        documents: the same.
        normalize: divide by the query's number of tokens.
        budget: similarities that are held at once.

    Raises:
        InputError: the dimensions differ, or a document has no token: a maximum over nothing is no number.
    """
    queries, documents = Ragged.of(queries), Ragged.of(documents)
    if queries.values.shape[1] != documents.values.shape[1]:
        raise InputError(
            f"queries of {queries.values.shape[1]} dimensions cannot be compared with documents of "
            f"{documents.values.shape[1]}"
        )
    starts = documents.offsets.tolist()
    if any(start == end for start, end in pairwise(starts)):
        empty = next(i for i, (start, end) in enumerate(pairwise(starts)) if start == end)
        raise InputError(f"document {empty} of the batch has no token vector", "leave it out")
    offsets = queries.offsets.to(queries.values.device)
    scores: torch.Tensor = MaxSim.apply(  # type: ignore[no-untyped-call]
        _wide(queries.values), _wide(documents.values), Layout(offsets, starts, budget)
    )
    return scores / offsets.diff().clamp(min=1)[:, None] if normalize else scores


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def maxsim_rows(
    queries: Vectors | NDArray[np.floating],
    documents: Vectors | NDArray[np.floating],
    pairs: NDArray[np.integer] | None = None,
) -> NDArray[np.float32]:
    """Σ_i max_j q_i·d_j of item pairs: float32 [n]. Products are summed in float64 in a fixed order, maxima likewise,
    rounded once: a pair's score has the same bits in any batch.

    Args:
        queries: ragged, or an array [n, d] with one vector an item; a query without tokens scores 0.
        documents: the same.
        pairs: int64 [n, 2], positions of query and document; item i with item i where None.

    Raises:
        InputError: the dimensions or numbers differ, a position does not exist, or a document has no token.
        NotFiniteError: a value is NaN or infinite.
    """
    queries, documents = items(queries), items(documents)
    check(queries, documents)
    pairs = positions(len(queries), len(documents), pairs)
    asked = Asked.of(queries)
    if queries.is_dense and documents.is_dense:
        lengths(torch.from_numpy(np.array(documents.values, np.float32)))
        return dot_rows(queries.values[pairs[:, 0]], documents.values[pairs[:, 1]]) + np.float32(0)  # no −0
    with full_float32():
        return scored(asked, documents, pairs)


def maxsim_top(
    queries: Vectors,
    documents: Vectors,
    k: int,
    *,
    candidates: Sequence[NDArray[np.integer]] | None = None,
    precision: str = "auto",
) -> Run:
    """The k documents of each query with the best true scores (those of `maxsim_rows`), ties by id, descending.

    Products in few bits, each with a bound on its error, say which documents can be among the k best; those alone are
    scored by the exact kernel. The result is the same for any precision, order and number of threads. Takes about 6 MB
    a thread, and what it returns; values that are memory-mapped are read block by block, once where all are compared.

    Args:
        queries: ragged; without tokens every document scores 0.
        documents: ragged.
        k: how many.
        candidates: for each query the positions of the documents to choose from; all where None.
        precision: of the first look: `"bfloat16"`, `"float32"`, or `"auto"` for what this CPU multiplies fastest.

    Raises:
        InputError: the dimensions differ, a document has no token, a position does not exist, or there is not one list
            of candidates a query.
        NotFiniteError: a value is NaN or infinite.
        ConfigError: k is below 1, or no precision is called so.
    """
    if precision not in _PRECISIONS or k < 1:
        raise ConfigError(f"k = {k} and precision {precision!r} do not fit", f"k ≥ 1 and one of {_PRECISIONS}")
    check(queries, documents)
    asked = Asked.of(queries)
    with full_float32():
        tasks: list[Task] = list(
            everything(queries, documents)
            if candidates is None
            else listed(documents, _candidates(candidates, len(queries), len(documents)))
        )
        if precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16()):
            tasks = list(listed(documents, narrowed(asked.narrow(), documents, tasks, k)))
        pairs = narrowed(asked, documents, tasks, k)
        scores = scored(asked, documents, pairs)
    offsets = np.searchsorted(pairs[:, 0], np.arange(len(queries) + 1))
    return Run.ranked(queries.ids, documents.ids, pairs[:, 1], scores, offsets).top(k)


def _candidates(candidates: Sequence[NDArray[np.integer]], queries: int, documents: int) -> NDArray[np.int64]:
    """Pairs [n, 2], sorted and without repetitions."""
    if len(candidates) != queries:
        raise InputError(f"{len(candidates)} lists of candidates for {queries} queries", "give one a query")
    found = [np.unique(np.asarray(positions, np.int64)) for positions in candidates]
    query = np.repeat(np.arange(queries), [len(positions) for positions in found])
    pairs = np.stack([query, np.concatenate([np.zeros(0, np.int64), *found])], axis=1)
    return positions(queries, documents, pairs)
