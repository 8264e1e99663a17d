"""A memory model on MLX from texts to memory and answers, over mlx-lm's quantised language models too."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError
from lodesmith.core.files import read_object
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Generated, Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._identity import digest_of, plain
from lodesmith.encoders._language_model import ends_of, load_tokenizer
from lodesmith.encoders._memory_model import NEARER
from lodesmith.encoders._memory_texts import Document, MemoryTexts, check_adapter
from lodesmith.encoders._packing import batches
from lodesmith.encoders._reading import named

__all__ = ["MLXMemoryEncoder"]


class MLXMemoryEncoder:
    """What `MemoryEncoder` makes of texts, computed by MLX: memory tokens, and answers from them.

    It reads what torch does not: language models that mlx-lm has quantised. `model` computes, and gives gradients;
    `texts` makes token ids for it.

    Args:
        base_model: hub name or folder of a llama or qwen2 of transformers or mlx-lm, which gets new adapters; or a
            folder that `save` or `MemoryEncoder.save` wrote, whose settings are then its own.
        rate: tokens of a document that one memory token stands for; None for 16.
        document_length: tokens of a document that are read; None for 256.
        lora: of the adapters: `rank` (16), `alpha` (32), `dropout` (0.1), `layers` (`all-linear`).
        prompt: what the generator reads, with {documents} and {question}; the user's message where the model has a chat
            template.
        separator: between two documents in the prompt; None for a line's end.
        precision: `float32` or `bfloat16`, of what is not quantised.
        batch_tokens: tokens a batch, padding among them.

    Raises:
        InputError: the model is not there, is none that MLX is built for here, or has no fast tokenizer.
        ConfigError: a setting is out of range, or not that of a saved model.
        IntegrityError: a saved model's files, or those of the language model under it, are not those that were written.
        MissingExtraError: mlx is not installed.
    """

    metric: Metric = "aligned"

    def __init__(  # noqa: PLR0913 - those of MemoryEncoder that count here
        self,
        base_model: str | Path,
        *,
        rate: int | None = None,
        document_length: int | None = None,
        lora: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        separator: str | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        batch_tokens: int = 4096,
    ) -> None:
        from lodesmith.encoders._mlx_memory import MLXMemoryModel

        if precision not in ("float32", "bfloat16") or batch_tokens < 1:
            raise ConfigError(
                f"precision {precision!r} and batch_tokens {batch_tokens} cannot be used",
                "choose float32 or bfloat16, and at least 1",
            )
        given: dict[str, Any] = {"rate": rate, "document_length": document_length, "lora": lora}
        self.source, self.precision, self.batch_tokens = str(base_model), precision, batch_tokens
        self.model = MLXMemoryModel.load(base_model, dtype=precision, prompt=prompt, separator=separator, **given)
        opened = self.model.opened
        assert opened is not None  # it came from a folder
        self.opened, self.settings = opened, opened.settings
        config, tokenizer = self.model.language_model.config, load_tokenizer(opened.base)
        ends = ends_of(tokenizer, config.words, _ends(opened.base), opened.base)
        self.texts = MemoryTexts(tokenizer, ends, self.settings, config.width, config.room)
        self._lock = threading.RLock()

    @property
    def dimension(self) -> int:
        """H, of a memory token."""
        return self.model.dimension

    @property
    def count(self) -> int:
        """t, memory tokens of a text."""
        return self.model.count

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all weights as they are now, and every setting that changes a vector or an answer. Never that of
        a `MemoryEncoder`, whose figures differ in the last digits."""
        own = self.settings
        weights = {f"{part}.{name}": w for part, named in self.model.parameters.items() for name, w in named.items()}
        return fingerprint(
            {
                "arrays": "mlx",
                "base": dict(self.opened.digests),
                "weights": digest_of({name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()}),
                "precision": self.precision,
                "reads": ["from the words' mean", NEARER],
                "settings": plain([own.rate, own.document_length, dict(own.lora), own.prompt, own.separator]),
            }
        )

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Compress texts; long ones are cut to document_length.

        Args:
            texts: any strings; the empty one too.
            side: documents go through the compressor, queries through the query reasoner once that has begun to train.
            ids: the items' ids; "0", "1", … where None.

        Returns:
            float32 vectors, t rows an item; `info` as that of `MemoryEncoder.encode`.

        Raises:
            InputError: ids and texts are not the same number.
            NotFiniteError: the weights give NaN or infinity.
        """
        texts, names = named(texts, ids)
        rows, truncated = self.texts.read(texts)
        values = self._compressed(rows, "query_reasoner" if side == "query" and self.model.reasons else "encoder")
        info = {"encoder": self.source, "model": self.fingerprint, "side": side, "metric": self.metric}
        return self.texts.vectors(values, names, rows, truncated, info)

    def _compressed(self, rows: Sequence[NDArray[np.int64]], adapter: str) -> NDArray[np.float32]:
        """The memory [n, t, H] of texts as ids."""
        values = np.zeros((len(rows), self.count, self.dimension), np.float32)
        with self._still():
            for group in batches([self.texts.width(len(row)) for row in rows], self.batch_tokens, padded=True):
                values[group] = np.array(self.model.compress([rows[at] for at in group], adapter).memory)
        return values

    def answer(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[Document]],
        *,
        adapter: str | None = "decoder",
        max_new_tokens: int = 32,
        text_tokens: int | None = None,
    ) -> list[Generated]:
        """Write an answer to each question, greedily, from its documents.

        Args:
            questions: texts.
            documents: of each question what is read: memory [t, H], or texts; none for a closed book.
            adapter: `decoder`; None for the language model as it was.
            max_new_tokens: of an answer.
            text_tokens: tokens that are read of a document that is a text; None for document_length.

        Returns:
            Answers, `finished` False where max_new_tokens cut one off. None depends on the other questions.

        Raises:
            InputError: questions and documents are not the same number, a document is no memory of this model, or a
                prompt is longer than the model can read.
            ConfigError: a setting is out of range.
        """
        check_adapter(adapter)
        readings, widths = self.texts.readings(questions, documents, max_new_tokens, text_tokens)
        ends = self.texts.ends

        def write(group: Sequence[int]) -> list[list[int]]:
            read = [[part.numpy() for part in readings[at]] for at in group]
            return self.model.generate(read, adapter, most=max_new_tokens, ends=ends, pad=ends[0])

        with self._still():
            return self.texts.written(widths, self.batch_tokens, max_new_tokens, write)

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Without dropout inside the block, whoever trains the model."""
        with self._lock:
            before, self.model.training = self.model.training, False
            try:
                yield
            finally:
                self.model.training = before

    def save(self, folder: Path | str) -> Path:
        """Write a folder that loads here, and as `MemoryEncoder` where torch reads the language model; whole or not at
        all."""
        return self.model.save(folder)

    def __repr__(self) -> str:
        how = f"{self.count} × {self.dimension} of {self.settings.document_length} tokens, {self.precision}"
        return f"MLXMemoryEncoder({self.source!r}, {how})"


def _ends(folder: Path) -> list[Any]:
    """The ids that a folder's configurations name as ends of a text."""
    files = (folder / "generation_config.json", folder / "config.json")
    return [read_object(file).get("eos_token_id") for file in files if file.is_file()]
