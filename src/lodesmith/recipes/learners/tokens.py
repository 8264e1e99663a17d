"""From token ids, all weights at once: towers over a vocabulary of words, one for both sides or one each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.vectors import Vectors
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.encoders.corpus import default_cache
from lodesmith.recipes.learners._probing import probe_texts, together
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.pairs import Pairs, mined
from lodesmith.recipes.recipe import Component, Recipe, StagePlan
from lodesmith.recipes.text_pairs import text_pairs

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders import Bag, Recurrent, TowerPair, Vocabulary
    from lodesmith.recipes.learners import Probe
    from lodesmith.training.stage import Batches

__all__ = ["Towers"]

MIXED = 10.0
"""Lengths are mixed: packed towers pad nothing, and batches of like lengths taught less (docs/log.md)."""
CHUNK = 4096
"""Texts encoded at once while validating."""


class Towers:
    """Towers trained from token ids; a `Learner`. The vocabulary is that of the documents and the training queries."""

    def __init__(self, recipe: Recipe, dataset: Dataset, pairs: Pairs) -> None:
        self.recipe, self.dataset, self.pairs = recipe, dataset, pairs

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Counted once."""
        from lodesmith.encoders import Vocabulary

        plan = self.recipe.vocabulary
        return Vocabulary.build(self._texts(), min_count=plan.min_count, max_size=plan.max_size)

    def _texts(self) -> Iterable[str]:
        total = len(self.dataset.documents)
        for number, document in enumerate(self.dataset.documents.values(), start=1):
            yield document.content
            tell("count words", number, total, "documents")
        yield from self.pairs.queries.values()

    @cached_property
    def encoder(self) -> Bag | Recurrent | TowerPair:
        """The tower, or the pair of them, seeded before the first weights are drawn."""
        from lodesmith.encoders import TowerPair
        from lodesmith.training.engine import seed_everything

        seed_everything(self.recipe.seed)
        query: Bag | Recurrent = self._tower(self.recipe.encoder)
        if self.recipe.document_encoder is None:
            return query
        return TowerPair(query, self._tower(self.recipe.document_encoder))

    def _tower(self, component: Component) -> Any:
        settings = component.settings
        if "metric" not in settings and (metric := self.recipe.stages[-1].objective.settings.get("similarity")):
            settings["metric"] = metric
        return find("encoders", component.use)(vocabulary=self.vocabulary, **settings)

    def _sides(self) -> tuple[Any, Any]:
        """The tower of the queries and that of the documents."""
        from lodesmith.encoders import TowerPair

        pair = self.encoder
        return (pair.query, pair.document) if isinstance(pair, TowerPair) else (pair, pair)

    @property
    def metric(self) -> Metric:
        """How its vectors are compared."""
        metric: Metric = self.encoder.metric
        return metric

    def identity(self) -> dict[str, str]:
        """The vocabulary's fingerprint."""
        return {"vocabulary": self.vocabulary.fingerprint}

    def encoders(self) -> dict[str, nn.Module | None]:
        """One tower, or one for each side."""
        query, document = self._sides()
        return {"encoder": query, "document_encoder": None if document is query else document}

    def batches(self, stage: StagePlan) -> Batches:
        """Pairs of packed token ids, with the mined negatives where the objective asks for them.

        Raises:
            InputError: no pair is left whose texts have words.
        """
        from lodesmith.data.text_batches import TextBatches

        queries, documents, pairs, known = self._material(stage)
        usable = (queries.lengths()[pairs[:, 0]] > 0) & (documents.lengths()[pairs[:, 1]] > 0)
        if not usable.any():
            raise InputError(f"{self.dataset.name}: no training pair has words on both sides", "`lode data check DIR`")
        negatives = None
        if stage.pairs == "judged":
            negatives = mined(self.dataset, self.pairs, self.recipe, documents.lengths() > 0)
        return TextBatches(
            queries,
            documents,
            pairs[usable],
            batch_size=stage.batch_size,
            negatives=None if negatives is None else negatives[usable],
            known=known,
            seed=self.recipe.seed,
            noise=MIXED,
            apart=False,  # objectives mask known positives
            shard=ranks(),
        )

    def _material(self, stage: StagePlan) -> tuple[Tokens, Tokens, NDArray[np.int64], NDArray[np.int64]]:
        """Queries, documents, pairs and known positives of a stage."""
        if stage.pairs == "judged":
            return self._asked, self._stored, self.pairs.pairs, self.pairs.known
        data = self.recipe.data
        made = text_pairs(self.dataset, split=data.train, seed=self.recipe.seed, limit=data.limit)
        return self._tokens("query", made.queries), self._tokens("document", made.passages), made.pairs, made.pairs

    @cached_property
    def _stored(self) -> Tokens:
        return self._tokens("document", (document.content for document in self.dataset.documents.values()))

    @cached_property
    def _asked(self) -> Tokens:
        return self._tokens("query", self.pairs.queries.values())

    def _tokens(self, side: Side, texts: Iterable[str]) -> Tokens:
        tower = self._sides()[side == "document"]
        return TokenStore(default_cache(), tower.tokenizer).tokens(texts)

    def probes(self) -> Sequence[Probe]:
        """The shortest and the longest of some documents that have known words, through each tower."""
        from lodesmith.encoders._words import UNKNOWN

        texts = probe_texts(self._stored, lambda ids: bool((ids > UNKNOWN).any()))
        return [(partial(together, tower), *texts) for tower in dict.fromkeys(self._sides())] if texts else ()

    def documents(self) -> Vectors:
        """Every document through its tower as it is."""
        return self._encoded({key: document.content for key, document in self.dataset.documents.items()}, "document")

    def queries(self, texts: Mapping[str, str]) -> Vectors:
        """Queries through their tower as it is."""
        return self._encoded(texts, "query")

    def _encoded(self, texts: Mapping[str, str], side: Side) -> Vectors:
        keys = list(texts)
        values = np.empty((len(keys), self.encoder.dimension), np.float32)
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            values[start : start + len(part)] = self.encoder.encode([texts[key] for key in part], side).values
        return Vectors.dense(values, keys)

    def save(self, folder: Path) -> None:
        """One model folder for both sides."""
        self.encoder.save(folder)

    def forecast(self) -> dict[str, Any]:
        """Seconds from one timed step of each stage's batch size, forward and backward."""
        import torch

        query, document = self._sides()
        seconds = 0.0
        for stage in self.recipe.stages:
            batches = self.batches(stage)
            batch = next(iter(batches))
            for _ in range(2):  # the first pays for warming up
                start = time.perf_counter()
                (query(batch["queries"]).sum() + document(batch["documents"]).sum()).backward()
                once = time.perf_counter() - start
            seconds += once * len(batches) * stage.epochs
        for parameter in (*query.parameters(), *document.parameters()):
            parameter.grad = None
        distinct = {id(p): p.numel() for p in (*query.parameters(), *document.parameters())}
        parameters = sum(distinct.values())
        torch.manual_seed(self.recipe.seed)
        return {
            "trainable_parameters": parameters,
            "vocabulary": len(self.vocabulary),
            "training_seconds": round(seconds, 3),
            "memory_bytes": parameters * 4 * 4,
        }
