"""Distillation against sentence-transformers' trainer with EmbedDistillLoss: texts/s, its teacher run or stored.

python -m benchmarks.distil [--quick] [--documents N] [--epochs N] [--static-epochs N] [--repeats N]

The teacher is MiniLM; the students are three of its layers, and word vectors. The same texts (MedQuAD where
LODESMITH_DATA has it) and batch, without weight decay; the cases in turn. A text counts once an epoch. Ours train by
the loop of the recipes, and their teacher's encoding, once and with its loading, counts in `whole` and not in `after`.
The peer computes its labels as it goes (the teacher encodes each batch, each epoch) or has them in its dataset, and
then its encoding counts in the same two ways. Ours has the recipe's .4 MSE + .6 (1 − cosine), the peer the second
alone; `losses` has the mean of 1 − cosine of each. Students of three layers take the faster of float32 and, where the
machine multiplies it, bfloat16, and all teachers that. Tokenising counts for both; building students and trainers
counts for nobody, and all keep freed memory (`core.memory`).
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from benchmarks import _peers, common
from benchmarks.towers import LONGEST, static_model, texts
from benchmarks.train import MODEL, precisions
from lodesmith.core.events import Step
from lodesmith.core.memory import keep_freed
from lodesmith.core.protocols import Side
from lodesmith.data.single_texts import SingleTexts
from lodesmith.data.tokens import FastTokenizer, Tokens, TokenStore
from lodesmith.encoders import Bag, Vocabulary
from lodesmith.encoders._finetuning import PackedEncoder
from lodesmith.encoders.student import StudentModelWithProjection
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.objectives.mimic import Mimic
from lodesmith.recipes.targets import Targets, Taught, sources
from lodesmith.training import Stage, fit
from lodesmith.training.engine import TorchEngine
from lodesmith.training.optim import OptimSettings

LAYERS = 3
BATCH = {"layers": 64, "static": 256}
RATE = {"layers": 1e-4, "static": 3e-3}

Times = dict[str, float]
"""Seconds: `encoding` of the teacher before the training, and `training`; and the mean `loss`, 1 − cosine."""


# ---------------------------------------------------------------------- our side


def three_layers(words: Vocabulary) -> tuple[nn.Module, Callable[[list[str], str], Tokens]]:
    """Three of the teacher's layers, and their tokens."""
    student = StudentModelWithProjection(None, TransformerEncoder(MODEL, precision="float32"), layers=LAYERS)
    reader = student.base.reader
    made = FastTokenizer(student.base.model[0].tokenizer, reader.limits["document"])
    return PackedEncoder(student), lambda given, folder: TokenStore(folder, made).tokens(given)


def word_vectors(words: Vocabulary) -> tuple[nn.Module, Callable[[list[str], str], Tokens]]:
    """A mean of word vectors of the teacher's dimension."""
    bag = Bag(words, dimension=384, max_length=LONGEST)
    return bag, lambda given, folder: TokenStore(folder, bag.tokenizer).tokens(given)


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """An empty cache, so that the teacher encodes."""
    before = os.environ.get("LODESMITH_CACHE")
    os.environ["LODESMITH_CACHE"] = folder
    try:
        yield
    finally:
        os.environ.pop("LODESMITH_CACHE")
        if before is not None:
            os.environ["LODESMITH_CACHE"] = before


OURS = {"layers": three_layers, "static": word_vectors}


def ours(kind: str, documents: list[str], words: Vocabulary, epochs: int, precision: str) -> Times:
    """The teacher once, then epochs from its store."""
    torch.manual_seed(0)
    student, tokens = OURS[kind](words)
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        start = time.perf_counter()
        given: dict[Side, list[str]] = {"query": [], "document": documents}
        targets = Targets(sources([MODEL], [], given), given)
        encoded = time.perf_counter()
        none, own = tokens([], folder), tokens(documents, folder)
        batches = Taught(cast(Any, SingleTexts(none, own, batch_size=BATCH[kind])), targets)
        objective = Mimic(student.train(), mse={"weight": 0.4}, cosine={"weight": 0.6})
        optim = OptimSettings(lr=RATE[kind], weight_decay=0.0, schedule="linear", warmup=0.0, lazy=kind == "static")
        stage = Stage(name="align", objective=objective, batches=batches, optim=optim, epochs=epochs)
        told = fit([stage], engine=TorchEngine(seed=0, precision=cast(Any, precision)), log_every=1)
        losses = [float(event.terms["cosine"]) for event in told if isinstance(event, Step)]
        training = time.perf_counter() - encoded
        return {"encoding": encoded - start, "training": training, "loss": float(np.mean(losses))}


