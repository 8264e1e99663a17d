"""Training batches of single texts, packed from a token store: exact positions, ranks, each text once an epoch.

    batches = SingleTexts(queries, documents, batch_size=256, seed=1)

For objectives that look at each text by itself, such as one that mimics a teacher's vectors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.data._position import Position
from lodesmith.data.tokens import Tokens

__all__ = ["SingleTexts"]


class SingleTexts(Position):
    """Batches of texts of either side as token ids; a `training.Batches`.

    A batch is a mapping: `query_ids` int64 [q] and `document_ids` int64 [d], numbers of texts; `queries` and
    `documents`, packed: `ids` int64 [total] and `offsets` int64 [q + 1] or [d + 1]; and `examples`, q + d. How many of
    a batch are queries is left to chance. Equal texts of a side count once, under the smallest of their numbers; texts
    without tokens are left out.

    Epoch e is shuffled by (seed, e) alone, and dealt to batches that are equal but for one text. Of several ranks each
    takes every ranks-th text of a batch; where there are too few for that, batches are larger by one.

    Args:
        queries: tokens of texts, numbered from 0; there may be none.
        documents: likewise.
        batch_size: texts over all ranks, at most.
        limit: at most so many texts, drawn by the seed; None for all.
        seed: of the order.
        shard: (rank, ranks).

    Raises:
        InputError: no text has tokens, or there are fewer than ranks.
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        queries: Tokens,
        documents: Tokens,
        *,
        batch_size: int,
        limit: int | None = None,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if batch_size < shard[1] or not 0 <= shard[0] < shard[1]:
            raise ConfigError(f"batch_size {batch_size} or shard {shard} is out of range")
        self._queries, self._documents = queries, documents
        self.batch_size, self.seed, self.shard = batch_size, seed, shard
        first = np.concatenate([_usable(queries), len(queries) + _usable(documents)])
        if limit is not None and limit < len(first):
            first = np.sort(np.random.default_rng((seed, 2)).permutation(first)[:limit])
        if len(first) < max(1, shard[1]):
            raise InputError(f"{len(first)} texts have tokens, of {shard[1]} ranks each needs one", "give more texts")
        self._texts: NDArray[np.int64] = first
        self._batches = min(math.ceil(len(first) / batch_size), len(first) // shard[1])
        self._data = hashlib.blake2b(first.tobytes() + self._lengths().tobytes(), digest_size=16).hexdigest()
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def _lengths(self) -> NDArray[np.int32]:
        return np.concatenate([self._queries.lengths(), self._documents.lengths()])[self._texts]

    @property
    def texts(self) -> int:
        """How many an epoch has."""
        return len(self._texts)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, number in self.rest():
            batch = self._gather(self._share(number))
            self.passed()
            yield batch

    def _meaning(self) -> dict[str, Any]:
        return {"seed": self.seed, "batch_size": self.batch_size, "data": self._data}

    def _share(self, number: int) -> NDArray[np.int64]:
        """The texts of a batch that are this rank's."""
        if self._order is None or self._order[0] != self._epoch:
            self._order = (self._epoch, np.random.default_rng((self.seed, 1, self._epoch)).permutation(self._texts))
        rank, ranks = self.shard
        start, stop = (at * len(self._texts) // len(self) for at in (number, number + 1))
        mine: NDArray[np.int64] = self._order[1][start:stop][rank::ranks]
        return mine

    def _gather(self, texts: NDArray[np.int64]) -> dict[str, Any]:
        asking = texts < len(self._queries)
        queries, documents = texts[asking], texts[~asking] - len(self._queries)
        return {
            "examples": len(texts),
            "query_ids": torch.from_numpy(queries),
            "document_ids": torch.from_numpy(documents),
            "queries": _packed(self._queries, queries),
            "documents": _packed(self._documents, documents),
        }


def _usable(tokens: Tokens) -> NDArray[np.int64]:
    """The numbers of the distinct texts that have tokens, ascending."""
    first = np.unique(tokens.same)
    found: NDArray[np.int64] = first[tokens.lengths()[first] > 0].astype(np.int64)
    return found


def _packed(tokens: Tokens, numbers: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    ids, offsets = tokens.take(numbers)
    return {"ids": torch.from_numpy(ids), "offsets": torch.from_numpy(offsets)}
