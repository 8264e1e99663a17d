"""Over a frozen base: each text is encoded once, and training reads vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError
from lodesmith.core.records import Dataset
from lodesmith.core.vectors import Vectors
from lodesmith.encoders.corpus import VectorCache
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.learners._shared import Projected, computed, projected
from lodesmith.recipes.pairs import Pairs, distinct_documents, mined
from lodesmith.recipes.recipe import Recipe, StagePlan
from lodesmith.recipes.targets import Ceiling, Targets, ceiling
from lodesmith.recipes.text_pairs import TextPairs, pairs_for

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders.projected import IsotropicGaussianEncoder
    from lodesmith.recipes.learners import Probe
    from lodesmith.training.stage import Batches

__all__ = ["Stored"]


class Stored(Projected):
    """A projection over stored vectors of a frozen base; a `Learner`."""

    def __init__(self, recipe: Recipe, dataset: Dataset, pairs: Pairs) -> None:
        self.recipe, self.dataset, self.pairs = recipe, dataset, pairs
        self._seen: dict[tuple[str, ...], Vectors] = {}

    @cached_property
    def encoder(self) -> IsotropicGaussianEncoder:
        """Base and projection."""
        place = None if self.recipe.engine.arrays == "torch" else "cpu"  # where torch meets MLX
        return projected(self.recipe, device=place)

    @property
    def targets(self) -> Targets:
        """None: what mimics a teacher trains from texts.

        Raises:
            ConfigError: always; a recipe that asks for them is refused before.
        """
        raise ConfigError("a frozen base mimics no teacher", "set encoder.freeze_base to false")

    @property
    def held_out(self) -> Targets | None:
        """None."""
        return None

    def ceiling(self) -> Ceiling:
        """None, as there are no targets."""
        return ceiling(self.targets.sample(), self.encoder.base.dimension)

    def encoders(self) -> dict[str, nn.Module | None]:
        """The projection serves both sides; the predictor, where there is one, is the objective's."""
        predictor = getattr(self.encoder, "predictor", None)
        found = {"encoder": self.encoder.projection} | ({} if predictor is None else {"predictor": predictor})
        return {name: computed(self.recipe, module) for name, module in found.items()}

    @cached_property
    def text_pairs(self) -> TextPairs:
        """Pairs of texts out of the documents."""
        return pairs_for(self.recipe, self.dataset)

    def batches(self, stage: StagePlan) -> Batches:
        """Pairs of stored vectors; with all documents, to which the mined ones belong, where the objective takes them
        as negatives."""
        from lodesmith.data.batching import PairBatches

        corpus = stage.objective.settings.get("negatives") == "corpus"
        if stage.pairs == "text":
            return self._text_batches(stage, corpus)
        return PairBatches(
            self.pairs.pairs,
            self._asked,
            self._stored,
            batch_size=stage.batch_size,
            seed=self.recipe.seed,
            known=self.pairs.known,
            negatives=None if corpus else mined(self.dataset, self.pairs, self.recipe),
            pool=stage.pool,
            distinct=distinct_documents(self.dataset),
            corpus=corpus,
            shard=ranks(),
        )

    def _text_batches(self, stage: StagePlan, corpus: bool) -> Batches:
        """Pairs of texts out of the documents; the passages are the corpus."""
        from lodesmith.data.batching import PairBatches

        made, cache, base = self.text_pairs, VectorCache(), self.encoder.base
        return PairBatches(
            made.pairs,
            cache.vectors(base, ((str(row), text) for row, text in enumerate(made.queries)), "query"),
            cache.vectors(base, ((str(row), text) for row, text in enumerate(made.passages)), "document"),
            batch_size=stage.batch_size,
            seed=self.recipe.seed,
            pool=stage.pool,
            corpus=corpus,
            shard=ranks(),
        )

    def probes(self) -> Sequence[Probe]:
        """None: stored vectors have no padding."""
        return ()

    def documents(self) -> Vectors:
        """Every document through the projection as it is."""
        return self.encoder.project(self._stored)

    def queries(self, texts: Mapping[str, str]) -> Vectors:
        """Queries through the projection as it is; the base sees each once."""
        ids = tuple(texts)
        if ids not in self._seen:
            self._seen[ids] = VectorCache().vectors(self.encoder.base, texts.items(), "query")
        return self.encoder.project(self._seen[ids])

    def save(self, folder: Path) -> None:
        """Base and projection as one model folder."""
        self.encoder.save(folder)

    @cached_property
    def _stored(self) -> Vectors:
        items = ((key, document.content) for key, document in self.dataset.documents.items())
        return VectorCache().vectors(self.encoder.base, items, "document")

    @cached_property
    def _asked(self) -> Vectors:
        return VectorCache().vectors(self.encoder.base, self.pairs.queries.items(), "query")

    def forecast(self) -> dict[str, Any]:
        """The encoding is what takes time: its rate comes from a timed sample."""
        base = self.encoder.base
        sample = [d.content for _, d in zip(range(64), self.dataset.documents.values(), strict=False)]
        base.encode(sample[:4])
        start = time.perf_counter()
        base.encode(sample)
        rate = len(sample) / (time.perf_counter() - start)
        texts = len(self.dataset.documents) + len(self.pairs.queries) + len(self.pairs.validation)
        if any(stage.pairs == "text" for stage in self.recipe.stages):
            texts += len(self.text_pairs.queries) + len(self.text_pairs.passages)
        stored = texts * base.dimension * 4
        return {
            "trainable_parameters": sum(
                p.numel() for group in self.encoder.get_trainable_parameters().values() for p in group
            ),
            "encoding_seconds_at_most": round(texts / rate, 1),
            "vectors_bytes": stored,
            "memory_bytes": stored * 2 + self.encoder.parameters_total * 4,
        }
