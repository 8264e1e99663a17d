"""A batch's queries against everything they are compared with, and which of it is no true negative."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Metric
from lodesmith.objectives._known import Known
from lodesmith.objectives._parts import Encoded, count, encode_batch, join
from lodesmith.objectives._ranks import Ranks
from lodesmith.similarity.maxsim import Ragged

UNKNOWN = -2
"""The id of a text whose number the batch does not say: it equals no other."""
EMPTY = -1
"""The id of a place without a negative."""


@dataclass(frozen=True)
class Columns:
    """The candidates: the positives of all rows, then what was mined for them, then the pool.

    Args:
        vectors: [m, e].
        ids: int64 [m], documents.
        owners: int64 [m], the row (of all ranks) that a column belongs to; −1 for the pool, which belongs to all.
        asked: int64 [p], the queries of the p positives.
    """

    vectors: Any
    ids: torch.Tensor
    owners: torch.Tensor
    asked: torch.Tensor


@dataclass(frozen=True)
class Scored:
    """The comparison of this rank's rows with the candidates of all ranks.

    Args:
        scores: [n, m].
        labels: int64 [n], the column of each row's positive; also the row's number among the rows of all ranks.
        mask: bool [n, m], true where a column is no negative of the row; its own positive among them.
        columns: what the m columns are.
        rows: int64 [n, 2], document and query id of each row.
        encoded: this rank's vectors.
        ranks: how the rows lie on the ranks.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    columns: Columns
    rows: torch.Tensor
    encoded: Encoded
    ranks: Ranks

    @property
    def others(self) -> torch.Tensor:
        """Bool [n, m]: the columns that belong to other rows."""
        owners = self.columns.owners[None, :]
        return (owners != self.labels[:, None]) & (owners >= 0)


