"""What is measured of a memory model while it trains: answers to questions that no stage sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lodesmith.core.records import Query
from lodesmith.core.vectors import Vectors
from lodesmith.data.reading_batches import packed
from lodesmith.data.supervision import Example, pools
from lodesmith.evaluation.answers import answer_measures, normalised
from lodesmith.similarity.aligned import aligned_rows

if TYPE_CHECKING:
    from lodesmith.recipes.learners.memory import Memory
    from lodesmith.recipes.recipe import StagePlan

__all__ = ["MEASURES", "Answers"]

LOSS = "loss"
"""−log p of a gold answer's token, a mean; less is better."""
WRITTEN = ("CoverEM", "EM", "F1", "Contiguous")
MEASURES = (*WRITTEN, "R@1", "R@3", "R@5", LOSS)
"""What there is to monitor."""
ASKED = 256
"""Questions, at most: each answer is written token by token."""
POOL = 20
"""Documents among which a question's own are sought."""
MOST = 32
"""Tokens of an answer."""


class Answers:
    """The validation of a stage, with the weights as they are; call it.

    Each question is asked over a pool that holds its relevant documents. A stage that is given its documents reads
    those and the next of the pool; one that chooses reads what the query reasoner puts first. `R@k` are of the order of
    the query reasoner, or before it trains of the compressor, over the pool.

    Args:
        learner: whose model it is.
        stage: of the recipe.
        settings: of its objective.
        memory: ids of documents → what a frozen compressor made of them, [n, t, H]; None where they are compressed
            each time.
        most: questions that are asked, at most.
    """

    def __init__(
        self,
        learner: Memory,
        stage: StagePlan,
        settings: Mapping[str, Any],
        *,
        memory: Callable[[Sequence[str]], NDArray[np.floating]] | None = None,
        most: int = ASKED,
    ) -> None:
        self.learner, self.stage, self.settings = learner, stage, settings
        self.memory, self.most = memory, most

    @cached_property
    def keys(self) -> list[str]:
        """The validation queries that are asked: those that have an answer, or some of them."""
        queries = self.learner.dataset.queries
        there = [key for key in self.learner.pairs.validation if key in queries and _golds(queries[key])]
        chosen = np.random.default_rng(self.learner.recipe.seed).permutation(len(there))[: self.most]
        return [there[at] for at in np.sort(chosen).tolist()]

    @cached_property
    def _examples(self) -> list[Example]:
        judged, queries = self.learner.pairs.validation, self.learner.dataset.queries
        found = []
        for key in self.keys:
            relevant = tuple(document for document, grade in judged[key].items() if grade > 0)
            found.append(Example("qa", queries[key].text, _golds(queries[key]), relevant, key))
        return found

    @cached_property
    def _pools(self) -> list[tuple[str, ...]]:
        return pools(self.learner.dataset, self._examples, POOL, self.learner.recipe.seed)

    def __call__(self) -> Mapping[str, float]:
        """Means over the questions."""
        encoder, asked = self.learner.encoder, self._examples
        keys = list(dict.fromkeys(key for pool in self._pools for key in pool))
        memory = self._compressed(keys)
        queries = encoder.encode([example.question for example in asked], "query", [e.query for e in asked])
        orders = self._ordered(queries, memory)
        chooses = self.settings.get("candidates") is not None
        places = {key: at for at, key in enumerate(keys)}
        rows = memory.values.reshape(len(keys), encoder.count, encoder.dimension)
        listed = orders if chooses else self._pools
        read = [[rows[places[key]] for key in own[: self.settings["documents"]]] for own in listed]
        written = encoder.answer([example.question for example in asked], read, max_new_tokens=MOST)
        told = answer_measures(
            {example.query: text for example, text in zip(asked, written, strict=True)},
            {example.query: example.answers for example in asked},
        )
        found = {name: fmean(row[name] for row in told.values()) for name in WRITTEN}
        for k in (1, 3, 5):
            hits = [_recall(own[:k], example.relevant) for own, example in zip(orders, asked, strict=True)]
            found[f"R@{k}"] = fmean(hits)
        of = [[places[key] for key in own[: self.settings["documents"]]] for own in listed]
        return found | {LOSS: self._loss(torch.from_numpy(rows), of)}

    def _compressed(self, keys: Sequence[str]) -> Vectors:
        encoder = self.learner.encoder
        if self.memory is None:
            contents = [self.learner.dataset.documents[key].content for key in keys]
            return encoder.encode(contents, "document", keys)
        rows = np.asarray(self.memory(keys), np.float32).reshape(-1, encoder.dimension)
        return Vectors(rows, np.arange(len(keys) + 1, dtype=np.int64) * encoder.count, tuple(keys))

    def _loss(self, memory: Tensor, of: Sequence[Sequence[int]]) -> float:
        """The first gold answers' loss.

        Args:
            memory: [n, t, H].
            of: the rows of memory that each question reads.
        """
        encoder, longest = self.learner.encoder, self.learner.longest_answer
        used = sorted({row for own in of for row in own})  # a pool has many more, and they may not fit the device
        places = {row: place for place, row in enumerate(used)}
        read = torch.full((len(of), max(map(len, of), default=0)), -1)
        for row, own in zip(read, of, strict=True):
            row[: len(own)] = torch.tensor([places[at] for at in own])
        questions = packed([encoder.question_ids(e.question) for e in self._examples])
        answers = packed([encoder.answer_ids(e.answers[0], longest) for e in self._examples])
        with torch.no_grad():
            answers["ids"] = answers["ids"].to(encoder.device)
            own_memory = memory[used].to(encoder.device)
            return float(self.learner.tower.losses(own_memory, read, questions, answers).mean())

    def _ordered(self, queries: Vectors, memory: Vectors) -> list[list[str]]:
        """Each pool, the best document first; ties by id, descending."""
        places = {key: at for at, key in enumerate(memory.ids)}
        pairs = np.asarray([(q, places[key]) for q, pool in enumerate(self._pools) for key in pool], np.int64)
        scores = aligned_rows(queries, memory, pairs).tolist()
        found, start = [], 0
        for pool in self._pools:
            own = sorted(zip(scores[start : start + len(pool)], pool, strict=True), reverse=True)
            found.append([key for _, key in own])
            start += len(pool)
        return found


def _golds(query: Query) -> tuple[str, ...]:
    """The answers of which something is left when they are compared."""
    return tuple(answer for answer in query.answers if normalised(answer))


def _recall(found: Sequence[str], relevant: Sequence[str]) -> float:
    return len(set(found) & set(relevant)) / max(1, len(set(relevant)))
