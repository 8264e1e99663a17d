"""sentence-transformers' trainer, as the training benchmarks hold it against ours."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

__all__ = ["trained"]


def trained(model: Any, pairs: Sequence[tuple[str, str]], temperature: float, **settings: Any) -> tuple[float, float]:
    """Train with MultipleNegativesRankingLoss, without logging, saving or progress; seconds and mean loss.

    Args:
        model: a `SentenceTransformer`.
        pairs: of query and document.
        temperature: of the softmax.
        settings: further arguments of the trainer.
    """
    from datasets import Dataset as Table
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    queries, documents = (list(side) for side in zip(*pairs, strict=True))
    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model,
            SentenceTransformerTrainingArguments(folder, **quiet, **settings),
            train_dataset=Table.from_dict({"anchor": queries, "positive": documents}),
            loss=MultipleNegativesRankingLoss(model, scale=1 / temperature),
        )
        metrics = trainer.train().metrics
    return float(metrics["train_runtime"]), float(metrics["train_loss"])
