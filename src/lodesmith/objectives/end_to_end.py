"""End to end: which documents to read is learned from the answers alone (CLaRa, arXiv 2511.18659)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.losses.straight_through import straight_through_top_k
from lodesmith.objectives._memory import Read, check_encoders, check_weights, mean, mean_of_documents, tower_of
from lodesmith.similarity.aligned import aligned

__all__ = ["EndToEnd"]


class EndToEnd(nn.Module):
    """A question is compressed by the query reasoner, its candidates are scored by the cosine of the flattened memory
    tokens, and the k best are read: the loss on the answer reaches the scores through `losses.straight_through`.

    A batch is a mapping: `memory` float [n, t, H], made before by a compressor that is frozen, or `documents`, packed
    token ids of n documents; `candidates` int64 [q, m], the rows that each of q questions chooses among, −1 for none;
    `asked`, packed token ids of the questions as texts; `questions` and `answers`, packed token ids of q texts each;
    `relevant` bool [q, m] for the term `retrieval`. `document_ids` is as that of `Compress`.

    The terms: `answer`, the mean of −log p over the answers' tokens of all ranks; `retrieval`, the mean over questions
    that have a relevant candidate of −log Σ softmax(scores / temperature) at the relevant ones; `mse`, as that of
    `Compress`, where the batch has `documents`.

    Args:
        encoder: what compresses, asks and answers, such as `encoders.memory.MemoryTower`.
        document_encoder: none; one model does it all.
        answer: weight of the term; with 0 nothing is read nor answered, and with a weight of `retrieval` it is the
            supervised control.
        retrieval: weight of the term; with 0 no label is used.
        mse: weight of the term.
        documents: k, the slots, each of which takes one candidate.
        candidates: m, for what makes the batches, as is `kinds`.
        kinds: of examples, such as `qa`, the judged questions; null for all that there are.
        temperature: divides the scores.
        known: not used: the batch says what is relevant.

    Raises:
        ConfigError: a setting is out of range, or neither `answer` nor `retrieval` has a weight.
    """

    reads = "answers"
    """What its batches have beside documents."""
    similarity = "aligned"

    def __init__(  # noqa: PLR0913 - two encoders and the options, all by name
        self,
        encoder: nn.Module,
        document_encoder: nn.Module | None = None,
        *,
        answer: float = 1.0,
        retrieval: float = 0.0,
        mse: float = 0.0,
        documents: int = 5,
        candidates: int = 20,
        kinds: Sequence[str] | None = None,
        temperature: float = 0.02,
        known: NDArray[Any] | None = None,
    ) -> None:
        super().__init__()
        check_encoders(document_encoder, "end_to_end")
        if not temperature > 0:
            raise ConfigError(f"the temperature must be above 0, not {temperature}")
        if not 1 <= documents <= candidates:
            raise ConfigError(
                f"{documents} documents cannot be chosen among {candidates} candidates", "give at least as many"
            )
        if kinds is not None and not kinds:
            raise ConfigError("kinds is empty", "name some, or leave it at null for all")
        weights = {"answer": answer, "retrieval": retrieval, "mse": mse}
        self.weights = check_weights("end_to_end", weights, ("answer", "retrieval"))
        self.encoder = encoder
        self.documents, self.candidates, self.kinds, self.temperature = documents, candidates, kinds, temperature
        self._first: torch.Tensor | None = None

    def begin(self) -> None:
        """The query reasoner begins as a copy of the compressor."""
        tower_of(self.encoder).begin_reasoner()

    @property
    def evidence(self) -> Mapping[str, torch.Tensor]:
        """What the last training batch says beside its loss: `recall@1`, the share of the questions with a relevant
        candidate whose best candidate is one."""
        return {} if self._first is None else {"recall@1": self._first}

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms of a batch by name.

        Raises:
            InputError: the batch has neither documents nor memory, a question has fewer candidates than are read, or
                nothing says which are relevant.
        """
        tower = tower_of(self.encoder)
        read = Read.of(batch, tower)
        candidates = batch["candidates"]
        valid = candidates >= 0
        scores = self.scores(batch, read.memory)
        terms = {}
        if "answer" in self.weights:
            weights, chosen = straight_through_top_k(scores, self.documents, self.temperature, valid)
            memory = _chosen(read.memory, candidates, weights, chosen)
            terms["answer"] = mean(
                tower.chosen_losses(memory, batch["questions"], batch["answers"]), together=self.training
            )
        if "relevant" in batch and self.training:
            self._first = _first(scores, valid, batch["relevant"])
        if "retrieval" in self.weights:
            if "relevant" not in batch:
                raise InputError("a batch does not say which candidates are relevant", "set retrieval to 0")
            losses = _negated_log_share(scores / self.temperature, valid, batch["relevant"])
            terms["retrieval"] = mean(losses, together=self.training)
        if "mse" in self.weights and read.apart is not None:
            terms["mse"] = mean_of_documents(read.apart, batch.get("document_ids"), together=self.training)
        return terms

    def scores(self, batch: Mapping[str, Any], memory: torch.Tensor) -> torch.Tensor:
        """The cosine of each question with each of its candidates: float32 [q, m], of no meaning where there is none.

        Args:
            batch: `asked` and `candidates`.
            memory: float32 [n, t, H].
        """
        asked = tower_of(self.encoder).compress(batch["asked"], adapter="query_reasoner").memory.float()
        return aligned(asked, memory).gather(1, batch["candidates"].clamp(min=0))


def _chosen(
    memory: torch.Tensor, candidates: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor
) -> torch.Tensor:
    """The memory that each slot reads: [q, k, t, H], to the bit that of the candidate it took, with the gradient of the
    weighted sum over the candidates.

    Args:
        memory: float32 [n, t, H].
        candidates: int64 [q, m], rows of it; −1 for none.
        weights: [q, k, m], one-hot.
        chosen: int64 [q, k], positions among the candidates.
    """
    taken = memory[candidates.gather(1, chosen)]
    with torch.autocast(memory.device.type, enabled=False):
        places = candidates.clamp(min=0)[:, None, :].expand_as(weights)
        spread = weights.new_zeros(*weights.shape[:2], len(memory)).scatter_add(2, places, weights)
        soft = (spread.flatten(0, 1) @ memory.detach().flatten(1)).view_as(taken)
    return taken + (soft - soft.detach())


def _negated_log_share(logits: torch.Tensor, valid: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    """−log of what the softmax over the candidates gives the relevant ones, for each row that has any: [rows]."""
    relevant = relevant & valid
    some = relevant.any(1)
    logits, valid, relevant = logits[some], valid[some], relevant[some]
    whole = logits.masked_fill(~valid, -torch.inf).logsumexp(1)
    return whole - logits.masked_fill(~relevant, -torch.inf).logsumexp(1)


def _first(scores: torch.Tensor, valid: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor | None:
    """The share of the rows with a relevant candidate whose best one is relevant; None where no row has any."""
    relevant = relevant & valid
    best = scores.detach().masked_fill(~valid, -torch.inf).argmax(1, keepdim=True)
    some = relevant.any(1)
    return relevant.gather(1, best)[some].float().mean() if bool(some.any()) else None
