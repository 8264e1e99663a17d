"""Tokens a second into the model: batches read from the token store against tokenising again each epoch.

python -m benchmarks.batching [--quick] [--dataset medquad] [--batch-size 64] [--repeats 5]

The same pairs and the same tokenizer (MiniLM's, 256 tokens) on both sides. Ours: the token store, packed or padded,
with and without worker processes. The peer is the loader of the sentence-transformers trainer (its collator, padded),
with 0, 1 and 2 workers and with its default and its no-duplicates batch sampler; it counts at its best. Only real
tokens count, not padding. `delivered` is an epoch handed to a consumer that does nothing; `trained` is an epoch with a
small model (bags of embeddings, in-batch negatives) that takes a gradient step on each batch. Tokenising for the store
happens once and is reported beside it, and included in `first_epoch`. TOKENIZERS_PARALLELISM is left alone: unset, the
tokenizer uses all cores, and one in each worker; set to true, the peer's workers hang.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.head import load_pairs
from lodesmith.data.loading import LoadedBatches
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import TokenStore, tokenizer_of

MAX_LENGTH = 256
WIDTH = 64
WORKERS = (0, 1, 2)
SAMPLERS = ("batch_sampler", "no_duplicates")

Texts = tuple[list[str], list[str], np.ndarray]
Part = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""Padded ids with 0 for padding, or flat ids and where each text starts."""


def load_model() -> Any:
    """MiniLM, for its tokenizer and the peer's collator."""
    from lodesmith.encoders._loading import find_model, load_model

    model = load_model(find_model("minilm"), "cpu")
    model.max_seq_length = MAX_LENGTH
    return model


class Ours:
    """Batches from the store.

    Args:
        texts: queries, documents and pairs.
        model: gives the tokenizer.
        root: where the store is.
    """

    def __init__(self, texts: Texts, model: Any, root: str) -> None:
        queries, documents, self.pairs = texts
        start = time.perf_counter()
        store = TokenStore(root, tokenizer_of(model.tokenizer, MAX_LENGTH))
        self.tokens = store.tokens(queries), store.tokens(documents)
        self.tokenising = time.perf_counter() - start
        self.bytes = sum(file.stat().st_size for file in Path(root).rglob("*") if file.is_file())

    def batches(self, workers: int = 0, **options: Any) -> LoadedBatches:
        """The batches, planned for their first epoch."""
        return LoadedBatches(TextBatches(*self.tokens, self.pairs, **options), workers)


def our_parts(batch: Mapping[str, Any]) -> list[Part]:
    """Both sides of a batch of ours."""
    sides = [batch["queries"], batch["documents"]]
    return [side["input_ids"] if "input_ids" in side else (side["ids"], side["offsets"][:-1]) for side in sides]


