"""Training over a transformer against sentence-transformers' trainer: pairs/s, fine-tuned whole and over a frozen base.

python -m benchmarks.train [--quick] [--pairs N] [--batch N] [--epochs N] [--repeats N] [--memory N,N]

The same MiniLM, pairs, batch, in-batch negatives and dropout (the model's own); the cases in turn; pairs of MedQuAD
where LODESMITH_DATA has it. Each side takes the faster of float32 and, where the machine multiplies it, bfloat16. Ours
train by the loop of the recipes. Tokenising counts for both, as the library does it while it trains; building models
and trainers counts for nobody, and all keep freed memory (`core.memory`).

Over a frozen base ours read stored vectors: the first encoding is reported by itself, and the whole corpus as
negatives too. `memory` is the peak of one step of gradient caching at each batch size, in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from benchmarks import _peers, common
from benchmarks.towers import Pairs, texts
from lodesmith.core.events import Step
from lodesmith.core.memory import keep_freed, return_freed
from lodesmith.core.vectors import Vectors
from lodesmith.data.batching import PairBatches
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import FastTokenizer, TokenStore
from lodesmith.encoders._finetuning import PackedEncoder
from lodesmith.encoders._precision import multiplies_bfloat16
from lodesmith.encoders.projected import IsotropicGaussianEncoder
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.objectives._cached import Cached
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import Stage, fit
from lodesmith.training.engine import TorchEngine
from lodesmith.training.optim import OptimSettings

MODEL = "minilm"
TEMPERATURE = 0.05
CHUNK = 32
Precision = Any


def precisions() -> list[str]:
    """What is worth trying here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ["float32", *(["bfloat16"] if multiplies_bfloat16(device) else [])]


def loop(objective: nn.Module, batches: Any, epochs: int, precision: Precision, lr: float) -> float:
    """Train by the recipes' loop; the mean loss."""
    optim = OptimSettings(lr=lr, schedule="linear", warmup=0.0)
    stage = Stage(name="contrast", objective=objective, batches=batches, optim=optim, epochs=epochs)
    told = fit([stage], engine=TorchEngine(seed=0, precision=precision), log_every=1)
    return float(np.mean([float(event.total or 0) for event in told if isinstance(event, Step)]))


# ---------------------------------------------------------------------- our side


def tunable() -> IsotropicGaussianEncoder:
    """Base and projection, both trained."""
    torch.manual_seed(0)
    return IsotropicGaussianEncoder(None, TransformerEncoder(MODEL, precision="float32"), False, kind="residual_linear")


def token_batches(encoder: IsotropicGaussianEncoder, pairs: Pairs, batch: int, folder: str) -> TextBatches:
    """The pairs as packed token ids."""
    reader = encoder.base.reader
    store = TokenStore(folder, FastTokenizer(encoder.base.model[0].tokenizer, reader.limits["document"]))
    sides = [store.tokens(side) for side in zip(*pairs, strict=True)]
    numbers = np.repeat(np.arange(len(pairs))[:, None], 2, 1)
    return TextBatches(*sides, numbers, batch_size=batch, noise=10.0, apart=False)


def full_ours(pairs: Pairs, batch: int, epochs: int, precision: str, chunk: int | None = None) -> tuple[float, float]:
    """Seconds and mean loss of full fine-tuning."""
    encoder = tunable()
    tower: nn.Module = PackedEncoder(encoder)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        batches = token_batches(encoder, pairs, batch, folder)
        objective = Contrast(Cached(tower, chunk) if chunk else tower, temperature=TEMPERATURE, known=batches.known)
        loss = loop(objective, batches, epochs, precision, 2e-5)
        return time.perf_counter() - start, loss


