"""Training batches of texts, packed from a token store: a token budget, exact positions, ranks, no false negatives.

    batches = TextBatches(queries, documents, pairs, tokens=16384, seed=1)
    stage = Stage(name="contrast", objective=objective, batches=batches, epochs=3)

Here a batch is made by the process that trains; `lodesmith.data.loading` lets worker processes make the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.data._budget import Budget, Examples
from lodesmith.data._conflicts import conflicts_of, no_conflicts
from lodesmith.data._plan import Plan, Planner, collisions_of
from lodesmith.data._position import Position
from lodesmith.data.tokens import Tokens

__all__ = ["Plan", "TextBatches", "pad", "spread"]

_NONE = np.zeros((0, 2), np.int64)

Packed = dict[str, torch.Tensor]


class TextBatches(Position):
    """Batches of (query, positive document, any number of negatives) as token ids; a `training.Batches`.

    A batch is a mapping. `query_ids` and `document_ids`, int64 [n], are numbers of texts; equal texts have the smallest
    of their numbers. `queries` and `documents` are packed: `ids` int64 [total] and `offsets` int64 [n + 1]. With
    `negatives`, `negative_ids` is int64 [n, h], −1 for an empty place (h is the most that an example of the batch has),
    and `negatives` holds the texts of the filled places, row by row; `spread` puts their vectors into [n, h, d]. So
    `objectives.contrast.Contrast` masks known positives by these ids, given `known=batches.known`. With `padded`, the
    packed mappings are `input_ids` and `attention_mask` int64 [n, longest] instead, as transformers' models take them.

    Every example comes exactly once an epoch. No two in a batch are each other's positives: one's document is no known
    positive of the other's query, whatever the texts are called; those that cannot be placed otherwise end in small
    batches. There is no last batch to drop: what is left over is filled up from the largest batches where that is
    possible, and stays, shuffled among the others (`plan.short` counts them). Every epoch has the same number of
    batches; a few are halves for that (½ % with a token budget, and the root of `plan.short`). Epoch e depends on
    (seed, e) alone.

    With several ranks, the batch is that of a single process, and each rank takes a share of it: disjoint, together
    the whole batch, equal in examples but for one, near in tokens. It is the same batch for any number of ranks up to
    16, or half the usual examples of a batch, unless conflicts leave batches of fewer examples than ranks. Those are
    joined, beyond the budget and with `plan.collisions` if need be: every rank has an example in every step.

    Keeping positives apart costs small batches where texts repeat: a document with 300 queries needs 300 batches. An
    objective that masks known positives loses nothing but a few negatives by `apart=False`, which keeps batches full.

    Measured with 10 million examples of two queries a document, without negatives: 70 bytes an example once an epoch
    is planned and at most 200 while it is, beside 12 bytes a text for the tokens' places. Planning takes 3 to 4 µs an
    example; the first epoch is planned when this is made.

    Args:
        queries: tokens of texts, numbered from 0.
        documents: likewise.
        pairs: [p, 2] of (query, document).
        tokens: at most so many in a batch over all ranks, negatives included; a longer example has its own batch.
        batch_size: at most so many examples in a batch over all ranks. With both limits, the first that is reached.
        negatives: [p, h] documents mined as negatives of each pair, −1 for an empty place; may be memory-mapped.
        known: [·, 2]: further known positives, such as judgements of other pairs.
        seed: of the order.
        noise: standard deviation of the logarithm of the lengths by which examples are sorted: 0 pads least, 1 mixes.
        padded: give padded batches, and count tokens as padded.
        apart: keep each other's positives out of a batch; False leaves them to the objective's mask.
        shard: (rank, ranks).

    Raises:
        InputError: there are no pairs, a number is out of range, or a text in use has no tokens.
        ConfigError: a setting is out of range.
    """

    def __init__(  # noqa: PLR0913 - three arrays, two limits and the options, all by name
        self,
        queries: Tokens,
        documents: Tokens,
        pairs: NDArray[np.integer],
        *,
        tokens: int | None = None,
        batch_size: int | None = None,
        negatives: NDArray[np.integer] | None = None,
        known: NDArray[np.integer] | None = None,
        seed: int = 0,
        noise: float = 0.1,
        padded: bool = False,
        apart: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if not noise >= 0 or not 0 <= shard[0] < shard[1]:
            raise ConfigError(f"noise {noise} or shard {shard} is out of range")
        self.budget = Budget(tokens, batch_size, padded, fewest=shard[1])
        self.seed, self.noise, self.apart, self.shard = seed, noise, apart, shard
        queries_of, documents_of = queries.same, documents.same
        numbers = _pairs(pairs, len(queries), len(documents), "pairs")
        if len(numbers) < shard[1]:
            raise InputError(f"{len(numbers)} training pairs are too few for {shard[1]} ranks", "choose another split")
        merged = np.stack([queries_of[numbers[:, 0]], documents_of[numbers[:, 1]]], 1).astype(np.int32)
        if negatives is not None:
            _check_negatives(negatives, len(numbers), len(documents))
        self.examples = Examples(queries, documents, merged, negatives)
        _check_lengths(self.examples)
        others = _pairs(_NONE if known is None else known, len(queries), len(documents), "known")
        others = np.stack([queries_of[others[:, 0]], documents_of[others[:, 1]]], 1)
        self._known = others
        self._numbers = documents_of.astype(np.int32)
        conflicts = conflicts_of(merged, others) if apart else no_conflicts(merged)
        self._planner = Planner(self.examples, conflicts, self.budget, seed, noise)
        self._data = _digest(self.examples, others)
        self._planned: tuple[int, Plan] | None = None

    # --------------------------------------------------------------- position

    def __len__(self) -> int:
        return self._planner.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch, number in self.rest():
            batch = self.gather(self.share(epoch, number))
            self.passed()
            yield batch

    def _meaning(self) -> dict[str, Any]:
        limits = {"tokens": self.budget.tokens, "batch_size": self.budget.examples, "padded": self.budget.padded}
        order = {"seed": self.seed, "noise": self.noise, "apart": self.apart}
        return {**order, **limits, "batches": len(self), "data": self._data}

    # ----------------------------------------------------------------- batches

    @property
    def plan(self) -> Plan:
        """The batches of the epoch in progress, over all ranks, and what is odd about them."""
        found = self._plan(self._epoch)
        if self.apart or found.collisions:
            return found
        pairs = self.examples.pairs
        self._planned = (
            self._epoch,
            replace(found, collisions=collisions_of(found, pairs, conflicts_of(pairs, self._known))),
        )
        return self._planned[1]

    @property
    def known(self) -> NDArray[np.int64]:
        """int64 [·, 2]: all known positives by the numbers that are in the batches, for the objective's mask."""
        return np.concatenate([self.examples.pairs.astype(np.int64), self._known])

    def _plan(self, epoch: int) -> Plan:
        if self._planned is None or self._planned[0] != epoch:
            self._planned = None  # two plans at once would double the memory
            self._planned = (epoch, self._planner.plan(epoch))
        return self._planned[1]

    def share(self, epoch: int, number: int) -> NDArray[np.int64]:
        """The examples of a batch that belong to this rank.

        Longest first, they are dealt to the ranks forwards and backwards in turn.
        """
        batch = self._plan(epoch).batch(number).astype(np.int64)
        rank, ranks = self.shard
        if ranks == 1:
            return batch
        longest_first = np.argsort(-self.examples.sizes(batch)[:, 4], kind="stable")
        turn, place = np.divmod(np.arange(len(batch)), ranks)
        owner = np.where(turn % 2, ranks - 1 - place, place)
        mine: NDArray[np.int64] = batch[np.sort(longest_first[owner == rank])]
        return mine

    def gather(self, examples: NDArray[np.int64]) -> dict[str, Any]:
        """The batch of some examples."""
        queries, documents = self.examples.pairs[examples].T
        batch: dict[str, Any] = {
            "query_ids": torch.from_numpy(queries.astype(np.int64)),
            "document_ids": torch.from_numpy(documents.astype(np.int64)),
            "queries": self._texts(self.examples.queries, queries),
            "documents": self._texts(self.examples.documents, documents),
        }
        if self.examples.negatives is not None:
            rows = np.asarray(self.examples.negatives[examples], np.int64)
            rows = rows[:, (rows >= 0).any(0)]
            numbers = np.where(rows < 0, -1, self._numbers[rows.clip(min=0)])
            batch["negative_ids"] = torch.from_numpy(numbers)
            batch["negatives"] = self._texts(self.examples.documents, numbers[numbers >= 0])
        return batch

    def _texts(self, tokens: Tokens, numbers: NDArray[np.integer]) -> Packed:
        ids, offsets = tokens.take(numbers)
        packed = {"ids": torch.from_numpy(ids), "offsets": torch.from_numpy(offsets)}
        return pad(packed, tokens.pad) if self.budget.padded else packed


