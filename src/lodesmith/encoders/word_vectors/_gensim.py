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
    failure: Exception | None = None

    def train(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """As gensim's; what fails in one of its threads, which it would wait for without end, is raised here."""
        self.failure = None
        words: tuple[int, int] = super().train(*args, **kwargs)
        if self.failure is not None:
            raise self.failure
        return words

    def _do_train_job(self, sentences: Any, alpha: float, inits: Any) -> tuple[int, int]:
        if self.failure is not None:
            return 0, 0
        self.running_training_loss = 0.0
        try:
            words: tuple[int, int] = super()._do_train_job(sentences, alpha, inits)
        except Exception as error:
            self.failure = error
            return 0, 0
        self.loss += float(self.running_training_loss)
        return words

    def _job_producer(self, data_iterator: Any, job_queue: Any, **place: Any) -> None:
        try:
            super()._job_producer(data_iterator, job_queue, **place)
        except Exception as error:
            self.failure = error
            for _ in range(self.workers):
                job_queue.put(None)  # no more jobs