class Comparison:
    """Encodes and scores batches; what `Contrast` and `Triplet` share.

    A batch is a mapping: `queries` and `documents` of n texts, text i of the second the positive of text i of the
    first; and where there are such, `negatives` (up to h documents mined for each query) and `pool` (documents that
    are negatives of every query). Each is stored rows ([n, d]; [n, h, d] for negatives) or packed texts. With
    `query_ids` [n], `document_ids` [n], `negative_ids` [n, h] and `pool_ids` [p] (int64, −1 for an empty place, which
    packed negatives do not hold) documents that are no true negatives are masked.

    Args:
        similarity: a name of the similarity family.
        known: int64 [p, 2] of (query id, document id): known positives.
        gather: where several processes train, compare with the candidates of all of them.
        each_token: MaxSim is divided by the query's number of tokens, so that one temperature fits queries of any
            length.

    Raises:
        ConfigError: there is no such similarity.
        InputError: `known` has another shape.
    """

    def __init__(
        self, similarity: Metric, known: NDArray[np.integer] | None, gather: bool, *, each_token: bool = False
    ) -> None:
        self.similarity = registry.find("similarity", similarity)
        if each_token:
            self.similarity = partial(self.similarity, normalize=True)
        self.known = Known(known)
        self.gather = gather

    def __call__(
        self,
        batch: Mapping[str, Any],
        encoder: nn.Module,
        document_encoder: nn.Module | None,
        *,
        training: bool,
        local: bool = False,
    ) -> Scored:
        """Compare.

        Args:
            batch: as above.
            encoder: of both sides, or of the queries.
            document_encoder: of the documents, or None.
            training: only then do ranks ask each other: what is validated, each has whole.
            local: the candidates of other ranks are not wanted; their number of rows still counts in the mean.

        Raises:
            InputError: queries and documents are not the same number.
        """
        encoded = encode_batch(batch, encoder, document_encoder)
        rows = torch.stack([_ids(batch, name, encoded.queries) for name in ("document_ids", "query_ids")], 1)
        mined = 0 if encoded.negatives is None else count(encoded.negatives)
        ranks = Ranks.of(len(rows), mined, together=self.gather and training, device=rows.device)
        columns = _columns(batch, encoded, rows, Ranks(((len(rows),), (mined,))) if local else ranks)
        scores = self.score(encoded.queries, columns.vectors)
        first = 0 if local else ranks.first
        labels = torch.arange(first, first + len(rows), device=rows.device)
        return Scored(scores, labels, self.mask(rows, columns), columns, rows, encoded, ranks)

    def score(self, queries: Any, documents: Any) -> torch.Tensor:
        """Scores [n, m] in float32 at least, whatever the vectors' precision and whatever autocast says: a temperature
        enlarges what rounding takes from them."""
        queries, documents = _items(wide(queries)), _items(wide(documents))
        flat = documents.values if isinstance(documents, Ragged) else documents
        with torch.autocast(flat.device.type if isinstance(flat, torch.Tensor) else "cpu", enabled=False):
            return self._compared(queries, documents)

    def beginnings(self, queries: Any, documents: Any, dimensions: Sequence[int]) -> Iterator[torch.Tensor]:
        """The scores [n, m] of the vectors' first components, for each number of them.

        Raises:
            ConfigError: there are not so many.
        """
        for number in dimensions:
            if number > queries.shape[1]:
                raise ConfigError(f"vectors of {queries.shape[1]} dimensions have no first {number}", "choose fewer")
            yield self.score(queries[:, :number], documents[:, :number])

    def _compared(self, queries: Any, documents: Any) -> torch.Tensor:
        if isinstance(documents, torch.Tensor) and not (len(queries) and len(documents)):
            return cast(torch.Tensor, queries @ documents.T)  # no scores, but part of the graph, and no mean of nothing
        return cast(torch.Tensor, self.similarity(queries, documents))

    def mask(self, rows: torch.Tensor, columns: Columns) -> torch.Tensor:
        """Bool [n, m]: the row's positive wherever it stands, positives of the same query, all that is known to be one,
        and empty places."""
        documents, queries = rows[:, 0], rows[:, 1]
        mask = (columns.ids[None, :] == documents[:, None]) & (documents >= 0)[:, None]
        positives = len(columns.asked)
        mask[:, :positives] |= (columns.asked[None, :] == queries[:, None]) & (queries >= 0)[:, None]
        if len(self.known):
            mask |= self.known.among(queries, columns.ids)
        if len(columns.ids) > positives:
            mask |= columns.ids[None, :] == EMPTY
        return mask

    def backwards(self, scored: Scored) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's documents looking for their queries among those of all ranks: scores [n, p] and what is no
        negative, bool [n, p]."""
        rows = scored.ranks.gather(scored.rows)
        queries = scored.ranks.gather(scored.encoded.queries)
        documents = scored.encoded.documents
        own = Columns(documents, scored.rows[:, 0], scored.labels, scored.rows[:, 1])
        return self.score(queries, documents).T, self.mask(rows, own).T


def wide(vectors: Any) -> Any:
    """Vectors in float32, where they had less."""
    narrow = isinstance(vectors, torch.Tensor) and vectors.dtype in (torch.float16, torch.bfloat16)
    return vectors.float() if narrow else vectors


def _items(vectors: Any) -> Any:
    """Packed token vectors as what MaxSim compares; anything else as it is."""
    return Ragged(vectors["values"], vectors["offsets"]) if isinstance(vectors, Mapping) else vectors


def own_candidates(batch: Mapping[str, Any], scored: Scored) -> int:
    """How many a row has in its positive, the places of what was mined for it, and the pool."""
    places = batch["negative_ids"] if "negative_ids" in batch else batch.get("negatives")
    pool = scored.encoded.pool
    return 1 + (0 if places is None else places.shape[1]) + (0 if pool is None else count(pool))


def gathered(encoded: Encoded, ranks: Ranks) -> Any:
    """What the columns have, in their order: the documents and what was mined for all rows, then the pool, which is
    the same on each rank, and stays."""
    found = [_gather(ranks, encoded.documents)]
    if encoded.negatives is not None:
        found.append(_gather(ranks, encoded.negatives, 1))
    if encoded.pool is not None:
        found.append(encoded.pool)
    return found[0] if len(found) == 1 else join(found)


def _gather(ranks: Ranks, part: Any, kind: int = 0) -> Any:
    """The vectors of all ranks: rows, or several of them an item."""
    if not isinstance(part, Mapping) or ranks.world == 1:
        return ranks.gather(part, kind) if isinstance(part, torch.Tensor) else part
    lengths = ranks.gather(part["offsets"].diff(), kind)
    totals = tuple(int(own.sum()) for own in torch.split(lengths, list(ranks.counts[kind])))  # type: ignore[no-untyped-call]
    values = Ranks((totals,), ranks.rank).gather(part["values"])
    return {"values": values, "offsets": nn.functional.pad(lengths.cumsum(0), (1, 0))}


def _ids(batch: Mapping[str, Any], name: str, like: Any) -> torch.Tensor:
    """The ids [n], or unknown ones."""
    if name in batch:
        return cast(torch.Tensor, batch[name])
    device = (like["values"] if isinstance(like, Mapping) else like).device
    return torch.full((count(like),), UNKNOWN, dtype=torch.int64, device=device)


def _columns(batch: Mapping[str, Any], encoded: Encoded, rows: torch.Tensor, ranks: Ranks) -> Columns:
    """The candidates of all ranks."""
    every = ranks.gather(rows)
    ids = [every[:, 0]]
    owners = [torch.arange(len(every), device=rows.device)]
    if encoded.negatives is not None:
        mined = ranks.gather(_mined(batch, rows, len(rows), ranks.first), 1)
        ids.append(mined[:, 0])
        owners.append(mined[:, 1])
    if encoded.pool is not None:
        ids.append(_ids(batch, "pool_ids", encoded.pool))
        owners.append(torch.full((count(encoded.pool),), -1, dtype=torch.int64, device=rows.device))
    return Columns(gathered(encoded, ranks), torch.cat(ids), torch.cat(owners), every[:, 1])


def _mined(batch: Mapping[str, Any], rows: torch.Tensor, n: int, first: int) -> torch.Tensor:
    """int64 [k, 2]: document and row of each mined vector."""
    if isinstance(batch["negatives"], torch.Tensor):
        width = batch["negatives"].shape[1]
        owners = torch.arange(first, first + n, device=rows.device).repeat_interleave(width)
        ids = batch["negative_ids"].flatten() if "negative_ids" in batch else torch.full_like(owners, UNKNOWN)
    else:
        filled = batch["negative_ids"] >= 0
        owners, ids = filled.nonzero()[:, 0] + first, batch["negative_ids"][filled]
    return torch.stack([ids, owners], 1)
