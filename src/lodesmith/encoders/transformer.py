"""Any sentence-transformers model as an encoder: packed batches, long documents in passages, bf16 where it is fast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import _precision
from lodesmith.encoders._cores import FEWEST_TOKENS, budget_of, each_on_one_core, one_core
from lodesmith.encoders._identity import digest, settings
from lodesmith.encoders._loading import find_model, load_model
from lodesmith.encoders._packable import check_texts, first_position
from lodesmith.encoders._packing import batches, pack
from lodesmith.encoders._passages import Passages
from lodesmith.encoders._reading import Reader, Reading, clean, named, prompts_of

__all__ = ["TransformerEncoder", "Passages", "Precision", "load_encoder"]  # noqa: RUF022 - the component comes first

Precision = Literal["auto", "float32", "bfloat16"]


class TransformerEncoder:
    """A sentence-transformers model with its own prompts, pooling, later modules and maximum length.

    Args:
        model: hub name, folder, or `minilm`.
        precision: `"float32"`, `"bfloat16"`, or `"auto"`: bfloat16 where the processor multiplies it in hardware and
            the vectors keep a cosine of 0.9999 to float32.
        max_length: tokens of a text that the model sees; None for the model's own limit.
        passages: split longer documents into overlapping passages, a row of the vectors each; None truncates.
        query_prompt: goes before each query; None for the model's own.
        document_prompt: goes before each document; None for the model's own.
        batch_tokens: tokens a batch.
        device: torch device; None for CUDA where there is one, else the CPU.

    Raises:
        InputError: the model is not there, does not load, or is not safe to load.
        ConfigError: a setting does not fit the model.
    """

    def __init__(  # noqa: PLR0913 - the settings of a model
        self,
        model: str | Path,
        *,
        precision: Precision = "auto",
        max_length: int | None = None,
        passages: Passages | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch_tokens: int = 4096,
        device: str | None = None,
    ) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be at least 1, not {batch_tokens}", "the default is 4096")
        self.source = str(model)
        self.folder = find_model(model)
        self.model = load_model(self.folder, device)
        self.metric: Metric = _metric(self.model)
        self.passages = passages
        self.batch_tokens = batch_tokens
        self.reader = Reader(self.model, prompts_of(self.model, query_prompt, document_prompt), max_length)
        self._first_position = 0
        with one_core():
            reference = self._alone()
            self.dimension = int(reference.shape[1])
            self.packed = self._try_packing(reference)
        self._weights = digest(self.model)
        self.precision = _precision.apply(self, precision, reference)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and every setting that changes a vector."""
        own = {
            "weights": self._weights,
            "precision": self.precision,
            "prompts": dict(self.reader.prompts),
            "limits": dict(self.reader.limits),
            "passages": None if self.passages is None else [self.passages.tokens, self.passages.overlap],
        }
        return fingerprint(settings(self.model) | own)

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts.

        Args:
            texts: any strings; the empty one too.
            side: whose prompt they get.
            ids: the items' ids; "0", "1", … where None.

        Returns:
            float32 vectors, one row an item, or one a passage. `info` says what made them, the share of items of which
            something was cut off (`truncated`), their ids (`cut`), and the number of tokens (`tokens`).
        """
        texts, ids = named(texts, ids)
        parts, counts = self.reader.passages(texts, self.passages, side)
        reading = self.reader.read(parts, side)
        values = self.values(reading, side)
        _finite(values, self.source)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Vectors(values, offsets, ids, self._info(side, reading, offsets, ids))

    def values(self, reading: Reading, side: Side) -> NDArray[np.float32]:
        """The vectors of texts that are tokens already, float32 [n, d], in batches of like length."""
        values = np.empty((len(reading.texts), self.dimension), np.float32)

        def fill(batch: NDArray[np.int64]) -> None:
            with torch.inference_mode():  # it holds for one thread only
                values[batch] = self._forward(reading, batch, side).float().cpu().numpy()

        budget = budget_of(int(reading.lengths.sum()), self.batch_tokens, self.device)
        groups = list(batches(reading.lengths, budget, padded=not self.packed))
        each_on_one_core(fill, groups, self.device, short=int(reading.lengths.sum()) < FEWEST_TOKENS)
        return values

    def embed(self, texts: Sequence[str], side: Side = "document") -> Tensor:
        """Texts → tensor [n, d] with gradients, for training; long texts are truncated."""
        reading = self.reader.read(clean(texts), side)
        rows: list[Tensor | None] = [None] * len(texts)
        for batch in batches(reading.lengths, self.batch_tokens, padded=not self.packed):
            for at, row in zip(batch, self._forward(reading, batch, side), strict=True):
                rows[at] = row
        return torch.stack([row for row in rows if row is not None])

    def _info(self, side: Side, reading: Reading, offsets: NDArray[np.int64], ids: Sequence[str]) -> dict[str, Any]:
        cut = np.add.reduceat(reading.truncated, offsets[:-1]) > 0 if len(reading.truncated) else np.zeros(0)
        return {
            "encoder": self.source,
            "model": self.fingerprint,
            "side": side,
            "metric": self.metric,
            "truncated": float(cut.mean()) if len(cut) else 0.0,
            "cut": [ids[at] for at in np.flatnonzero(cut).tolist()],
            "tokens": int(reading.lengths.sum()),
        }

    def _forward(self, reading: Reading, batch: NDArray[np.int64], side: Side) -> Tensor:
        if self.packed:
            return self._packed([reading.ids[at] for at in batch], side)
        return self._padded([reading.texts[at] for at in batch], side)

    def _packed(self, sequences: list[NDArray[np.int32]], side: Side) -> Tensor:
        features = pack(sequences, first_position=self._first_position)
        if prompt := self.reader.prompt_tokens(side):
            features["prompt_length"] = prompt
        return self._run(features, side)

    def _padded(self, texts: list[str], side: Side) -> Tensor:
        return self._run(self.model.preprocess(texts, prompt=self.reader.prompts[side] or None, task=side), side)

    def _run(self, features: dict[str, Any], side: Side) -> Tensor:
        features = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        out: Tensor = self.model(features, task=side)["sentence_embedding"]
        return out if self.model.truncate_dim is None else out[:, : self.model.truncate_dim]

    def check_vectors(self) -> Tensor:
        """Vectors of the check texts as `encode` makes them now, float32 [n, d]."""
        reading = self.reader.read(self._check_texts(), "document")
        with torch.inference_mode():
            return self._forward(reading, np.arange(len(reading.texts)), "document").float()

    def _alone(self) -> Tensor:
        """The check texts, each encoded in a batch of its own, [n, d] in float32."""
        with torch.inference_mode():
            return torch.cat([self._padded([text], "document") for text in self._check_texts()]).float()

    def _check_texts(self) -> list[str]:
        return check_texts(self.model, self.reader.limits["document"])

    def _try_packing(self, reference: Tensor) -> bool:
        """Whether this model gives the same vectors in packed batches; if so, it is left set up for them."""
        if self.reader.tokenizer is None:
            return False

        def packed(first: int) -> Tensor:
            self._first_position = first
            return self._packed(self.reader.read(self._check_texts(), "document").ids, "document")

        found = first_position(self.model, self.source, self.reader.limits["document"], reference, packed)
        return found is not None

    def __repr__(self) -> str:
        how = f"{self.metric}, {self.precision}, {'packed' if self.packed else 'padded'}"
        return f"TransformerEncoder({self.source!r}, {self.dimension} dimensions, {how})"


def load_encoder(name: str | Path, **settings: Any) -> TransformerEncoder:
    """A `TransformerEncoder` from a model folder, a hub name or `minilm`; also of what this package saved."""
    return TransformerEncoder(name, **settings)


def _metric(model: Any) -> Metric:
    metrics: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclidean": "euclidean"}
    name = str(model.similarity_fn_name)
    if name not in metrics:
        raise InputError(f"the model compares by {name}", f"choose one that compares by {', '.join(metrics)}")
    return metrics[name]


def _finite(values: NDArray[np.float32], name: str) -> None:
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{name} gave vectors with NaN or infinity", "the weights are damaged, or try float32")
