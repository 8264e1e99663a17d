"""Small trainings from scratch, healthy ones and ailing ones, each with a fault that people really make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lodesmith.core import events
from lodesmith.core.errors import LodesmithError
from lodesmith.core.events import Event
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.triplet import Triplet
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import seed_everything

WORDS = 40
PAIRS = 192
LENGTH = 32

Texts = list[list[int]]


def texts(pairs: int = PAIRS, seed: int = 0, synonyms: bool = True) -> tuple[Texts, Texts]:
    """Documents of four to nine words, and queries that ask for three of them, with synonyms that documents never
    use: something to learn. Word 0 is the pad."""
    rng = np.random.default_rng(seed)
    documents = [rng.choice(np.arange(1, WORDS), rng.integers(4, 10), replace=False) for _ in range(pairs)]
    queries = [rng.choice(own, 3, replace=False) + WORDS * synonyms for own in documents]
    return [list(map(int, row)) for row in queries], [list(map(int, row)) for row in documents]


def padded(rows: Sequence[Sequence[int]], length: int | None = LENGTH) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 [n, length]; the longest row's where there is none given."""
    length = length or max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


class TextPairs:
    """Shuffled batches of padded pairs; a `training.Batches`."""

    def __init__(self, queries: Texts, documents: Texts, batch_size: int = 16, seed: int = 0, ids: bool = True) -> None:
        self.count, self.ids = len(queries), ids
        self.sides = {"queries": padded(queries), "documents": padded(documents)}
        self.batch_size, self.seed = batch_size, seed
        self.numbers = torch.arange(len(queries))
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for number in range(self.batch, len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            self.batch = (number + 1) % len(self)
            self.epoch += not self.batch
            batch: dict[str, Any] = {
                side: {name: tensor[rows] for name, tensor in whole.items()} for side, whole in self.sides.items()
            }
            yield batch | (dict.fromkeys(("query_ids", "document_ids"), self.numbers[rows]) if self.ids else {})

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


class Bag(nn.Module):
    """The masked mean of word vectors, and a linear layer."""

    def __init__(self, width: int = 32, out: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2 * WORDS, width, padding_idx=0)
        self.layer = nn.Linear(width, out)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mask = batch["attention_mask"][:, :, None].float()
        mean = (self.embedding(batch["input_ids"]) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.layer(mean)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An RNN over word vectors. The seed's way reads the last state after the padding, over frozen random embeddings
    whose pad row is not zero; the right way reads the last valid state."""

    def __init__(self, width: int = 32, *, valid: bool, frozen: bool) -> None:
        super().__init__()
        self.valid = valid
        self.embedding = nn.Embedding(2 * WORDS, width, padding_idx=0 if valid else None)
        self.embedding.weight.requires_grad_(not frozen)
        self.rnn = nn.RNN(width, width, batch_first=True)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        states, last = self.rnn(self.embedding(batch["input_ids"]))
        if not self.valid:
            return last[0]  # type: ignore[no-any-return]
        ends = batch["attention_mask"].sum(1).clamp(min=1) - 1
        return states[torch.arange(len(ends)), ends]  # type: ignore[no-any-return]


class Sigmoids(nn.Module):
    """Sigmoids upon sigmoids: each lets a seventh of the gradient through."""

    def __init__(self, depth: int = 9) -> None:
        super().__init__()
        self.bag = Bag()
        self.stack = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.head = nn.Linear(32, 32)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        state = self.bag(batch)
        for layer in self.stack:
            state = torch.sigmoid(layer(state))
        return self.head(state)  # type: ignore[no-any-return]


def stage(
    objective: nn.Module, batches: TextPairs, epochs: int = 20, *, optim: dict[str, Any] | None = None, **more: Any
) -> Stage:
    settings = OptimSettings.model_validate({"lr": 3e-3, "schedule": "constant", "warmup": 0, **(optim or {})})
    return Stage(name="one", objective=objective, batches=batches, optim=settings, epochs=epochs, **more)


def validation(objective: Any, pairs: int = 100, seed: int = 99, synonyms: bool = True) -> Any:
    """RR@10 of held-out queries among held-out documents."""
    queries, documents = texts(pairs, seed, synonyms)

    def validate() -> dict[str, float]:
        asked = nn.functional.normalize(objective.encoder(padded(queries)), dim=1)
        stored = nn.functional.normalize(objective.encoder(padded(documents)), dim=1)
        scores = asked @ stored.T
        ranks = (scores > scores.diagonal()[:, None]).sum(1) + 1
        return {"RR@10": float(torch.where(ranks <= 10, 1 / ranks, 0).mean())}

    return validate


def happened(plan: Stage, **options: Any) -> list[Event]:
    """All events, also those before an error."""
    torch.set_num_threads(1)
    found: list[Event] = []
    try:
        for event in fit([plan], **options):
            found.append(event)
    except LodesmithError:
        pass
    return found


def warnings(found: Sequence[Event]) -> dict[str, events.Warning]:
    """The first warning of each cause."""
    firsts: dict[str, events.Warning] = {}
    for event in found:
        if isinstance(event, events.Warning):
            firsts.setdefault(event.cause, event)
    return firsts


# ------------------------------------------------------------------------ the cases


def healthy(seed: int, kind: str = "bag") -> Stage:
    seed_everything(seed)
    batches = TextPairs(*texts(seed=seed), seed=seed)
    tower: nn.Module = Bag() if kind != "rnn" else Recurrent(valid=True, frozen=False)
    objective = Triplet(tower, negatives="batch_all") if kind == "triplet" else Contrast(tower, temperature=0.1)
    return stage(objective, batches, epochs=12, validate=validation(objective))


def seeds_collapse(seed: int = 0) -> Stage:
    """Loss = margin, for ever."""
    seed_everything(seed)
    tower = Recurrent(valid=False, frozen=True)
    return stage(Triplet(tower, margin=0.2, negatives="random"), TextPairs(*texts(seed=seed), seed=seed), epochs=6)


def easy_negatives(seed: int = 0) -> Stage:
    """Queries that are their documents: after a while no random negative violates the margin."""
    seed_everything(seed)
    _, documents = texts(seed=seed)
    return stage(Triplet(Bag(), margin=0.05, negatives="random"), TextPairs(documents, documents, seed=seed), 2)


def alone(seed: int = 0) -> Stage:
    """Batches of one example: nothing to contrast with."""
    seed_everything(seed)
    return stage(Contrast(Bag()), TextPairs(*texts(seed=seed), batch_size=1), epochs=1)


def huge_rate(seed: int = 0) -> Stage:
    """NaN or infinity within a few steps."""
    seed_everything(seed)
    optim = {"use": "sgd", "lr": 1e12, "clip": None}
    return stage(Contrast(Bag(), similarity="dot"), TextPairs(*texts(seed=seed)), optim=optim)


def no_clipping(seed: int = 0) -> Stage:
    """Norms that grow by orders of magnitude, and a loss with them."""
    seed_everything(seed)
    optim = {"use": "sgd", "lr": 0.4, "clip": None, "momentum": 0.9}
    return stage(Contrast(Bag(), similarity="dot", temperature=0.5), TextPairs(*texts(seed=seed)), optim=optim)


def sigmoids(seed: int = 0) -> Stage:
    """Gradients that die in a stack of sigmoids before they reach the words."""
    seed_everything(seed)
    groups = [{"match": "encoder.bag.*"}, {"match": "encoder.head.*"}]
    return stage(Contrast(Sigmoids()), TextPairs(*texts(seed=seed)), epochs=2, optim={"groups": groups})


def wrong_join(seed: int = 0, pairs: int = 768) -> Stage:
    """Documents in another order than their queries."""
    seed_everything(seed)
    queries, documents = texts(pairs, seed)
    order = np.random.default_rng(seed).permutation(pairs)
    batches = TextPairs(queries, [documents[row] for row in order], batch_size=32, seed=seed)
    return stage(Contrast(Bag(), temperature=0.2), batches, epochs=6, optim={"lr": 1e-3})


def dead_group(seed: int = 0) -> Stage:
    """A group that is to train, behind a detached tensor."""
    seed_everything(seed)
    tower = Bag()
    tower.embedding.register_forward_hook(lambda _m, _i, out: out.detach())
    groups = [{"match": "encoder.embedding.*"}]
    return stage(Contrast(tower), TextPairs(*texts(seed=seed)), epochs=4, optim={"groups": groups})


def frozen_in_vain(seed: int = 0) -> Stage:
    """The frozen group stands after one that takes its parameters first."""
    seed_everything(seed)
    groups = [{"match": "encoder.*", "lr": 1e-3}, {"match": "encoder.embedding.*", "freeze": True}]
    return stage(Contrast(Bag()), TextPairs(*texts(seed=seed)), epochs=1, optim={"groups": groups})


def twenty_pairs(seed: int = 0) -> Stage:
    """Learned by heart, the half of them that is wrong too, by a tower that knew better."""
    seed_everything(seed)
    objective = Contrast(Bag(64, 64), temperature=0.05)
    queries, documents = texts(20, seed, synonyms=False)
    batches = TextPairs(queries, [*documents[:10], *documents[:9:-1]], batch_size=20, seed=seed)
    validate = validation(objective, synonyms=False)
    return stage(objective, batches, 30, optim={"lr": 1e-2}, validate=validate, validate_every=5, validate_first=True)


def duplicates(seed: int = 0) -> Stage:
    """Three copies of each pair, and batches without ids."""
    seed_everything(seed)
    queries, documents = texts(32, seed)
    batches = TextPairs(queries * 3, documents * 3, batch_size=32, seed=seed, ids=False)
    return stage(Contrast(Bag(), temperature=0.1), batches, epochs=5)
