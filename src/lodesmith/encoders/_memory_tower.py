"""The modules of a memory model for training: packed token ids → memory, and packed answers → their losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lodesmith.core.errors import InputError
from lodesmith.encoders._memory_model import Compressed, Reading
from lodesmith.encoders._packing import batches

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["Computing", "MemoryTower"]


class Computing(Protocol):
    """What of a `MemoryModel` a training asks."""

    def compress(self, texts: Sequence[Tensor], adapter: str = "encoder") -> Compressed:
        """Texts as memory."""
        ...

    def answer_losses(self, readings: Sequence[Reading], answers: Sequence[Tensor], adapter: str | None) -> Tensor:
        """−log p of every token of the answers: float32 [total]."""
        ...

    def answer_losses_of(
        self,
        beginnings: Sequence[Reading],
        of: Sequence[int],
        questions: Sequence[Tensor],
        answers: Sequence[Tensor],
        adapter: str | None,
    ) -> Tensor | None:
        """The same of prompts that begin alike; None where that cannot be."""
        ...


class MemoryTower(nn.Module):
    """The encoder's modules for training: packed texts → memory, and packed answers → their losses.

    Packed are `ids` int64 [total] and `offsets` int64 [n + 1].

    Args:
        encoder: whose modules these are; shared, not copied.
        computing: what computes with their parameters wherever gradients are wanted; None for the model itself.
    """

    def __init__(self, encoder: MemoryEncoder, computing: Computing | None = None) -> None:
        super().__init__()
        self.model = encoder.model
        self._encoder = (encoder,)  # no child: its parameters would have two names
        self._computing = (computing or encoder.model,)

    @property
    def _computes(self) -> Computing:
        return self._computing[0] if torch.is_grad_enabled() else self.model

    def compress(self, packed: Mapping[str, Tensor], adapter: str = "encoder") -> Compressed:
        """The memory of packed texts (`text_ids`), in batches of like lengths.

        Args:
            packed: n texts.
            adapter: `encoder` or `query_reasoner`.
        """
        encoder, texts = self._encoder[0], _unpacked(packed)
        groups = list(batches([encoder.width(len(text)) for text in texts], encoder.batch_tokens, padded=True))
        if len(groups) < 2:
            return self._computes.compress(texts, adapter)
        made = [self._computes.compress([texts[at] for at in group], adapter) for group in groups]
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
        rows = [tuple(at for at in own if at >= 0) for own in of.tolist()]
        asked, own = _unpacked(questions), _unpacked(answers)
        if len(set(rows)) < len(rows):
            found = self._shared(memory, rows, asked, own, adapter)
            if found is not None:
                return found
        return self._losses([[memory[at] for at in row] for row in rows], asked, own, adapter)

    def _shared(
        self,
        memory: Tensor,
        rows: Sequence[tuple[int, ...]],
        questions: Sequence[Tensor],
        answers: Sequence[Tensor],
        adapter: str | None,
    ) -> Tensor | None:
        """The losses where several questions read the same: it is read once. None where that cannot be."""
        encoder = self._encoder[0]
        if self.model.checkpointing or encoder.alone or not all(map(len, questions)):
            return None
        nothing = torch.zeros(0, dtype=torch.int64)
        beginnings = {row: encoder.reading([memory[at] for at in row], nothing) for row in dict.fromkeys(rows)}
        lengths = {row: sum(map(len, parts)) for row, parts in beginnings.items()}
        if not all(lengths.values()):
            return None
        widths = [len(asked) + len(own) for asked, own in zip(questions, answers, strict=True)]
        self._check([lengths[row] + width for row, width in zip(rows, widths, strict=True)])
        parts: list[Tensor] = [memory.new_zeros(0)] * len(rows)
        for group in _groups(rows, lengths, widths, encoder.batch_tokens):
            place = {row: number for number, row in enumerate(dict.fromkeys(rows[at] for at in group))}
            found = self._computes.answer_losses_of(
                [beginnings[row] for row in place],
                [place[rows[at]] for at in group],
                [questions[at].to(self.model.device) for at in group],
                [answers[at] for at in group],
                adapter,
            )
            if found is None:
                return None
            _scatter(found, group, answers, parts)
        return torch.cat(parts)

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
        return self._losses([list(own) for own in memory], _unpacked(questions), _unpacked(answers), adapter)

    def _losses(
        self,
        read: Sequence[Sequence[Tensor]],
        questions: Sequence[Tensor],
        own: Sequence[Tensor],
        adapter: str | None,
    ) -> Tensor:
        encoder = self._encoder[0]
        readings = [encoder.reading(documents, asked) for documents, asked in zip(read, questions, strict=True)]
        widths = [sum(map(len, parts)) + len(answer) for parts, answer in zip(readings, own, strict=True)]
        self._check(widths)
        parts: list[Tensor] = [self.model.memory.new_zeros(0)] * len(own)
        for group in batches(widths, encoder.batch_tokens, padded=True):
            chosen = [own[at] for at in group]
            found = self._computes.answer_losses([readings[at] for at in group], chosen, adapter)
            _scatter(found, group, own, parts)
        return torch.cat(parts) if parts else self.model.memory.new_zeros(0)

    def _check(self, widths: Sequence[int]) -> None:
        room = self._encoder[0].room
        if room is not None and max(widths, default=0) > room:
            raise InputError(
                f"a prompt with its answer has {max(widths)} tokens, and the model reads {room} at most",
                "give fewer documents, a higher rate, or shorter answers",
            )

    def begin_reasoner(self) -> None:
        """Let the query reasoner begin as a copy of the compressor."""
        self.model.copy_adapter("encoder", "query_reasoner")


def _groups(
    rows: Sequence[tuple[int, ...]], lengths: Mapping[tuple[int, ...], int], widths: Sequence[int], budget: int
) -> Iterator[list[int]]:
    """Questions that are asked at once: of beginnings of one length, of widths that are alike to a factor of two, those
    of one beginning together, and with their beginnings, each padded to the longest, no more tokens than the budget."""
    first = {row: number for number, row in enumerate(dict.fromkeys(rows))}

    def kind(at: int) -> tuple[int, int]:
        return lengths[rows[at]], widths[at].bit_length()

    for _, alike in groupby(sorted(range(len(rows)), key=lambda at: (*kind(at), first[rows[at]], at)), kind):
        group: list[int] = []
        for at in alike:
            longest = max(widths[own] for own in (*group, at))
            if group and (len(group) + 1) * (lengths[rows[at]] + longest) > budget:
                yield group
                group = []
            group.append(at)
        yield group


def _scatter(found: Tensor, group: Sequence[int], answers: Sequence[Tensor], parts: list[Tensor]) -> None:
    """Put the losses of some answers, one answer after another, where these belong."""
    sizes = [len(answers[at]) for at in group]
    for at, losses in zip(group, torch.split(found, sizes), strict=True):  # type: ignore[no-untyped-call]
        parts[at] = losses


def _unpacked(packed: Mapping[str, Tensor]) -> list[Tensor]:
    return [packed["ids"][start:end] for start, end in pairwise(packed["offsets"].tolist())]
