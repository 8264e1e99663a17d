"""A batch's queries against every document there is, in memory that does not grow with their number.

The documents' stored vectors are read, encoded and scored block by block; of the scores only their sum of exponentials
is kept, and backward goes through the blocks again. Where the encoder is one linear layer, queries are taken back
through it instead of all documents forward, and what is left to work out for each document is its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from lodesmith.objectives._candidates import Scored
from lodesmith.objectives._folded import fold
from lodesmith.objectives._known import Known
from lodesmith.objectives._log_sums import LogSum

CPU_VALUES, DEVICE_VALUES = 1 << 20, 1 << 24
"""Numbers of a block's largest matrix: near a processor's cache; and enough work for an accelerator."""

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@runtime_checkable
class Corpus(Protocol):
    """All distinct documents, as stored rows."""

    @property
    def ids(self) -> torch.Tensor:
        """int64 [m], ascending: the numbers that batches call them by."""
        ...

    @property
    def dimension(self) -> int:
        """d of a row."""
        ...

    def block(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Rows [stop − start, d]; may be read from a disk."""
        ...


@dataclass(frozen=True)
class Struck:
    """Pairs of a query and a document that is no negative of it, ordered by the document's place.

    Args:
        rows: int64 [s], of the batch.
        places: int64 [s], among the documents.
    """

    rows: torch.Tensor
    places: torch.Tensor

    @staticmethod
    def of(scored: Scored, known: Known, corpus: Corpus) -> Struck:
        """The row's positive, the positives of the same query in the rows of all ranks, and all known ones."""
        every = scored.ranks.gather(scored.rows)
        asked = scored.rows[:, 1]
        same = (asked[:, None] == every[None, :, 1]) & (asked >= 0)[:, None]
        same |= scored.rows[:, :1] == every[None, :, 0]
        rows, others = same.nonzero(as_tuple=True)
        listed, documents = known.listed(asked)
        rows, documents = torch.cat([rows, listed]), torch.cat([every[others, 0], documents])
        ids = corpus.ids.to(documents.device)
        places = torch.searchsorted(ids, documents).clamp(max=len(ids) - 1)
        found = ids[places] == documents
        order = places[found].argsort()
        return Struck(rows[found][order], places[found][order])


@dataclass(frozen=True)
class Blocks:
    """The documents in blocks, each with what is struck in it.

    Args:
        corpus: the documents.
        size: of a block.
        device: where rows are wanted.
        struck: rows and places within the block, for each block.
    """

    corpus: Corpus
    size: int
    device: torch.device
    struck: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @staticmethod
    def of(corpus: Corpus, struck: Struck, queries: torch.Tensor, values: int | None = None) -> Blocks:
        """Blocks for queries [n, e]."""
        if values is None:
            values = CPU_VALUES if queries.device.type == "cpu" else DEVICE_VALUES
        size = max(64, values // max(1, *queries.shape, corpus.dimension))
        starts = torch.arange(0, len(corpus.ids) + size, size, device=struck.places.device)
        ends = torch.searchsorted(struck.places, starts).tolist()
        parts = zip(ends[:-1], ends[1:], starts.tolist(), strict=False)
        own = tuple((struck.rows[a:b], struck.places[a:b] - start) for a, b, start in parts)
        return Blocks(corpus, size, queries.device, own)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
        """Rows [b, d] of each block, and the places [row, column] that are struck in its scores."""
        total = len(self.corpus.ids)
        for start, struck in zip(range(0, total, self.size), self.struck, strict=False):
            yield self.corpus.block(start, min(start + self.size, total), self.device), struck


def log_sums(
    queries: torch.Tensor, blocks: Blocks, encoder: nn.Module, metric: str, score: Score, temperature: float
) -> torch.Tensor:
    """log Σ exp(score / temperature) over all documents that are not struck: [n], −inf where none is left.

    Differentiable in the queries and the encoder's parameters; dropout in the encoder is the same in both passes.

    Args:
        queries: encoded, [n, e]; float32 at least, since their gradients are summed over the blocks.
        blocks: the stored documents.
        encoder: of the documents, row by row.
        metric: the name of `score`.
        score: vectors [n, e] and [b, e] → [n, b], float32 at least.
        temperature: above 0.
    """
    folded = fold(queries, blocks, encoder, metric, temperature)
    if folded is not None:
        return folded
    parameters = tuple(p for p in encoder.parameters() if p.requires_grad)
    plan = _Plan(blocks, encoder, score, temperature)
    return cast(torch.Tensor, _LogSums.apply(plan, queries, *parameters))  # type: ignore[no-untyped-call]


@dataclass
class _Plan:
    blocks: Blocks
    encoder: nn.Module
    score: Score
    temperature: float

    def scores(
        self, queries: torch.Tensor, rows: torch.Tensor, struck: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Of a block; −inf where they are struck."""
        scores = self.score(queries, self.encoder(rows)) / self.temperature
        return scores.index_put(struck, scores.new_full((), -torch.inf))


class _LogSums(torch.autograd.Function):
    """Two passes over the blocks: forward keeps their sums, backward makes each block's scores again."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, queries: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.plan, ctx.parameters, ctx.draws = plan, parameters, _Draws(queries.device)
        sums = LogSum.empty(queries)
        for rows, struck in plan.blocks:
            sums = sums.add(plan.scores(queries, rows, struck))
        ctx.save_for_backward(queries, sums.top, sums.total)
        return sums.value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, *kept = ctx.saved_tensors
        sums = LogSum(*kept)
        leaf = queries.detach().requires_grad_()
        found = [torch.zeros_like(tensor) for tensor in (queries, *ctx.parameters)]
        with ctx.draws.again(), torch.enable_grad():
            for rows, struck in ctx.plan.blocks:
                scores = ctx.plan.scores(leaf, rows, struck)
                shares = sums.shares(scores.detach(), gradients[0])
                parts = torch.autograd.grad(scores, (leaf, *ctx.parameters), shares, allow_unused=True)
                found = [s if part is None else s + part for s, part in zip(found, parts, strict=True)]
        return None, *found


class _Draws:
    """The random state and precision of the forward pass, for a second pass with the same dropout."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.state = torch.get_rng_state()
        self.own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
        self.autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside it numbers are drawn as from then on; afterwards as if nothing had been."""
        enabled, dtype = self.autocast
        kind = self.device.type
        fork = torch.random.fork_rng([] if self.own is None else [self.device], device_type=kind)
        with fork, torch.autocast(kind, dtype=dtype, enabled=enabled):
            torch.set_rng_state(self.state)
            if self.own is not None:
                torch.get_device_module(self.device).set_rng_state(self.own, self.device)
            yield
