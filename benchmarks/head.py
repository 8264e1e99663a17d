"""Training pairs a second with a frozen base: our loop over stored vectors against the sentence-transformers trainer.

python -m benchmarks.head [--quick] [--dataset scifact] [--batch-size 64] [--repeats 3]

Both train the same head (one linear layer on MiniLM) on the same pairs with in-batch negatives, the base frozen in
both. The peer runs in float32 and in bfloat16 autocast and counts at its best; its first step, which sets things up,
does not count. Texts are cut at 128 tokens for the peer, which favours it, and at the model's own limit for us.
Beside it: the figure with our first encoding included, over the epochs of the shipped recipe, and the peer's full
fine-tuning.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from lodesmith.core import events
from lodesmith.core.records import Dataset
from lodesmith.data.batching import PairBatches
from lodesmith.encoders import ProjectionLayer, TransformerEncoder
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine

MODEL = "minilm"
EPOCHS = 20
"""Of the shipped recipe."""
PEER_TOKENS = 128
PEERS = {
    "sentence-transformers, frozen base, float32": (True, False),
    "sentence-transformers, frozen base, bfloat16 autocast": (True, True),
    "sentence-transformers, full, float32": (False, False),
    "sentence-transformers, full, bfloat16 autocast": (False, True),
}


def load_pairs(name: str, limit: int | None) -> tuple[list[str], list[str], np.ndarray]:
    """Texts of queries and documents, and the training pairs as rows: int64 [p, 2]."""
    root = os.environ.get("LODESMITH_DATA", str(Path(__file__).parent.parent.parent / "shared" / "data"))
    dataset = Dataset.load(Path(root) / name)
    queries: dict[str, int] = {}
    documents: dict[str, int] = {}
    judged = ((q, d) for q, own in dataset.split("train").items() for d, grade in own.items() if grade > 0)
    pairs = [(queries.setdefault(q, len(queries)), documents.setdefault(d, len(documents))) for q, d in judged][:limit]
    used_queries, used_documents = (1 + max(side) for side in zip(*pairs, strict=True))
    query_texts = [dataset.queries[q].content for q in list(queries)[:used_queries]]
    document_texts = [dataset.documents[d].content for d in list(documents)[:used_documents]]
    return query_texts, document_texts, np.asarray(pairs, np.int64)


def ours(vectors: tuple[Any, Any, np.ndarray], batch_size: int, epochs: int, kind: str = "residual_linear") -> float:
    """Pairs a second over whole epochs, from the first batch to the last step."""
    queries, documents, pairs = vectors
    torch.manual_seed(0)
    width = queries.shape[1]
    batches = PairBatches(pairs, queries, documents, batch_size=batch_size)
    stage = Stage(
        name="contrast",
        objective=Contrast(ProjectionLayer(width, width, kind=kind), known=pairs),
        batches=batches,
        optim=OptimSettings(),
        epochs=epochs,
    )
    happened = fit([stage], engine=TorchEngine(device="cpu"), log_every=len(batches))
    first = next(happened)  # the first epoch sets things up
    start = time.perf_counter()
    last = [event for event in happened if isinstance(event, events.Step)][-1]
    took = time.perf_counter() - start
    return (epochs - first.epoch) * len(pairs) / took if last.epoch == epochs else float("nan")


def peer(
    texts: tuple[list[str], list[str], np.ndarray], batch_size: int, steps: int, frozen: bool, bf16: bool
) -> float:
    """Pairs a second of the sentence-transformers trainer, over `steps` steps after the first."""
    from datasets import Dataset as Table
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    from lodesmith.encoders._loading import find_model

    class Clock(TrainerCallback):
        """Notes when each step ended."""

        ends: list[float] = []  # noqa: RUF012 - one clock a run

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    Clock.ends = []
    queries, documents, pairs = texts
    rows = np.resize(np.arange(len(pairs)), batch_size * (steps + 1))
    table = Table.from_dict(
        {"anchor": [queries[q] for q, _ in pairs[rows]], "positive": [documents[d] for _, d in pairs[rows]]}
    )
    model = SentenceTransformer(str(find_model(MODEL)), device="cpu")
    model.max_seq_length = PEER_TOKENS
    width = int(model.get_embedding_dimension() or 0)
    if frozen:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    model.append(Dense(width, width, activation_function=torch.nn.Identity()))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            max_steps=steps + 1,
            bf16=bf16,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=table,
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[Clock()],
        )
        trainer.train()
    return steps * batch_size / (Clock.ends[-1] - Clock.ends[0])


def encoded(texts: tuple[list[str], list[str], np.ndarray]) -> tuple[tuple[Any, Any, np.ndarray], float]:
    """The stored vectors of both sides, and the seconds that encoding them once takes."""
    queries, documents, pairs = texts
    encoder = TransformerEncoder(MODEL)
    encoder.encode(documents[:2])
    start = time.perf_counter()
    vectors = encoder.encode(queries, "query").values, encoder.encode(documents).values, pairs
    return vectors, time.perf_counter() - start


def _our_inputs(name: str, limit: int | None) -> tuple[Any, Any, np.ndarray]:
    queries, documents, pairs = load_pairs(name, limit)
    rng = np.random.default_rng(0)  # memory does not depend on the values
    shape = (len(queries), 384), (len(documents), 384)
    return rng.standard_normal(shape[0], np.float32), rng.standard_normal(shape[1], np.float32), pairs


def _our_work(vectors: tuple[Any, Any, np.ndarray]) -> float:
    return ours(vectors, 64, 3)


def _peer_work(texts: tuple[list[str], list[str], np.ndarray]) -> float:
    return peer(texts, 64, 1, True, False)


def main(argv: list[str] | None = None) -> int:
    """Measure and write results/head.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pairs, one round")
    parser.add_argument("--dataset", default="scifact")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    repeats, limit, steps = (1, 200, 1) if options.quick else (options.repeats, None, 4)
    batch_size = options.batch_size

    texts = load_pairs(options.dataset, limit)
    vectors, encoding = encoded(texts)
    cases: dict[str, Any] = {
        "ours": lambda: ours(vectors, batch_size, EPOCHS),
        "ours, batch 256": lambda: ours(vectors, 256, EPOCHS),
        "ours, two layers": lambda: ours(vectors, batch_size, EPOCHS, "mlp"),
    }
    cases |= {name: (lambda how=how: peer(texts, batch_size, steps, *how)) for name, how in PEERS.items()}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):  # in turn, so that a slow minute hits all of them
        for name, case in cases.items():
            rates[name].append(case())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    pairs = len(vectors[2])
    frozen = {name: medians[name] for name, (is_frozen, _) in PEERS.items() if is_frozen}
    full = {name: medians[name] for name, (is_frozen, _) in PEERS.items() if not is_frozen}
    included = EPOCHS * pairs / (encoding + EPOCHS * pairs / medians["ours"])
    common.write(
        "head",
        "pairs/s",
        medians["ours"],
        frozen,
        packages=("torch", "transformers", "sentence-transformers", "accelerate"),
        full_fine_tuning=full,
        ratio_to_full_fine_tuning=medians["ours"] / max(full.values()),
        encoding_included={
            "pairs_per_s": included,
            "ratio": included / max(frozen.values()),
            "epochs": EPOCHS,
            "encoding_s": encoding,
            "texts": len(texts[0]) + len(texts[1]),
        },
        medians=medians,
        rates=rates,
        dataset=options.dataset,
        pairs=pairs,
        batch_size=batch_size,
        peer_tokens=PEER_TOKENS,
        threads=torch.get_num_threads(),
        memory_mib={
            "ours": common.peak_memory(_our_inputs, _our_work, options.dataset, limit),
            "sentence-transformers, frozen base, float32": common.peak_memory(
                load_pairs, _peer_work, options.dataset, limit
            ),
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