def pad(packed: Mapping[str, torch.Tensor], value: int = 0) -> Packed:
    """Packed texts, `ids` [total] and `offsets` [n + 1] → `input_ids` and `attention_mask`, int64 [n, longest]."""
    lengths = packed["offsets"].diff()
    longest = int(lengths.max()) if len(lengths) else 0
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    ids = torch.full(mask.shape, value, dtype=torch.int64)
    ids[mask] = packed["ids"]
    return {"input_ids": ids, "attention_mask": mask.long()}


def spread(vectors: torch.Tensor, negative_ids: torch.Tensor) -> torch.Tensor:
    """Vectors of the negatives that there are, [m, d], to their places among `negative_ids` [n, h]: [n, h, d], zeros at
    the empty ones."""
    filled = negative_ids >= 0
    places = vectors.new_zeros(*filled.shape, vectors.shape[1])
    return places.masked_scatter(filled[:, :, None], vectors)


def _pairs(given: NDArray[np.integer], queries: int, documents: int, name: str) -> NDArray[np.int64]:
    pairs = np.asarray(given, np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"{name} must be [p, 2] of (query, document), not {list(pairs.shape)}")
    if name == "pairs" and not len(pairs):
        raise InputError("there are no training pairs", "choose a split that has judgements")
    for side, count, kind in zip(pairs.T, (queries, documents), ("query", "document"), strict=True):
        if len(side) and not 0 <= side.min() <= side.max() < count:
            raise InputError(f"{name} name a {kind} outside 0 to {count - 1}")
    return pairs


