"""From token ids, all weights at once: towers over a vocabulary of words, one for both sides or one each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.progress import tell
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.registry import find, parameters
from lodesmith.core.vectors import Vectors
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.encoders.corpus import default_cache
from lodesmith.recipes.learners._probing import probe_texts, together
from lodesmith.recipes.learners._shared import TokenPairs, computed, encoded, settings_of
from lodesmith.recipes.recipe import TEACHER, Component
from lodesmith.recipes.systems import model_of

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders import Bag, Recurrent, TowerPair, Vocabulary
    from lodesmith.recipes.learners import Probe

__all__ = ["Towers"]


class Towers(TokenPairs):
    """Towers trained from token ids; a `Learner`. The vocabulary is that of the documents and the training queries."""

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
        kind, settings = find("encoders", component.use), settings_of(component, self.recipe)
        if self.recipe.teachers:
            self._fit(kind, settings)
        return kind(vocabulary=self.vocabulary, **settings)

    def _fit(self, kind: Any, settings: dict[str, Any]) -> None:
        """Give a tower its teacher's dimension and words, where the recipe leaves them open."""
        each, names = self.teacher_dimensions, parameters(kind)
        own = total = sum(each)
        if settings.get("init") == TEACHER:
            own = each[0]
            settings["init"] = f"teacher:{model_of(self.recipe.teachers[0])}"
        if "words" in names:
            settings.setdefault("words", own)
            settings.setdefault("dimension", total)
        elif not settings.get("projection"):
            settings.setdefault("dimension", own)
            if settings["dimension"] == own != total:
                settings["projection"] = total

    def _native(self) -> int:
        towers = [own for own in self._sides() if own.projection is not None]
        return int(min((own.projection.in_features for own in towers), default=self.encoder.dimension))

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
        """The fingerprints of the vocabulary and of the teacher."""
        return {"vocabulary": self.vocabulary.fingerprint, **self.taught_by()}

    def encoders(self) -> dict[str, nn.Module | None]:
        """One tower, or one for each side."""
        query, document = self._trained()
        return {"encoder": query, "document_encoder": None if document is query else document}

    def _trained(self) -> tuple[Any, Any]:
        """The same towers, computed by what the recipe says."""
        query, document = self._sides()
        return computed(self.recipe, query), computed(self.recipe, document)

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
        documents = self.dataset.documents
        return encoded(self.encoder, list(documents), lambda key: documents[key].content, "document")

    def queries(self, texts: Mapping[str, str]) -> Vectors:
        """Queries through their tower as it is."""
        return encoded(self.encoder, list(texts), texts.__getitem__, "query")

    def save(self, folder: Path) -> None:
        """One model folder for both sides."""
        self.encoder.save(folder)

    def save_student(self, folder: Path) -> None:
        """What `save` writes: a tower's projection is a part of it."""
        self.encoder.save(folder)

    def forecast(self) -> dict[str, Any]:
        """Seconds from one timed step of each stage's batch size, forward and backward."""
        import torch

        query, document = self._trained()
        seconds = 0.0
        for stage in self.recipe.stages:
            batches = self._plain(stage)
            batch = next(iter(batches))
            for _ in range(2):  # the first pays for warming up
                start = time.perf_counter()
                (query(batch["queries"]).sum() + document(batch["documents"]).sum()).backward()
                once = time.perf_counter() - start
            seconds += once * len(batches) * stage.passes(len(batches), self.recipe.engine.accumulate)
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
