"""Towers over memory tokens: one of a table, one of a small language model; and batches for them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from toy_towers import pack

from lodesmith.encoders._memory_model import Compressed, MemoryModel

WIDTH = 16
VOCABULARY = 40
COUNT = 3

Packed = Mapping[str, Tensor]


def unpacked(packed: Packed) -> list[Tensor]:
    return list(packed["ids"].split(packed["offsets"].diff().tolist()))


class TableTower(nn.Module):
    """Memory is words' vectors, turned; an answer's token is predicted from the mean of memory and question."""

    def __init__(self, words: int = VOCABULARY, width: int = WIDTH, count: int = COUNT) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.turns = nn.Parameter(torch.randn(count, width, width) / width**0.5)
        self.calls: list[str] = []

    def compress(self, packed: Packed, adapter: str = "encoder") -> Compressed:
        self.calls.append(f"compress {adapter}")
        text = torch.stack([self.table(ids).mean(0) for ids in unpacked(packed)])
        return Compressed(torch.einsum("nw,twv->ntv", text, self.turns), text)

    def losses(self, memory: Tensor, of: Tensor, questions: Packed, answers: Packed) -> Tensor:
        own = [memory[rows[rows >= 0]] for rows in of]
        return self._losses(own, questions, answers)

    def chosen_losses(self, memory: Tensor, questions: Packed, answers: Packed) -> Tensor:
        return self._losses(list(memory), questions, answers)

    def _losses(self, memory: Sequence[Tensor], questions: Packed, answers: Packed) -> Tensor:
        self.calls.append("answer")
        found = []
        for own, question, answer in zip(memory, unpacked(questions), unpacked(answers), strict=True):
            state = self.table(question).mean(0) + (own.flatten(0, 1).mean(0) if len(own) else 0)
            logits = (state @ self.table.weight.T).expand(len(answer), -1)
            found.append(nn.functional.cross_entropy(logits, answer, reduction="none"))
        return torch.cat(found)

    def begin_reasoner(self) -> None:
        self.calls.append("begin")


class ModelTower(nn.Module):
    """A random language model of two small layers with its adapters."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(3)
        shape: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape |= {"intermediate_size": 32, "max_position_embeddings": 128, "vocab_size": VOCABULARY}
        language_model = LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that it gives up
            self.inner = MemoryModel(language_model, COUNT, {"rank": 4, "dropout": dropout})
        with torch.no_grad():  # PEFT begins with adapters that change nothing, and have no gradient in one half
            for name, parameter in self.inner.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)

    def compress(self, packed: Packed, adapter: str = "encoder") -> Compressed:
        return self.inner.compress(unpacked(packed), adapter)

    def losses(
        self, memory: Tensor, of: Tensor, questions: Packed, answers: Packed, adapter: str = "decoder"
    ) -> Tensor:
        own = [[memory[row] for row in rows if row >= 0] for rows in of]
        return self._losses(own, questions, answers, adapter)

    def chosen_losses(self, memory: Tensor, questions: Packed, answers: Packed, adapter: str = "decoder") -> Tensor:
        return self._losses([list(own) for own in memory], questions, answers, adapter)

    def _losses(self, memory: Sequence[Sequence[Tensor]], questions: Packed, answers: Packed, adapter: str) -> Tensor:
        readings = [[*own, question] for own, question in zip(memory, unpacked(questions), strict=True)]
        return self.inner.answer_losses(readings, unpacked(answers), adapter)

    def begin_reasoner(self) -> None:
        self.inner.copy_adapter("encoder", "query_reasoner")


DOCUMENTS = [[4, 5, 6, 7], [8, 9], [10, 11, 12], [13, 14, 15, 16, 17], [18, 19]]
QUESTIONS = [[20, 21], [22, 23, 24], [25]]
ANSWERS = [[5], [9, 30], [31, 32, 33]]


def texts() -> dict[str, Any]:
    return {"questions": pack(QUESTIONS), "answers": pack(ANSWERS), "examples": len(QUESTIONS)}


def compressing(**more: Any) -> dict[str, Any]:
    """Three questions on one, two and no documents."""
    of = torch.tensor([[0, -1], [3, 1], [-1, -1]])
    return {**texts(), "documents": pack(DOCUMENTS), "of": of, **more}


def choosing(memory: Tensor, **more: Any) -> dict[str, Any]:
    """Three questions over four candidates each, or three."""
    candidates = torch.tensor([[0, 1, 2, 3], [4, 2, 1, -1], [3, 0, 4, 2]])
    relevant = torch.tensor([[True, False, False, False], [True, False, True, False], [False] * 4])
    return {
        **texts(),
        "memory": memory,
        "candidates": candidates,
        "relevant": relevant,
        "asked": pack(QUESTIONS),
    } | more