def _check_negatives(negatives: NDArray[np.integer], pairs: int, documents: int) -> None:
    if negatives.ndim != 2 or len(negatives) != pairs:
        raise InputError(f"negatives must be [{pairs}, h], not {list(negatives.shape)}")
    if negatives.size and not -1 <= negatives.min() <= negatives.max() < documents:
        raise InputError(f"negatives must be numbers of the {documents} documents, or −1")


def _check_lengths(examples: Examples) -> None:
    """Every text in use has tokens.

    Raises:
        InputError: one has none.
    """
    empty = (examples.queries.lengths() == 0, examples.documents.lengths() == 0)
    if not empty[0].any() and not empty[1].any():
        return
    sides: Sequence[NDArray[np.integer]] = (examples.pairs[:, 0], examples.pairs[:, 1])
    if examples.negatives is not None:
        sides = (sides[0], np.concatenate([sides[1], examples.negatives[examples.negatives >= 0].ravel()]))
    for name, numbers, none in zip(("query", "document"), sides, empty, strict=True):
        if none[numbers].any():
            number = int(numbers[np.flatnonzero(none[numbers])[0]])
            raise InputError(f"the {name} {number} has no tokens", "leave it out, or let the tokenizer add some")


def _digest(examples: Examples, known: NDArray[np.int64]) -> str:
    """A name for the examples: texts as numbers, their lengths, negatives and known positives."""
    digest = hashlib.blake2b(digest_size=16)
    for block in examples.blocks():
        digest.update(np.ascontiguousarray(examples.pairs[block]).tobytes())
        digest.update(np.ascontiguousarray(examples.sizes(block)).tobytes())
        if examples.negatives is not None:
            digest.update(np.asarray(examples.negatives[block], np.int64).tobytes())
    digest.update(known.tobytes())
    return digest.hexdigest()
