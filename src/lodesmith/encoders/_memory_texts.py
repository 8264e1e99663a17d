"""Texts as the token ids that a memory model reads, its memory as `Vectors`, and what it writes as texts: whatever
library computes between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.protocols import Generated
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._memory_folder import MemorySettings
from lodesmith.encoders._memory_model import ADAPTERS
from lodesmith.encoders._memory_prompt import PromptPieces
from lodesmith.encoders._packing import batches
from lodesmith.encoders._reading import clean

__all__ = ["Document", "MemoryTexts", "check_adapter"]

Document = NDArray[np.floating] | str
"""What is read of a document: memory [t, H], or the text."""


class MemoryTexts:
    """Reads texts for a memory model.

    Args:
        tokenizer: of transformers, fast.
        ends: ids that end a text, the tokenizer's own first.
        settings: of the model.
        dimension: H, of a memory token.
        room: tokens that the model reads at most; None where it names no limit.

    Raises:
        ConfigError: a document with its memory tokens is longer than the model can read.
        InputError: the chat template loses a part of the prompt, or cannot be filled.
    """

    def __init__(
        self, tokenizer: Any, ends: Sequence[int], settings: MemorySettings, dimension: int, room: int | None
    ) -> None:
        settings.check_room(room)
        self.tokenizer, self.ends, self.settings = tokenizer, list(ends), settings
        self.dimension, self.room = dimension, room
        self.pieces = PromptPieces(tokenizer, settings.prompt, settings.separator, self.ends[0])

    # -------------------------------------------------------------------- to ids

    def tokens(self, text: str, most: int | None = None) -> Tensor:
        """A text's own tokens, as a prompt holds them: int64 ids [l], at most so many; None for document_length."""
        limit = self.settings.document_length if most is None else most
        return torch.tensor(self.pieces.tokens(clean([text]), limit)[0][:limit], dtype=torch.int64)

    def read(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
        """What is compressed of texts.

        Args:
            texts: clean ones.

        Returns:
            int64 ids [l] of each, between the tokens that begin and end a text, if there are such; and of which texts
            something was cut off.
        """
        limit, begin, end = self.settings.document_length, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        before, behind = ([] if token is None else [int(token)] for token in (begin, end))
        found = self.pieces.tokens(texts, limit)
        ids = [np.asarray([*before, *own[:limit], *behind], np.int64) for own in found]
        return ids, np.asarray([len(own) > limit for own in found], np.bool_)

    def width(self, length: int) -> int:
        """Tokens that the model reads to compress so many: the mark and the memory tokens too."""
        return length + 1 + self.settings.count

    def question(self, text: str) -> Tensor:
        """The rest of the prompt behind the documents, with a question in it: int64 ids [l]."""
        return self.pieces.question(clean([text])[0])

    def answer(self, text: str, most: int | None = None) -> Tensor:
        """An answer with its end: int64 ids [l], at most so many."""
        return self.pieces.answer(clean([text])[0], most)

    def reading(self, documents: Sequence[Tensor], question: Tensor) -> list[Tensor]:
        """A prompt in parts, none empty.

        Args:
            documents: states [t, H], or int64 ids [l]; none for a closed book.
            question: of `question`.
        """
        parts = [self.pieces.head]
        for number, document in enumerate(documents):
            parts += [self.pieces.separator, document] if number else [document]
        return [part for part in (*parts, question) if len(part)]

    def readings(
        self, questions: Sequence[str], documents: Sequence[Sequence[Document]], new: int, text_tokens: int | None
    ) -> tuple[list[list[Tensor]], list[int]]:
        """The prompt of each question in parts, on the CPU, and how many tokens it comes to with its answer.

        Args:
            questions: texts.
            documents: of each question what is read.
            new: the most tokens of an answer.
            text_tokens: tokens that are read of a document that is a text; None for document_length.

        Raises:
            InputError: questions and documents are not the same number, a document is no memory of this model, or a
                prompt has no token, or more than the model can read.
            ConfigError: a number is out of range.
        """
        if new < 1 or (text_tokens is not None and text_tokens < 0):
            raise ConfigError(f"max_new_tokens {new}, text_tokens {text_tokens}", "give at least 1, and at least 0")
        if len(questions) != len(documents):
            raise InputError(f"questions and documents are not the same number: {len(questions)} != {len(documents)}")
        found = [
            self.reading([self._part(document, text_tokens) for document in own], self.question(question))
            for question, own in zip(questions, documents, strict=True)
        ]
        widths = [sum(map(len, parts)) + new for parts in found]
        self._check(widths, new)
        return found, widths

    def _part(self, document: Document, most: int | None) -> Tensor:
        if isinstance(document, str):
            return self.tokens(document, most)
        if (shape := tuple(np.shape(document))) != (self.settings.count, self.dimension):
            raise InputError(
                f"a document is {list(shape)}, and memory of this model [{self.settings.count}, {self.dimension}]",
                "encode the documents with this model",
            )
        return torch.from_numpy(np.array(document, np.float32))

    def _check(self, widths: Sequence[int], new: int) -> None:
        if min(widths, default=new + 1) <= new:
            raise InputError("a prompt has no token", "ask something")
        if self.room is not None and max(widths, default=0) > self.room:
            raise InputError(
                f"a prompt has {max(widths) - new} tokens, and with {new} new ones that is more than the model's "
                f"{self.room}",
                "give fewer documents or less of each, a shorter question, or fewer new tokens",
            )

    # ------------------------------------------------------------------ from ids

    def vectors(
        self,
        values: NDArray[np.float32],
        names: tuple[str, ...],
        rows: Sequence[NDArray[np.int64]],
        truncated: NDArray[np.bool_],
        info: dict[str, Any],
    ) -> Vectors:
        """Memory as vectors, t rows an item.

        Args:
            values: [n, t, H].
            names: the items' ids.
            rows: their ids, of `read`.
            truncated: of which something was cut off.
            info: what made them; `encoder` is named where they are damaged.

        Raises:
            NotFiniteError: there is NaN or infinity among them.
        """
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{info['encoder']} gave vectors with NaN or infinity", "the weights are damaged")
        info = info | {
            "truncated": float(truncated.mean()) if names else 0.0,
            "cut": [names[at] for at in np.flatnonzero(truncated).tolist()],
            "tokens": sum(map(len, rows)),
        }
        offsets = np.arange(len(names) + 1, dtype=np.int64) * self.settings.count
        return Vectors(values.reshape(-1, self.dimension), offsets, names, info)

    def written(
        self, widths: Sequence[int], budget: int, new: int, write: Callable[[list[int]], Sequence[Sequence[int]]]
    ) -> list[Generated]:
        """What is written after prompts, batch by batch.

        Args:
            widths: tokens of each prompt with its answer.
            budget: tokens a batch, padding among them.
            new: the most tokens of an answer: one with as many was cut off.
            write: positions of prompts → the ids that are written after each.
        """
        found: list[Generated] = [Generated("")] * len(widths)
        for group in batches(widths, budget, padded=True):
            for at, ids in zip(group, write(group.tolist()), strict=True):
                text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
                found[at] = Generated(text, len(ids) < new)
        return found


def check_adapter(adapter: str | None) -> None:
    """Refuse what is no adapter.

    Raises:
        ConfigError: it is none.
    """
    if adapter not in (None, *ADAPTERS):
        raise ConfigError(f"there is no adapter {adapter!r}", f"choose {', '.join(ADAPTERS)}, or None")
