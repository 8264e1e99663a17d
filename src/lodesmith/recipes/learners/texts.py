"""From texts, base and projection at once: each text is tokenised once, by the base's own tokenizer."""

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
from lodesmith.data.tokens import FastTokenizer, Tokens, TokenStore
from lodesmith.encoders.corpus import default_cache
from lodesmith.recipes.learners._probing import probe_texts, together
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.pairs import Pairs, mined
from lodesmith.recipes.recipe import Recipe, StagePlan
from lodesmith.recipes.text_pairs import text_pairs

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders._finetuning import PackedEncoder
    from lodesmith.encoders.projected import IsotropicGaussianEncoder
    from lodesmith.recipes.learners import Probe
    from lodesmith.training.stage import Batches

__all__ = ["Texts"]

MIXED = 10.0
"""Lengths are mixed: packed batches pad nothing, and batches of like lengths taught less (docs/log.md)."""
BLOCK = 4096
"""Texts encoded at once while validating."""


class Texts:
    """A base that is trained with its projection; a `Learner`."""

    def __init__(self, recipe: Recipe, dataset: Dataset, pairs: Pairs) -> None:
        self.recipe, self.dataset, self.pairs = recipe, dataset, pairs

    @cached_property
    def encoder(self) -> IsotropicGaussianEncoder:
        """Base and projection, seeded before the first weights are drawn."""
        from lodesmith.encoders.transformer import TransformerEncoder
        from lodesmith.training.engine import seed_everything

        base = TransformerEncoder(self.recipe.base, precision="float32")
        seed_everything(self.recipe.seed)
        settings = self.recipe.encoder.settings
        if "metric" not in settings and (metric := self.recipe.stages[-1].objective.settings.get("similarity")):
            settings["metric"] = metric
        encoder: IsotropicGaussianEncoder = find("encoders", self.recipe.encoder.use)(base_model=base, **settings)
        return encoder

    @cached_property
    def _sides(self) -> dict[Side, PackedEncoder]:
        """The same weights; two modules only where the base treats the sides differently."""
        from lodesmith.encoders._finetuning import PackedEncoder, sides_differ

        document = PackedEncoder(self.encoder, "document")
        query = PackedEncoder(self.encoder, "query") if sides_differ(self.encoder.base) else document
        return {"query": query, "document": document}

    @property
    def metric(self) -> Metric:
        """How its vectors are compared."""
        return self.encoder.metric

    def identity(self) -> dict[str, str]:
        """The fingerprint of the base as it was before training."""
        return {"base": self.encoder.base.fingerprint}

    def encoders(self) -> dict[str, nn.Module | None]:
        """Base and projection as one module; and the predictor where there is one."""
        query, document = self._sides["query"], self._sides["document"]
        found: dict[str, nn.Module | None] = {
            "encoder": query,
            "document_encoder": None if document is query else document,
        }
        if (predictor := getattr(self.encoder, "predictor", None)) is not None:
            found["predictor"] = predictor
        return found

    def batches(self, stage: StagePlan) -> Batches:
        """Pairs of packed token ids, with the mined negatives.

        Raises:
            InputError: no pair is left whose texts have tokens.
        """
        from lodesmith.data.text_batches import TextBatches

        queries, documents, pairs, known = self._material(stage)
        usable = (queries.lengths()[pairs[:, 0]] > 0) & (documents.lengths()[pairs[:, 1]] > 0)
        if not usable.any():
            raise InputError(f"{self.dataset.name}: no training pair has text on both sides", "`lode data check DIR`")
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
        return self._tokens("document", [document.content for document in self.dataset.documents.values()])

    @cached_property
    def _asked(self) -> Tokens:
        return self._tokens("query", self.pairs.queries.values())

    def _tokens(self, side: Side, texts: Iterable[str]) -> Tokens:
        reader = self._sides[side].base_encoder.reader
        tokenizer = FastTokenizer(self.encoder.base.model[0].tokenizer, reader.limits[side], reader.prompts[side])
        return TokenStore(default_cache(), tokenizer).tokens(texts)

    def probes(self) -> Sequence[Probe]:
        """The shortest and the longest of some documents, through each side's encoder."""
        texts = probe_texts(self._stored)
        return [(partial(together, tower), *texts) for tower in dict.fromkeys(self._sides.values())] if texts else ()

    def documents(self) -> Vectors:
        """Every document with the weights as they are."""
        return self._encoded(self._stored, tuple(self.dataset.documents), "document")

    def queries(self, texts: Mapping[str, str]) -> Vectors:
        """Queries with the weights as they are."""
        return self._encoded(self._tokens("query", texts.values()), tuple(texts), "query")

    def _encoded(self, tokens: Tokens, ids: tuple[str, ...], side: Side) -> Vectors:
        values = np.empty((len(tokens), self.encoder.dimension), np.float32)
        order = np.argsort(tokens.lengths(), kind="stable")  # neighbours of like length share their batches
        for start in range(0, len(order), BLOCK):
            chosen = order[start : start + BLOCK]
            values[chosen] = self._sides[side].vectors(*tokens.take(chosen))
            tell("encode", start + len(chosen), len(order), side + "s" if side == "document" else "queries")
        return Vectors.dense(values, ids)

    def save(self, folder: Path) -> None:
        """Base and projection as one model folder."""
        self.encoder.save(folder)

    def forecast(self) -> dict[str, Any]:
        """Seconds from one timed step of each stage, and from encoding some documents as validation does."""
        seconds = 0.0
        for stage in self.recipe.stages:
            batches = self.batches(stage)
            seconds += self._timed(next(iter(batches))) * len(batches) * stage.epochs
        sample = min(64, len(self._stored))
        ids, offsets = self._stored.take(np.linspace(0, len(self._stored) - 1, sample).astype(np.int64))
        start = time.perf_counter()
        self._sides["document"].vectors(ids, offsets)
        validating = (time.perf_counter() - start) / sample * len(self._stored)
        trained = sum(p.numel() for p in self.encoder.parameters() if p.requires_grad)
        return {
            "trainable_parameters": trained,
            "training_seconds": round(seconds, 3),
            "validation_seconds": round(validating if self.pairs.validation else 0.0, 3),
            "memory_bytes": self.encoder.parameters_total * 4 + trained * 12,
        }

    def _timed(self, batch: Mapping[str, Any]) -> float:
        """Seconds of a step's two passes, from at most 32 of its documents; nothing is changed by them."""
        import torch

        tower, offsets = self._sides["document"], batch["documents"]["offsets"][:33]
        device = next(tower.parameters()).device
        some = {"ids": batch["documents"]["ids"][: int(offsets[-1])].to(device), "offsets": offsets.to(device)}
        everything = sum(len(batch[name]["ids"]) for name in ("queries", "documents", "negatives") if name in batch)
        trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
        for _ in range(2):  # the first pays for warming up
            start = time.perf_counter()
            torch.autograd.grad(tower(some).sum(), trained, allow_unused=True)
            once = time.perf_counter() - start
        return once * everything / len(some["ids"])
