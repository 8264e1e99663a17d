"""sentence-transformers' trainer, as the training benchmarks hold it against ours."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

__all__ = ["fitted", "trained"]


def trained(model: Any, pairs: Sequence[tuple[str, str]], temperature: float, **settings: Any) -> tuple[float, float]:
    """Train with MultipleNegativesRankingLoss; seconds and mean loss.

    Args:
        model: a `SentenceTransformer`.
        pairs: of query and document.
        temperature: of the softmax.
        settings: further arguments of the trainer.
    """
    from datasets import Dataset as Table
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    queries, documents = (list(side) for side in zip(*pairs, strict=True))
    table = Table.from_dict({"anchor": queries, "positive": documents})
    return fitted(model, table, MultipleNegativesRankingLoss(model, scale=1 / temperature), **settings)


def fitted(model: Any, table: Any, loss: Any, transform: Any = None, **settings: Any) -> tuple[float, float]:
    """Train without logging, saving or progress; seconds and mean loss.

    Args:
        model: a `SentenceTransformer`.
        table: of `datasets`, with the columns that the loss reads.
        loss: of sentence-transformers.
        transform: of the table's rows while it trains, and not while the trainer is built.
        settings: further arguments of the trainer.
    """
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(folder, **quiet, **settings)
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=table, loss=loss)
        if transform is not None:
            trainer.train_dataset.set_transform(transform)
        metrics = trainer.train().metrics
    return float(metrics["train_runtime"]), float(metrics["train_loss"])