# --------------------------------------------------------------------- the peer


def teacher() -> Any:
    """MiniLM as sentence-transformers runs it, in the precision that is faster here."""
    base = TransformerEncoder(MODEL, precision="float32")
    base.model.transformers_model.set_attn_implementation("sdpa")
    return base.model.eval().to(torch.bfloat16 if "bfloat16" in precisions() else torch.float32)


def peer(kind: str, documents: list[str], words: Vocabulary, epochs: int, precision: str, *, stored: bool) -> Times:
    """EmbedDistillLoss, with labels that were stored before or are computed batch by batch."""
    from datasets import Dataset as Table
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    torch.manual_seed(0)
    model, taught = _student(kind, words), teacher()
    label = partial(taught.encode, batch_size=32, show_progress_bar=False, convert_to_tensor=True)
    start = time.perf_counter()
    labels = {"label": label(documents).float().cpu().numpy()} if stored else {}
    encoding = time.perf_counter() - start
    table = Table.from_dict({"sentence": documents, **labels})
    if stored:
        table.set_format("torch", columns=["label"], output_all_columns=True)
    took, loss = _peers.fitted(
        model,
        table,
        EmbedDistillLoss(model, distance_metric="cosine"),
        None if stored else lambda rows: {"sentence": rows["sentence"], "label": list(label(rows["sentence"]))},
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH[kind],
        learning_rate=RATE[kind],
        weight_decay=0.0,
        remove_unused_columns=False,
        bf16=precision == "bfloat16",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    return {"encoding": encoding if stored else 0.0, "training": took, "loss": loss}


def _student(kind: str, words: Vocabulary) -> Any:
    if kind == "static":
        return static_model(words, 384)
    student = StudentModelWithProjection(None, TransformerEncoder(MODEL, precision="float32"), layers=LAYERS)
    student.base.model.transformers_model.set_attn_implementation("sdpa")
    return student.base.model.requires_grad_(True).train()


# -------------------------------------------------------------------- the whole


def cases(kind: str, documents: list[str], words: Vocabulary, epochs: int) -> dict[str, Callable[[], Times]]:
    """What to time, by name."""
    found: dict[str, Callable[[], Times]] = {}
    for name in precisions() if kind == "layers" else ["float32"]:
        given = (kind, documents, words, epochs, name)
        found[f"ours, {name}"] = partial(ours, *given)
        found[f"sentence-transformers, teacher each epoch, {name}"] = partial(peer, *given, stored=False)
        found[f"sentence-transformers, labels stored, {name}"] = partial(peer, *given, stored=True)
    return found


def rates(given: dict[str, Callable[[], Times]], texts_seen: int, rounds: int) -> dict[str, dict[str, float]]:
    """Texts a second of each case, by the median round (a first one of each does not count)."""
    seconds: dict[str, list[Times]] = {name: [] for name in given}
    for number in range(-1, rounds):
        for name, case in given.items():
            took = case()
            if number >= 0:
                seconds[name].append(took)
    medians = {
        name: {part: float(np.median([t[part] for t in took])) for part in took[0]} for name, took in seconds.items()
    }
    return {
        name: {
            "whole": texts_seen / (took["encoding"] + took["training"]),
            "after": texts_seen / took["training"],
            **took,
        }
        for name, took in medians.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and write results/distil_layers.json and results/distil_static.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts, one round")
    parser.add_argument("--documents", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3, help="of the three layers, as the recipe has it")
    parser.add_argument("--static-epochs", type=int, default=10, help="of the word vectors, as the recipe has it")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    if options.quick:
        options.documents, options.epochs, options.static_epochs, options.repeats = 64, 1, 2, 1
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    keep_freed()
    corpus, documents, _ = texts(options.documents, 1)
    words = Vocabulary.build(documents)
    for kind, epochs in (("layers", options.epochs), ("static", options.static_epochs)):
        found = rates(cases(kind, documents, words, epochs), epochs * len(documents), options.repeats)
        best = max(own["whole"] for name, own in found.items() if name.startswith("ours"))
        common.write(
            f"distil_{kind}",
            "texts/s, the teacher included",
            best,
            {name: own["whole"] for name, own in found.items() if not name.startswith("ours")},
            packages=("torch", "sentence-transformers", "transformers", "datasets", "accelerate"),
            rates=found,
            corpus=corpus,
            documents=len(documents),
            epochs=epochs,
            batch=BATCH[kind],
            threads=torch.get_num_threads(),
            quick=options.quick,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
