"""Training on texts from a token store, with dropout. As a program it trains alone and dies, or as one of two ranks."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.data.loading import LoadedBatches
from lodesmith.data.text_batches import TextBatches, spread
from lodesmith.data.tokens import PlainTokenizer, TokenStore
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine, seed_everything

EPOCHS = 3
WORDS = 200


def _numbers(texts: Sequence[str]) -> list[list[int]]:
    return [[int(word) for word in text.split()] for text in texts]


def batches(folder: Path, shard: tuple[int, int] = (0, 1)) -> TextBatches:
    """150 pairs, three queries to most documents, two mined negatives, about 18 batches an epoch."""
    rng = np.random.default_rng(0)
    store = TokenStore(folder, PlainTokenizer(_numbers, "numbers", WORDS))
    sides = [
        store.tokens(" ".join(map(str, rng.integers(0, WORDS, rng.integers(2, longest)))) for _ in range(150))
        for longest in (8, 40)
    ]
    pairs = np.stack([np.arange(150), rng.integers(0, 60, 150)], 1)
    negatives = rng.integers(-1, 150, (150, 2))
    return TextBatches(*sides, pairs, tokens=600, negatives=negatives, shard=shard, seed=2)


class TextContrast(nn.Module):
    """InfoNCE over bags of embeddings; keeps the ids of the examples it has seen."""

    def __init__(self, known: Any) -> None:
        super().__init__()
        seed_everything(4)
        self.table = nn.EmbeddingBag(WORDS, 16)
        self.dropout = nn.Dropout(0.2)
        self.contrast = Contrast(nn.Identity(), known=known)
        self.weights = self.contrast.weights
        self.seen: list[list[list[int]]] = []

    def _embed(self, packed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        embedded: torch.Tensor = self.dropout(self.table(packed["ids"], packed["offsets"][:-1]))
        return embedded

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        self.seen.append(torch.stack([batch["query_ids"], batch["document_ids"]], 1).tolist())
        rows = {side: self._embed(batch[side]) for side in ("queries", "documents")}
        rows["negatives"] = spread(self._embed(batch["negatives"]), batch["negative_ids"])
        found: Mapping[str, torch.Tensor] = self.contrast({**batch, **rows})
        return found


def train(
    folder: Path, objective: TextContrast, made: TextBatches, workers: int, resume: bool = False
) -> Iterator[Event]:
    torch.set_num_threads(1)
    plan = Stage(
        name="texts",
        objective=objective,
        batches=LoadedBatches(made, workers),
        optim=OptimSettings(lr=0.01),
        epochs=EPOCHS,
        checkpoint_every=5,
    )
    engine = TorchEngine(seed=1, device="cpu")
    return fit([plan], checkpoints=folder / "checkpoints", resume=resume, engine=engine, log_every=1)


def bits(objective: TextContrast) -> str:
    return objective.table.weight.detach().numpy().tobytes().hex()


def die(folder: Path, store: Path, step: int, workers: int) -> None:
    """Train alone, and be killed after a step."""
    made = batches(store)
    for event in train(folder, TextContrast(made.known), made, workers):
        if isinstance(event, events.Step) and event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)


def rank(folder: Path, store: Path, step: int, workers: int) -> None:
    """As a rank: train undisturbed, then again with a stop after a step; write both results, and what was seen."""
    number, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    made = batches(store, (number, ranks))
    whole = TextContrast(made.known)
    list(train(folder / "whole", whole, made, workers))
    for event in train(folder / "stopped", TextContrast(made.known), batches(store, (number, ranks)), workers):
        if event.step == step:
            break
    resumed = TextContrast(made.known)
    list(train(folder / "stopped", resumed, batches(store, (number, ranks)), workers, resume=True))
    result = {"whole": bits(whole), "resumed": bits(resumed), "seen": whole.seen, "after": resumed.seen}
    (folder / f"rank{number}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    how, where, tokens, at, many = sys.argv[1:]
    {"die": die, "rank": rank}[how](Path(where), Path(tokens), int(at), int(many))
