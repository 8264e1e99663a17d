"""gensim's model with a loss that can be believed. Importing this imports gensim."""

from __future__ import annotations

from typing import Any

from gensim.models import Word2Vec  # type: ignore[import-untyped]

__all__ = ["SummedLoss"]


class SummedLoss(Word2Vec):  # type: ignore[misc]
    """gensim adds up an epoch's loss in float32, which loses small terms after some millions: here it is summed in
    float64 over the jobs. The weights are the same bits. With several workers the sum is near, not exact.
    """

    loss: float = 0.0

    def _do_train_job(self, sentences: Any, alpha: float, inits: Any) -> tuple[int, int]:
        self.running_training_loss = 0.0
        words: tuple[int, int] = super()._do_train_job(sentences, alpha, inits)
        self.loss += float(self.running_training_loss)
        return words
