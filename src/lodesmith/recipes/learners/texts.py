"""From texts, base and projection at once: each text is tokenised once, by the base's own tokenizer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.progress import tell
from lodesmith.core.protocols import Side
from lodesmith.core.vectors import Vectors
from lodesmith.data.tokens import FastTokenizer, Tokens, TokenStore
from lodesmith.encoders.corpus import default_cache
from lodesmith.recipes.learners._probing import probe_texts, together
from lodesmith.recipes.learners._shared import BLOCK, Projected, TokenPairs, projected

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.encoders._finetuning import PackedEncoder
    from lodesmith.encoders.projected import IsotropicGaussianEncoder
    from lodesmith.recipes.learners import Probe

__all__ = ["Texts"]


class Texts(Projected, TokenPairs):
    """A base that is trained with its projection; a `Learner`."""

    @cached_property
    def encoder(self) -> IsotropicGaussianEncoder:
        """Base and projection."""
        dimension = sum(self.teacher_dimensions) if self.recipe.teachers else None
        return projected(self.recipe, dimension, precision="float32")

    def identity(self) -> dict[str, str]:
        """The fingerprints of the base as it was before training, and of the teacher."""
        taught = self.taught_by()  # first: it knows the teacher's dimension, for which it would be loaded again
        return super().identity() | taught

    def _native(self) -> int:
        return self.encoder.base.dimension

    @cached_property
    def _sides(self) -> dict[Side, PackedEncoder]:
        """The same weights; two modules only where the base treats the sides differently."""
        from lodesmith.encoders._finetuning import PackedEncoder, sides_differ

        document = PackedEncoder(self.encoder, "document")
        query = PackedEncoder(self.encoder, "query") if sides_differ(self.encoder.base) else document
        return {"query": query, "document": document}

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

    def _tokens(self, side: Side, texts: Iterable[str]) -> Tokens:
        reader = self._reader.reader
        tokenizer = FastTokenizer(self._reader.model[0].tokenizer, reader.limits[side], reader.prompts[side])
        return TokenStore(default_cache(), tokenizer).tokens(texts)

    @property
    def _reader(self) -> Any:
        """What has the model that reads the texts, and its `reader`."""
        return self.encoder.base

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
        order = np.argsort(tokens.lengths(), kind="stable")  # neighbours of like length share their batches
        blocks = []
        for start in range(0, len(order), BLOCK):
            chosen = order[start : start + BLOCK]
            blocks.append(self._block(*tokens.take(chosen), [ids[at] for at in chosen], side))
            tell("encode", start + len(chosen), len(order), side + "s" if side == "document" else "queries")
        if not blocks:
            return Vectors.dense(np.zeros((0, self.encoder.dimension), np.float32), ids)
        whole = Vectors.joined(blocks)
        blocks.clear()
        return whole.take(np.argsort(order))

    def _block(self, flat: NDArray[np.int64], offsets: NDArray[np.int64], ids: Sequence[str], side: Side) -> Vectors:
        """The vectors of packed texts."""
        return Vectors.dense(self._sides[side].vectors(flat, offsets), ids)

    def save(self, folder: Path) -> None:
        """Base and projection as one model folder."""
        self.encoder.save(folder)

    def forecast(self) -> dict[str, Any]:
        """Seconds from one timed step of each stage, and from encoding some documents as validation does."""
        seconds = 0.0
        for stage in self.recipe.stages:
            batches = self._plain(stage)
            passes = stage.passes(len(batches), self.recipe.engine.accumulate)
            seconds += self._timed(next(iter(batches))) * len(batches) * passes
        sample = min(64, len(self._stored))
        flat, offsets = self._stored.take(np.linspace(0, len(self._stored) - 1, sample).astype(np.int64))
        start = time.perf_counter()
        self._block(flat, offsets, [str(at) for at in range(sample)], "document")
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
        if len(offsets) == 1:
            return 0.0
        everything = sum(len(batch[name]["ids"]) for name in ("queries", "documents", "negatives") if name in batch)
        trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
        for _ in range(2):  # the first pays for warming up
            start = time.perf_counter()
            found = tower(some)
            values = found["values"] if isinstance(found, Mapping) else found
            torch.autograd.grad(values.sum(), trained, allow_unused=True)
            once = time.perf_counter() - start
        return once * everything / len(some["ids"])