def stored(pairs: Pairs, documents: list[str]) -> tuple[list[Vectors], float]:
    """Vectors of queries, of their documents and of further documents; and the seconds it took."""
    base = TransformerEncoder(MODEL)
    base.encode(["warm up"])
    start = time.perf_counter()
    sides = [base.encode(list(side), kind) for side, kind in zip(zip(*pairs, strict=True), KINDS, strict=True)]
    found = [*sides, base.encode(documents)]
    return found, time.perf_counter() - start


KINDS: tuple[Any, Any] = ("query", "document")


def frozen_ours(vectors: list[Vectors], batch: int, epochs: int, *, corpus: bool = False) -> tuple[float, float]:
    """Seconds and mean loss over stored vectors, against the batch or against every document."""
    torch.manual_seed(0)
    queries, positives, others = vectors
    encoder = IsotropicGaussianEncoder(None, TransformerEncoder(MODEL), kind="residual_linear")
    values = np.concatenate([positives.values, others.values]) if corpus else positives.values
    rows = Vectors.dense(values, [str(at) for at in range(len(values))])
    numbers = np.repeat(np.arange(len(queries))[:, None], 2, 1)
    start = time.perf_counter()
    settings: dict[str, Any] = {"corpus": True} if corpus else {}
    batches = PairBatches(numbers, queries, rows, batch_size=batch, seed=0, known=numbers, **settings)
    negatives = cast(Any, "corpus" if corpus else "batch")
    objective = Contrast(encoder.projection, temperature=TEMPERATURE, known=numbers, negatives=negatives)
    loss = loop(objective, batches, epochs, "float32", 3e-4)
    return time.perf_counter() - start, loss


# --------------------------------------------------------------------- the peer


