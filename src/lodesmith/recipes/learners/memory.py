"""From questions with answers: a language model that compresses documents into memory tokens and answers from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.registry import find, parameters
from lodesmith.core.vectors import Vectors
from lodesmith.data.supervision import Example, examples, pools
from lodesmith.recipes.learners._alone import Alone
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.recipe import StagePlan

if TYPE_CHECKING:
    from torch import nn

    from lodesmith.data.reading_batches import ReadingBatches
    from lodesmith.encoders.memory import MemoryEncoder, MemoryTower
    from lodesmith.recipes.learners import Probe
    from lodesmith.training.stage import Batches

__all__ = ["Memory"]

_COMPRESSOR = ("*.lora_*.encoder.*", "*.memory", "*.mark")
_TIMED = 4
"""Examples of which a step is timed for a forecast."""


class Memory(Alone["MemoryEncoder"]):
    """A memory model that is trained; a `Learner`.

    Args:
        recipe: of the training.
        dataset: its documents are compressed; its queries have answers, or its column `questions` has.
        pairs: its judged pairs; the validation queries among them that have answers are asked.
    """

    metric: Metric = "aligned"
    no_targets = ("a memory model mimics nobody", "leave teacher out")
    no_texts = ("a memory model learns from answers, not from pairs of texts", "set pairs to answers")
    keeps_stages = True
    """Whether the model is kept as each stage left it."""

    def identity(self) -> dict[str, str]:
        """The fingerprint of the model as it was before training."""
        _ = self.tower  # what cannot train is refused before anything is written
        return {"begun": self._begun}

    @cached_property
    def tower(self) -> MemoryTower:
        """What trains."""
        from lodesmith.encoders.memory import MemoryTower

        _ = self._begun  # before anything changes
        if self.recipe.engine.arrays == "torch":
            return MemoryTower(self.encoder)
        from lodesmith.encoders._mlx_module import MLXMemoryModule

        return MemoryTower(self.encoder, MLXMemoryModule.beside(self.encoder.to("cpu")))

    def encoders(self) -> dict[str, nn.Module | None]:
        """The model, which compresses, asks and answers."""
        return {"encoder": self.tower, "document_encoder": None}

    # --------------------------------------------------------------------- batches

    def batches(self, stage: StagePlan) -> Batches:
        """Examples with their documents, or, where the compressor is frozen, with what it made of them."""
        return self._batches(stage, self._memory)

    def _batches(self, stage: StagePlan, memory: Callable[[Sequence[str]], NDArray[np.floating]]) -> ReadingBatches:
        """The same, with what gives the memory of a frozen compressor."""
        from lodesmith.data.reading_batches import ReadingBatches

        settings = self._settings(stage)
        found = self._examples(stage)
        candidates = settings.get("candidates")
        return ReadingBatches(
            found,
            pools(self.dataset, found, candidates or settings["documents"], self.recipe.seed),
            self.dataset.documents,
            batch_size=stage.batch_size,
            documents=settings["documents"],
            candidates=candidates,
            together=settings.get("together", 1),
            text_ids=self.encoder.text_ids,
            question_ids=self.encoder.question_ids,
            answer_ids=partial(self.encoder.answer_ids, most=self.longest_answer),
            memory=memory if self._freezes(stage) else None,
            seed=self.recipe.seed,
            shard=ranks(),
        )

    @property
    def longest_answer(self) -> int:
        """Tokens that are learned, or measured, of an answer with its end: as many as of a document written again."""
        return self.encoder.settings.document_length + 1

    def _settings(self, stage: StagePlan) -> dict[str, Any]:
        """Those of the objective, its defaults among them."""
        kind = find("objectives", stage.objective.use)
        defaults = {name: found.default for name, found in parameters(kind).items()}
        return {**defaults, **stage.objective.settings}

    def _examples(self, stage: StagePlan) -> list[Example]:
        """Those of the stage's kinds. Where documents are chosen, or several are read, of the questions that say which
        they are of; where one is given, of those whose document is known.

        Raises:
            InputError: none is left.
        """
        settings = self._settings(stage)
        found = there = examples(self.dataset, self.recipe.data.train, settings.get("kinds"), training=True)
        if settings.get("candidates") is not None or settings["documents"] > 1:
            found = [example for example in found if not example.alone]
        else:
            found = [example for example in found if example.relevant or not example.query]
        if not found:
            what = "say which one document they are of" if there[0].query else "tell their documents from others"
            raise InputError(
                f"{self.dataset.name}: the stage {stage.name!r} has no example: {len(there):,} questions do not {what}",
                "leave the stage out and begin from a run that had it (init=RUN), or add a dataset for it (data=A,B)",
            )
        held = self.pairs.validation  # which may be a share of the training split
        found = [example for example in found if example.query not in held]
        limit = self.recipe.data.limit
        if limit is None or limit >= len(found):
            return found
        chosen = np.random.default_rng(self.recipe.seed).permutation(len(found))[:limit]
        return [found[at] for at in np.sort(chosen).tolist()]

    def examples_of(self, stage: StagePlan) -> int:
        """How many examples a stage goes over."""
        return len(self._examples(stage))

    def _freezes(self, stage: StagePlan) -> bool:
        """Whether a stage leaves the compressor as it is, so that each document is compressed once."""
        from lodesmith.training.optim import sort_names

        frozen = {group.match for group in stage.optim.groups if group.freeze}
        names = [f"encoder.{name}" for name, _ in self.tower.named_parameters()]
        kept = {name for match, own in sort_names(stage.optim, names).items() if match in frozen for name in own}
        return all(name in kept for name in names if any(fnmatchcase(name, pattern) for pattern in _COMPRESSOR))

    def _memory(self, keys: Sequence[str]) -> NDArray[np.floating]:
        """What the compressor, as it is, makes of documents: all are compressed once, into the store."""
        versions = [p._version for p in self._compressing]
        if self._stored is None or self._stored[0] != versions:
            self._stored = (versions, self._kept())
        values = self._stored[1].values.reshape(-1, self.encoder.count, self.encoder.dimension)
        found: NDArray[np.floating] = values[[self._places[key] for key in keys]]
        return found

    _stored: tuple[list[int], Vectors] | None = None

    def _kept(self) -> Vectors:
        """The documents' memory, in their order; float16 on the disk."""
        from lodesmith.encoders.corpus import VectorCache

        items = ((key, document.content) for key, document in self.dataset.documents.items())
        training = self.tower.training
        self.tower.eval()
        try:
            return VectorCache(dtype="float16").vectors(_Compressor(self.encoder, self._compressing), items)
        finally:
            self.tower.train(training)

    @property
    def _compressing(self) -> list[nn.Parameter]:
        """What a document's memory depends on, beside the frozen language model."""
        model = self.encoder.model
        return [*model.weights("encoder").values(), model.memory, model.mark]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: at for at, key in enumerate(self.dataset.documents)}

    # -------------------------------------------------------------------- measuring

    def probes(self) -> Sequence[Probe]:
        """None: its rows are padded where causal attention leaves that unseen."""
        return ()

    def documents(self) -> Vectors:
        """Every document with the weights as they are, in float16."""
        texts = [document.content for document in self.dataset.documents.values()]
        found = self.encoder.encode(texts, "document", tuple(self.dataset.documents))
        return Vectors(found.values.astype(np.float16), found.offsets, found.ids)

    def validation(self, stage: StagePlan) -> Callable[[], Mapping[str, float]] | None:
        """What measures a stage: answers to validation questions; None where none has an answer."""
        from lodesmith.recipes.learners._answers import Answers

        measured = Answers(self, stage, self._settings(stage), memory=self._memory if self._freezes(stage) else None)
        return measured if measured.keys else None

    def forecast(self) -> dict[str, Any]:
        """Seconds from some examples of each stage through both passes, some documents, and some answers."""
        seconds, stages = 0.0, self.recipe.stages
        for stage in stages:
            count = len(self._examples(stage))
            steps = -(-count // stage.batch_size)
            seconds += self._timed(stage) * count * stage.passes(steps, self.recipe.engine.accumulate)
        own = sum(p.numel() for p in self.tower.parameters() if p.requires_grad)
        kept = len(self.dataset.documents) if any(map(self._freezes, stages)) else 0
        return {
            "trainable_parameters": own,
            "encoding_seconds_at_most": round(kept * self._each(), 3),
            "training_seconds": round(seconds, 3),
            "validation_seconds": round(max(map(self._validating, stages)), 3),
            "vectors_bytes": kept * self.encoder.count * self.encoder.dimension * 2,
            "memory_bytes": self.encoder.parameters_total * 4 + own * 12,
        }

    def _each(self) -> float:
        """Seconds a document takes to be compressed."""
        keys = list(self.dataset.documents)[: 4 * _TIMED]
        self._now(keys[:_TIMED])
        start = time.perf_counter()
        self._now(keys)
        return (time.perf_counter() - start) / max(1, len(keys))

    def _now(self, keys: Sequence[str]) -> NDArray[np.floating]:
        """What the compressor makes of documents, and nothing stored."""
        found = self.encoder.encode([self.dataset.documents[key].content for key in keys], "document", keys)
        return found.values.reshape(len(keys), self.encoder.count, self.encoder.dimension)

    def _validating(self, stage: StagePlan) -> float:
        """Seconds of a validation; of compressing too, which is done once where the compressor is frozen."""
        from lodesmith.recipes.learners._answers import Answers

        measured = Answers(self, stage, self._settings(stage))
        some = Answers(self, stage, self._settings(stage), most=_TIMED)
        if not some.keys:
            return 0.0
        start = time.perf_counter()
        some()
        return (time.perf_counter() - start) / len(some.keys) * len(measured.keys)

    def _timed(self, stage: StagePlan) -> float:
        """Seconds an example takes."""
        import torch

        from lodesmith.training.engine import move

        kind = find("objectives", stage.objective.use)
        objective = kind(self.tower, **stage.objective.settings)
        batches = self._batches(stage.model_copy(update={"batch_size": _TIMED}), self._now)
        batch = move(next(iter(batches)), self.encoder.device)
        trained = [p for p in self.tower.parameters() if p.requires_grad]
        for _ in range(2):  # the first pays for warming up
            start = time.perf_counter()
            total = sum(objective.weights[name] * term for name, term in objective(batch).items())
            torch.autograd.grad(total, trained, allow_unused=True)
            once = time.perf_counter() - start
        return once / int(batch["examples"])


class _Compressor:
    """A memory model as an encoder of documents alone: what else of it trains changes nothing.

    Args:
        encoder: whose documents these are.
        weights: all that they depend on.
    """

    metric: Metric = "aligned"

    def __init__(self, encoder: MemoryEncoder, weights: Sequence[nn.Parameter]) -> None:
        self._encoder, self.dimension = encoder, encoder.dimension
        bits = [fingerprint(p.detach().float().cpu().numpy().tobytes().hex()) for p in weights]
        self.fingerprint = fingerprint({"weights": bits, "under": encoder.base_fingerprint})

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """The memory of texts."""
        return self._encoder.encode(texts, side, ids)
