"""The modules of a memory model for training: packed token ids → memory, and packed answers → their losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lodesmith.core.errors import InputError
from lodesmith.encoders._memory_model import Compressed
from lodesmith.encoders._packing import batches

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["MemoryTower"]


class MemoryTower(nn.Module):
    """The encoder's modules for training: packed texts → memory, and packed answers → their losses.

    Packed are `ids` int64 [total] and `offsets` int64 [n + 1].

    Args:
        encoder: whose modules these are; shared, not copied.
    """

    def __init__(self, encoder: MemoryEncoder) -> None:
        super().__init__()
        self.model = encoder.model
        self._encoder = (encoder,)  # no child: its parameters would have two names

    def compress(self, packed: Mapping[str, Tensor], adapter: str = "encoder") -> Compressed:
        """The memory of packed texts (`text_ids`), in batches of like lengths.

        Args:
            packed: n texts.
            adapter: `encoder` or `query_reasoner`.
        """
        encoder, texts = self._encoder[0], _unpacked(packed)
        groups = list(batches([encoder.width(len(text)) for text in texts], encoder.batch_tokens, padded=True))
        if len(groups) < 2:
            return self.model.compress(texts, adapter)
        made = [self.model.compress([texts[at] for at in group], adapter) for group in groups]
        back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.model.device)
        return Compressed(torch.cat([own.memory for own in made])[back], torch.cat([own.text for own in made])[back])

    def losses(
        self,
        memory: Tensor,
        of: Tensor,
        questions: Mapping[str, Tensor],
        answers: Mapping[str, Tensor],
        adapter: str | None = "decoder",
    ) -> Tensor:
        """−log p of every token of the answers, one answer after another: float32 [total].

        Args:
            memory: [n, t, H].
            of: int64 [q, k], the rows of `memory` that each question reads; −1 for none.
            questions: packed (`question_ids`).
            answers: packed (`answer_ids`).
            adapter: `decoder`; None for the language model as it was.
        """
        read = [[memory[at] for at in own if at >= 0] for own in of.tolist()]
        return self._losses(read, questions, answers, adapter)

    def chosen_losses(
        self,
        memory: Tensor,
        questions: Mapping[str, Tensor],
        answers: Mapping[str, Tensor],
        adapter: str | None = "decoder",
    ) -> Tensor:
        """`losses` where each question reads memory of its own.

        Args:
            memory: [q, k, t, H].
            questions: packed.
            answers: packed.
            adapter: see `losses`.
        """
        return self._losses([list(own) for own in memory], questions, answers, adapter)

    def _losses(
        self,
        read: Sequence[Sequence[Tensor]],
        questions: Mapping[str, Tensor],
        answers: Mapping[str, Tensor],
        adapter: str | None,
    ) -> Tensor:
        encoder, own = self._encoder[0], _unpacked(answers)
        asked = zip(read, _unpacked(questions), strict=True)
        readings = [encoder.reading(documents, question) for documents, question in asked]
        widths = [sum(map(len, parts)) + len(answer) for parts, answer in zip(readings, own, strict=True)]
        if encoder.room is not None and max(widths, default=0) > encoder.room:
            raise InputError(
                f"a prompt with its answer has {max(widths)} tokens, and the model reads {encoder.room} at most",
                "give fewer documents, a higher rate, or shorter answers",
            )
        parts: list[Tensor] = [self.model.memory.new_zeros(0)] * len(own)
        for group in batches(widths, encoder.batch_tokens, padded=True):
            chosen = [own[at] for at in group]
            found = self.model.answer_losses([readings[at] for at in group], chosen, adapter)
            sizes = [len(answer) for answer in chosen]
            for at, losses in zip(group, torch.split(found, sizes), strict=True):  # type: ignore[no-untyped-call]
                parts[at] = losses
        return torch.cat(parts) if parts else self.model.memory.new_zeros(0)

    def begin_reasoner(self) -> None:
        """Let the query reasoner begin as a copy of the compressor."""
        self.model.copy_adapter("encoder", "query_reasoner")


def _unpacked(packed: Mapping[str, Tensor]) -> list[Tensor]:
    return [packed["ids"][start:end] for start, end in pairwise(packed["offsets"].tolist())]