def peer(pairs: Pairs, batch: int, epochs: int, precision: str, *, frozen: bool) -> tuple[float, float]:
    """Seconds and mean loss of sentence-transformers' trainer with MultipleNegativesRankingLoss."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(0)
    base = TransformerEncoder(MODEL, precision="float32")
    base.model.transformers_model.set_attn_implementation("sdpa")
    model = SentenceTransformer(modules=[*base.model.requires_grad_(not frozen), _identity(Dense, base.dimension)])
    return _peers.trained(
        model,
        pairs,
        TEMPERATURE,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        learning_rate=3e-4 if frozen else 2e-5,
        bf16=precision == "bfloat16",
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _identity(dense: Any, width: int) -> Any:
    """A linear layer that begins as ours does."""
    layer = dense(width, width, activation_function=nn.Identity())
    layer.load_state_dict({"linear.weight": torch.eye(width), "linear.bias": torch.zeros(width)})
    return layer


# ----------------------------------------------------------------------- memory


def one_step(inputs: tuple[int, int | None]) -> Any:
    """Forward and backward of one batch of pairs of 128 tokens."""
    batch, chunk = inputs
    encoder = tunable().train()
    tower: nn.Module = PackedEncoder(encoder)
    ids = torch.randint(1000, 20_000, (batch * 128,), generator=torch.Generator().manual_seed(0))
    side = {"ids": ids, "offsets": torch.arange(0, batch * 128 + 1, 128)}
    objective = Contrast(Cached(tower, chunk) if chunk else tower, temperature=TEMPERATURE)
    terms = objective({"queries": side, "documents": side})
    terms["infonce"].backward()
    return encoder


def ready(batch: int, chunk: int | None) -> tuple[int, int | None]:
    """What a step is given; the model is loaded once before, so that the libraries do not count.

    Freed memory goes back, as in the recipes wherever gradients are cached.
    """
    return_freed()
    one_step((2, None))
    return batch, chunk


def memory(sizes: list[int]) -> dict[str, dict[str, float]]:
    """MiB of one step at each batch size in chunks, and at the smallest at once."""
    cases = {f"batch {size}, chunks of {CHUNK}": (size, CHUNK) for size in sizes}
    cases[f"batch {sizes[0]}, at once"] = (sizes[0], 0)
    return {name: common.peak_memory(ready, one_step, size, chunk or None) for name, (size, chunk) in cases.items()}


# -------------------------------------------------------------------- the whole

Case = Callable[[], tuple[float, float]]


def rates(cases: dict[str, tuple[Case, int]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Pairs a second (the median of the rounds; a first one of each does not count) and mean loss of each case."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    losses: dict[str, float] = {}
    for number in range(-1, rounds):
        for name, (case, _) in cases.items():
            took, losses[name] = case()
            if number >= 0:
                seconds[name].append(took)
    return {name: cases[name][1] / took for name, took in common.medians(seconds).items()}, losses


def full_cases(pairs: Pairs, batch: int, epochs: int) -> dict[str, tuple[Case, int]]:
    """Full fine-tuning, in each precision."""
    count, cases = epochs * len(pairs), {}
    for name in precisions():
        cases[f"ours, {name}"] = (lambda p=name: full_ours(pairs, batch, epochs, p), count)
        cases[f"sentence-transformers, {name}"] = (lambda p=name: peer(pairs, batch, epochs, p, frozen=False), count)
    cases[f"ours in chunks of {CHUNK}, float32"] = (lambda: full_ours(pairs, batch, epochs, "float32", CHUNK), count)
    return cases


def frozen_cases(pairs: Pairs, vectors: list[Vectors], batch: int, epochs: int) -> dict[str, tuple[Case, int]]:
    """Over a frozen base; ours pass over the pairs more often, so that there is something to time."""
    count, many = epochs * len(pairs), 20 * epochs
    cases: dict[str, tuple[Case, int]] = {
        "ours": (lambda: frozen_ours(vectors, batch, many), 20 * count),
        "ours, negatives: corpus": (lambda: frozen_ours(vectors, batch, epochs, corpus=True), count),
    }
    for name in precisions():
        cases[f"sentence-transformers, {name}"] = (lambda p=name: peer(pairs, batch, epochs, p, frozen=True), count)
    return cases


def report(name: str, found: dict[str, float], **extra: Any) -> None:
    """Write results/NAME.json: the best of ours in the batch against the best of the peer."""
    peers = {case: rate for case, rate in found.items() if case.startswith("sentence-transformers")}
    own = [rate for case, rate in found.items() if case in {"ours", *(f"ours, {p}" for p in precisions())}]
    packages = ("torch", "sentence-transformers", "transformers", "datasets", "accelerate")
    common.write(name, "pairs/s", max(own), peers, packages=packages, rates=found, **extra)
    print("  " + ", ".join(f"{case} {rate:,.1f}" for case, rate in found.items()))


def main(argv: list[str] | None = None) -> int:
    """Measure and write results/train_full.json and results/train_frozen.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pairs, one round")
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=lambda told: [int(size) for size in told.split(",")], default=[64, 256, 1024])
    options = parser.parse_args(argv)
    if options.quick:
        options.pairs, options.documents, options.batch, options.repeats, options.memory = 32, 64, 16, 1, [64, 128]
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    keep_freed()
    corpus, documents, pairs = texts(options.documents, options.pairs)
    described = {"corpus": corpus, "batch": options.batch, "pairs": len(pairs), "epochs": options.epochs}
    described |= {"threads": torch.get_num_threads(), "quick": options.quick}
    found, losses = rates(full_cases(pairs, options.batch, options.epochs), options.repeats)
    report("train_full", found, losses=losses, memory=memory(options.memory), **described)
    vectors, seconds = stored(pairs, documents)
    full_peer = max(rate for case, rate in found.items() if case.startswith("sentence-transformers"))
    found, losses = rates(frozen_cases(pairs, vectors, options.batch, options.epochs), options.repeats)
    encoding = {"seconds": seconds, "texts_per_s": sum(map(len, vectors)) / seconds}
    ratio = found["ours"] / full_peer
    report("train_frozen", found, losses=losses, first_encoding=encoding, ratio_to_full_peer=ratio, **described)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
