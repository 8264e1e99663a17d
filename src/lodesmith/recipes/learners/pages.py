"""From page images: a vision-language late-interaction model, trained on queries and the pages that answer them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lodesmith.core.progress import tell
from lodesmith.core.protocols import Encoder, Metric
from lodesmith.core.records import PageImage
from lodesmith.core.vectors import Vectors
from lodesmith.recipes._document_vectors import contents
from lodesmith.recipes.learners._alone import Alone
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.learners._taught import taught
from lodesmith.recipes.pairs import mined
from lodesmith.recipes.recipe import StagePlan

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders.patches import PageEncoder, PageTower
    from lodesmith.recipes.learners import Probe
    from lodesmith.training.stage import Batches

__all__ = ["Pages"]

_BLOCK = 64
"""Pages that are encoded at once."""
_TIMED = 4
"""Pages of which a step is timed for a forecast."""


class Pages(Alone["PageEncoder"]):
    """A model of page images that is trained; a `Learner`.

    Args:
        recipe: of the training.
        dataset: its documents have images.
        pairs: its judged pairs.
    """

    metric: Metric = "maxsim"
    no_targets = ("pages mimic no teacher's vectors", "use the objective mid")
    no_texts = ("pages have no pairs of texts", "set pairs to judged")

    def identity(self) -> dict[str, str]:
        """The fingerprints of the model as it was before training, and of the teacher."""
        return {"base": self._begun} | ({"teacher": self._taught_by} if self._interacts else {})

    @property
    def _interacts(self) -> bool:
        """Whether a stage mimics a teacher's interactions."""
        return any(taught(stage) == "interactions" for stage in self.recipe.stages)

    @cached_property
    def _teacher(self) -> Encoder:
        """Loaded; forgotten once its interactions are there."""
        from lodesmith.recipes.page_interactions import check_interacts_on_pages
        from lodesmith.recipes.systems import load_encoder

        found = load_encoder(self.recipe.teachers[0])
        check_interacts_on_pages(found)
        return found

    @cached_property
    def _taught_by(self) -> str:
        return self._teacher.fingerprint

    @cached_property
    def _items(self) -> list[str]:
        return [item for _, item in contents(self.encoder, self.dataset.documents, self.dataset.folder)]

    @cached_property
    def _towers(self) -> tuple[PageTower, PageTower]:
        """Of queries and pages: the same weights."""
        from lodesmith.encoders.patches import PageTower

        _ = self._begun  # before anything changes
        queries = PageTower(self.encoder, list(self.pairs.queries.values()), "query")
        return queries, PageTower(self.encoder, self._items, "document")

    def encoders(self) -> dict[str, nn.Module | None]:
        """The model as read by queries, and by pages."""
        queries, pages = self._towers
        return {"encoder": queries, "document_encoder": pages}

    def batches(self, stage: StagePlan) -> Batches:
        """Pairs of numbers of queries and pages, with the mined negatives where the recipe names them, and with the
        teacher's interactions where the objective wants them."""
        from lodesmith.data.batching import PairBatches

        queries, pages = (np.arange(count, dtype=np.float32)[:, None] for count in self._counts)
        found = PairBatches(
            self.pairs.pairs,
            queries,
            pages,
            batch_size=stage.batch_size,
            seed=self.recipe.seed,
            known=self.pairs.known,
            negatives=mined(self.dataset, self.pairs, self.recipe),
            shard=ranks(),
        )
        return self._with_interactions(stage, found) if taught(stage) == "interactions" else found

    def _with_interactions(self, stage: StagePlan, batches: Batches) -> Batches:
        """The batches, with the teacher's interactions of their pairs."""
        from lodesmith.encoders.corpus import default_cache
        from lodesmith.objectives.mid import read_attention
        from lodesmith.recipes.interactions import Interacting
        from lodesmith.recipes.page_interactions import page_interactions

        settings = read_attention(stage.objective.settings.get("attention", 1.0))
        numbered = np.unique(self.pairs.pairs, axis=0).tolist()
        queries = list(self.pairs.queries.values())
        _ = self._taught_by  # before the teacher is forgotten
        found = page_interactions(
            cast("PageEncoder", self._teacher),
            self.encoder,
            [(queries[query], cast(PageImage, self._items[page])) for query, page in numbered],
            softness=settings.softness,
            top=settings.top,
            cache=default_cache(),
        )
        del self._teacher
        return Interacting(batches, found, {(query, page): at for at, (query, page) in enumerate(numbered)})

    @property
    def _counts(self) -> tuple[int, int]:
        return len(self.pairs.queries), len(self.dataset.documents)

    def probes(self) -> Sequence[Probe]:
        """None: nothing is padded."""
        return ()

    def documents(self) -> Vectors:
        """Every page with the weights as they are, in float16."""
        ids, parts = tuple(self.dataset.documents), []
        for start in range(0, len(ids), _BLOCK):
            block = slice(start, start + _BLOCK)
            found = self.encoder.encode(self._items[block], "document", ids[block])
            parts.append(Vectors(found.values.astype(np.float16), found.offsets, found.ids))
            tell("encode", min(start + _BLOCK, len(ids)), len(ids), "pages")
        return Vectors.joined(parts)

    def forecast(self) -> dict[str, Any]:
        """Seconds from some pages through both passes, and from encoding them as validation does; a teacher that has no
        interactions is refused here too."""
        import torch

        if self._interacts:
            _ = self._teacher
        tower, sample = self._towers[1], min(_TIMED, len(self._items))
        trained = [p for p in tower.parameters() if p.requires_grad]
        numbers = torch.arange(sample, dtype=torch.float32)[:, None]
        for _ in range(2):  # the first pays for warming up
            start = time.perf_counter()
            torch.autograd.grad(tower(numbers)["values"].sum(), trained, allow_unused=True)
            once = (time.perf_counter() - start) / max(1, sample)
        start = time.perf_counter()
        self.encoder.encode(self._items[:sample])
        each = (time.perf_counter() - start) / max(1, sample)
        passes = sum(
            stage.passes(-(-len(self.pairs.pairs) // stage.batch_size), self.recipe.engine.accumulate)
            for stage in self.recipe.stages
        )
        own = sum(p.numel() for p in trained)
        return {
            "trainable_parameters": own,
            "training_seconds": round(once * len(self.pairs.pairs) * passes, 3),
            "validation_seconds": round(each * len(self._items), 3) if self.pairs.validation else 0.0,
            "memory_bytes": self.encoder.parameters_total * 4 + own * 12,
        }