def peer_loader(texts: Texts, model: Any, batch_size: int, workers: int, sampler: str, folder: str) -> Any:
    """The data loader of the sentence-transformers trainer."""
    from datasets import Dataset as Table
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    queries, documents, pairs = texts
    table = Table.from_dict({"anchor": [queries[q] for q, _ in pairs], "positive": [documents[d] for _, d in pairs]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        dataloader_num_workers=workers,
        dataloader_pin_memory=False,
        batch_sampler=sampler,
        use_cpu=True,
        report_to="none",
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=table, loss=MultipleNegativesRankingLoss(model)
    )
    return trainer.get_train_dataloader()


def peer_parts(batch: Mapping[str, Any]) -> list[Part]:
    """Both sides of a batch of the peer's."""
    return [batch["anchor_input_ids"], batch["positive_input_ids"]]


def real_and_all(part: Part) -> tuple[int, int]:
    """Tokens without and with padding."""
    if isinstance(part, tuple):
        return len(part[0]), len(part[0])
    return int((part != 0).sum()), part.numel()


def epoch(source: Iterable[Any], parts: Callable[[Any], list[Part]], model: torch.nn.Module | None) -> dict[str, Any]:
    """One epoch: seconds, tokens, positions (tokens with padding), pairs; with a model, a step on each batch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if model else None
    counts = {"tokens": 0, "positions": 0, "pairs": 0}
    start = time.perf_counter()
    for batch in source:
        sides = parts(batch)
        if model and optimizer:
            q, d = (model(*side) if isinstance(side, tuple) else model(side) for side in sides)
            torch.nn.functional.cross_entropy(q @ d.T, torch.arange(len(q))).backward()
            optimizer.step()
            optimizer.zero_grad()
        for side in sides:
            real, whole = real_and_all(side)
            counts["tokens"] += real
            counts["positions"] += whole
        last = sides[0]
        counts["pairs"] += len(last[1]) if isinstance(last, tuple) else len(last)
    return counts | {"seconds": time.perf_counter() - start}


def bags(vocabulary: int) -> torch.nn.EmbeddingBag:
    """The small model: id 0 is padding."""
    torch.manual_seed(0)
    return torch.nn.EmbeddingBag(vocabulary, WIDTH, mode="mean", padding_idx=0, sparse=True)


def cases_of(ours: Ours, texts: Texts, model: Any, batch_size: int, folder: str) -> dict[str, tuple[Any, Any, bool]]:
    """name → (batches, their parts, whether they are ours)."""
    cases: dict[str, tuple[Any, Any, bool]] = {}
    for workers in WORKERS:
        cases[f"ours, packed, {workers} workers"] = (ours.batches(workers, batch_size=batch_size), our_parts, True)
    cases["ours, padded, 0 workers"] = (ours.batches(0, batch_size=batch_size, padded=True), our_parts, True)
    cases["ours, packed, 16,384 tokens, 0 workers"] = (ours.batches(0, tokens=1 << 14), our_parts, True)
    for workers in WORKERS:
        for sampler in SAMPLERS:
            name = f"sentence-transformers, {sampler.replace('_', ' ')}, {workers} workers"
            loader = peer_loader(texts, model, batch_size, workers, sampler, folder)
            cases[name] = (loader, peer_parts, False)
    return cases


def main(argv: list[str] | None = None) -> int:
    """Measure and write results/batching.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pairs, one round")
    parser.add_argument("--dataset", default="medquad")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    texts = load_pairs(options.dataset, 1000 if options.quick else None)
    model = load_model()
    vocabulary = len(model.tokenizer)
    figures: dict[str, dict[str, list[float]]] = {"delivered": {}, "trained": {}}
    padding: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(texts, model, f"{folder}/store")
        cases = cases_of(ours, texts, model, options.batch_size, folder)
        for kind, table in figures.items():
            works = {
                name: partial(epoch, source, parts, bags(vocabulary) if kind == "trained" else None)
                for name, (source, parts, _) in cases.items()
            }
            for number in range(-1, 1 if options.quick else options.repeats):  # in turn; the first does not count
                for name, work in works.items():
                    made = work()
                    if number >= 0:
                        table.setdefault(name, []).append(made["tokens"] / made["seconds"])
                        padding[name] = 1 - made["tokens"] / made["positions"]
        tokens = sum(int(side.lengths(pairs).sum()) for side, pairs in zip(ours.tokens, ours.pairs.T, strict=True))
    medians = {kind: common.medians(table) for kind, table in figures.items()}
    own = [name for name, (_, _, is_ours) in cases.items() if is_ours]
    best = max(own, key=lambda name: medians["delivered"][name])
    peers = {name: value for name, value in medians["delivered"].items() if name not in own}
    trained = {name: value for name, value in medians["trained"].items() if name not in own}
    best_trained = max(medians["trained"][name] for name in own)
    common.write(
        "batching",
        "tokens/s",
        medians["delivered"][best],
        peers,
        packages=("torch", "torchdata", "tokenizers", "sentence-transformers"),
        our_setting=best,
        delivered=medians["delivered"],
        trained=medians["trained"],
        ratio_trained=best_trained / max(trained.values()),
        padding_share={name: round(value, 4) for name, value in padding.items()},
        tokenising_once={"seconds": ours.tokenising, "store_bytes": ours.bytes},
        first_epoch=tokens / (ours.tokenising + tokens / medians["delivered"][best]),
        dataset=options.dataset,
        pairs=len(ours.pairs),
        tokens_an_epoch=tokens,
        batch_size=options.batch_size,
        max_length=MAX_LENGTH,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
