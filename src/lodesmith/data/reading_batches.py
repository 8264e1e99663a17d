"""Training batches of questions with the documents that they are answered from, at an exact position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint_texts
from lodesmith.core.records import Document
from lodesmith.data._position import Position
from lodesmith.data.supervision import LANGUAGE, Example

__all__ = ["ReadingBatches", "packed"]

Ids = Callable[[str], torch.Tensor]
"""A text → its token ids, int64 [l]."""
Memory = Callable[[Sequence[str]], NDArray[np.floating]]
"""Ids of n documents → what a frozen compressor made of them, [n, t, H]."""
Packed = dict[str, torch.Tensor]

_KEPT = 1 << 14
"""Texts whose token ids are kept."""


class ReadingBatches(Position):
    """Batches of examples as `objectives.compress` and `objectives.end_to_end` read them; a `training.Batches`.

    A batch is a mapping. `questions` and `answers`, of its q examples, are packed: `ids` int64 [total] and `offsets`
    int64 [q + 1]; `query_ids` int64 [q] are the examples' numbers, and `examples` is q. Each of its n documents stands
    once: as packed token ids in `documents`, or, with `memory`, as float32 [n, t, H] in `memory`; `document_ids` int64
    [n] are their numbers, the same in all batches and ranks.

    To be read, `of` int64 [q, documents] has the rows of each example's documents: the relevant ones, by lot where
    there are more than places, and the first others of its pool, in an order drawn anew in each epoch. Examples that
    are of their documents alone (see `Example.alone`) read nothing else, and `of` has −1 at the other places.

    To be chosen from, with `candidates`, `candidates` int64 [q, candidates] has the rows of the first of each example's
    pool, in an order drawn anew, −1 where the pool is smaller; `relevant`, bool, says which are; and `asked` is packed,
    the questions as texts.

    Epoch e is shuffled by (seed, e) alone, and what an example draws by (seed, e, its number): of several answers one
    is the target. An epoch is cut into batches that are equal but for one example. They are the same for any number of
    ranks, which share each batch. With `together`, examples on the same documents stand side by side, so that what is
    compressed once serves several questions; batches are then of fewer documents, and less mixed.

    Args:
        examples: to be asked.
        pools: document ids of each, such as `supervision.pools` gives.
        corpus: document id → document.
        batch_size: the most examples of a batch, over all ranks.
        documents: k, to be read with a question.
        candidates: m, to choose from; None where a question is given its documents.
        text_ids: of a document's content, and of a question that is compressed.
        question_ids: of a question as the generator reads it.
        answer_ids: of an answer.
        memory: of a compressor that is frozen; None for one that trains.
        together: so many examples with the same relevant documents, at most, stand side by side.
        seed: of everything that is drawn.
        shard: (rank, ranks): this process takes its part of each batch.

    Raises:
        InputError: there are no examples, a pool has fewer documents than are read, a document is not in the corpus, or
            a batch has fewer examples than there are ranks.
        ConfigError: a setting is out of range, or an example cannot choose its documents.
    """

    def __init__(  # noqa: PLR0913 - what is read, three tokenisers and the options, all by name
        self,
        examples: Sequence[Example],
        pools: Sequence[Sequence[str]],
        corpus: Mapping[str, Document],
        *,
        batch_size: int,
        text_ids: Ids,
        question_ids: Ids,
        answer_ids: Ids,
        documents: int = 1,
        candidates: int | None = None,
        memory: Memory | None = None,
        together: int = 1,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if min(batch_size, documents, together) < 1 or not 0 <= shard[0] < shard[1]:
            given = f"batch_size {batch_size}, documents {documents}, together {together}"
            raise ConfigError(f"{given} and shard {shard} are out of range")
        if candidates is not None and candidates < documents:
            raise ConfigError(f"{documents} documents cannot be chosen among {candidates}", "give more candidates")
        if not examples:
            raise InputError("there are no examples", "give some that have answers")
        if len(examples) != len(pools):
            raise InputError(f"{len(examples)} examples have {len(pools)} pools: they must be as many")
        self.examples, self.pools = list(examples), [tuple(pool) for pool in pools]
        self.batch_size, self.documents, self.candidates = batch_size, documents, candidates
        self.together, self.seed, self.shard = together, seed, shard
        self._numbers = _numbered(self.examples, self.pools, corpus)
        self._check()
        self._text_ids = lru_cache(_KEPT)(lambda key: text_ids(corpus[key].content))
        self._asked_ids, self._question_ids = lru_cache(_KEPT)(text_ids), lru_cache(_KEPT)(question_ids)
        self._answer_ids, self._memory = answer_ids, memory
        self._data = _digest(self.examples, self.pools)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def _check(self) -> None:
        """Every example has what it needs, and every rank an example."""
        for example, pool in zip(self.examples, self.pools, strict=True):
            named = example.query or example.question or example.kind
            if self.candidates is not None and example.alone:
                raise ConfigError(
                    f"a question of the kind {example.kind} does not say which document it is of",
                    "leave this kind out where documents are chosen",
                )
            there = len(pool) if self.candidates is not None else len({*pool, *example.relevant})
            if not example.alone and there < self.documents:
                raise InputError(
                    f"the example {named!r} has {there} documents, and {self.documents} are read",
                    "lower documents, or give a larger corpus",
                )
        fewest = len(self.examples) // len(self)
        if fewest < self.shard[1]:
            raise InputError(
                f"batches of {fewest} of the {len(self.examples)} examples are too few for {self.shard[1]} ranks",
                "raise batch_size, or train with fewer processes",
            )

    # --------------------------------------------------------------- position

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch, number in self.rest():
            batch = self.gather(epoch, self.share(epoch, number))
            self.passed()
            yield batch

    def _meaning(self) -> dict[str, Any]:
        drawn = {"seed": self.seed, "examples": len(self.examples), "batch_size": self.batch_size}
        read = {"documents": self.documents, "candidates": self.candidates, "together": self.together}
        return {**drawn, **read, "data": self._data}

    # ----------------------------------------------------------------- batches

    def share(self, epoch: int, number: int) -> NDArray[np.int64]:
        """The examples of a batch that belong to this rank."""
        if self._order is None or self._order[0] != epoch:
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
            self._order = (epoch, self._side_by_side(shuffled))
        start, stop = (at * len(self.examples) // len(self) for at in (number, number + 1))
        rank, ranks = self.shard
        first, last = (start + at * (stop - start) // ranks for at in (rank, rank + 1))
        return self._order[1][first:last]

    def _side_by_side(self, shuffled: NDArray[np.int64]) -> NDArray[np.int64]:
        """The examples with those on the same documents brought together, each group where its first one was."""
        if self.together == 1:
            return shuffled
        groups: list[list[int]] = []
        latest: dict[tuple[str, ...], list[int]] = {}
        for number in shuffled.tolist():
            relevant = self.examples[number].relevant
            group = latest.get(relevant)
            if not relevant or group is None or len(group) == self.together:
                group = latest[relevant] = []
                groups.append(group)
            group.append(number)
        return np.array([number for group in groups for number in group], np.int64)

    def gather(self, epoch: int, numbers: NDArray[np.int64]) -> dict[str, Any]:
        """The batch of some examples, as an epoch has it."""
        own = [self.examples[number] for number in numbers]
        drawn = [np.random.default_rng([self.seed, epoch, number]) for number in numbers.tolist()]
        answers = [e.answers[rng.integers(len(e.answers))] for e, rng in zip(own, drawn, strict=True)]
        listed = [self._listed(number, rng) for number, rng in zip(numbers, drawn, strict=True)]
        keys = list(dict.fromkeys(key for row in listed for key in row))
        rows = {key: row for row, key in enumerate(keys)}
        places = np.full((len(own), self.candidates or self.documents), -1, np.int64)
        for row, chosen in zip(places, listed, strict=True):
            row[: len(chosen)] = [rows[key] for key in chosen]
        return {
            "examples": len(own),
            "query_ids": torch.from_numpy(numbers.astype(np.int64)),
            "questions": packed([self._question_ids(example.question) for example in own]),
            "answers": packed([self._answer_ids(answer) for answer in answers]),
            **self._documents(keys),
            **(self._choosing(own, listed, places) if self.candidates else {"of": torch.from_numpy(places)}),
        }

    def _listed(self, number: int, rng: np.random.Generator) -> list[str]:
        """The documents of an example, in the order in which it has them."""
        example, pool = self.examples[number], self.pools[number]
        if self.candidates is not None:
            return _shuffled(pool[: self.candidates], rng)
        relevant = list(dict.fromkeys(example.relevant))
        if len(relevant) > self.documents:
            relevant = _shuffled(relevant, rng)[: self.documents]
        if example.alone:
            return [] if example.kind == LANGUAGE else relevant
        others = [key for key in pool if key not in example.relevant]
        return _shuffled([*relevant, *others[: self.documents - len(relevant)]], rng)

    def _choosing(self, own: Sequence[Example], listed: Sequence[Sequence[str]], places: Any) -> dict[str, Any]:
        relevant = np.zeros(places.shape, np.bool_)
        for row, example, keys in zip(relevant, own, listed, strict=True):
            row[: len(keys)] = [key in example.relevant for key in keys]
        return {
            "candidates": torch.from_numpy(places),
            "relevant": torch.from_numpy(relevant),
            "asked": packed([self._asked_ids(example.question) for example in own]),
        }

    def _documents(self, keys: Sequence[str]) -> dict[str, Any]:
        numbers = torch.tensor([self._numbers[key] for key in keys], dtype=torch.int64)
        if self._memory is None:
            return {"documents": packed([self._text_ids(key) for key in keys]), "document_ids": numbers}
        made = np.array(self._memory(keys), np.float32)
        if made.ndim != 3 or len(made) != len(keys):
            raise InputError(f"the memory of {len(keys)} documents must be [{len(keys)}, t, H], not {list(made.shape)}")
        return {"memory": torch.from_numpy(made), "document_ids": numbers}


def _shuffled(keys: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [keys[at] for at in rng.permutation(len(keys))]


def packed(texts: Sequence[torch.Tensor]) -> Packed:
    """Token ids of texts, one behind the other, and where each begins."""
    lengths = torch.tensor([0, *map(len, texts)])
    ids = torch.cat(list(texts)) if texts else torch.zeros(0, dtype=torch.int64)
    return {"ids": ids, "offsets": lengths.cumsum(0)}


def _numbered(
    examples: Sequence[Example], pools: Sequence[Sequence[str]], corpus: Mapping[str, Document]
) -> dict[str, int]:
    """A number for every document in use."""
    numbers: dict[str, int] = {}
    for example, pool in zip(examples, pools, strict=True):
        for key in (*example.relevant, *pool):
            if key not in numbers:
                if key not in corpus:
                    raise InputError(f"the document {key!r} is not in the corpus", "give the corpus of these examples")
                numbers[key] = len(numbers)
    return numbers


def _digest(examples: Sequence[Example], pools: Sequence[Sequence[str]]) -> str:
    """A name for the examples with their pools."""
    return fingerprint_texts(
        part
        for example, pool in zip(examples, pools, strict=True)
        for texts in ((example.kind, example.question), example.answers, example.relevant, pool)
        for part in (str(len(texts)), *texts)
    )
