"""Small doubles for tests of code that uses lodesmith: a tiny dataset, an encoder without weights, an echo."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Generated, Metric, Prompt, Side
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.vectors import Vectors

__all__ = ["EchoGenerator", "HashEncoder", "tiny_dataset"]

_ANIMALS = ("cat", "dog", "horse", "owl", "whale", "bee", "frog", "ant")
_FACTS = ("eats", "sleeps in", "fears", "likes", "follows")
_THINGS = ("apples", "a barn", "thunder", "music", "the moon", "rivers")


def tiny_dataset(documents: int = 40, seed: int = 0) -> Dataset:
    """A dataset of one-sentence documents; each judged query asks for exactly one. Splits: train, dev, test."""
    rng = np.random.default_rng(seed)
    sentences = [(a, f, t) for a in _ANIMALS for f in _FACTS for t in _THINGS]
    chosen = [sentences[i] for i in rng.permutation(len(sentences))[: min(documents, len(sentences))]]
    docs = [Document(f"d{i}", a, f"The {a} {f} {t}.") for i, (a, f, t) in enumerate(chosen)]
    queries = [Query(f"q{i}", f"{a} {t}") for i, (a, _, t) in enumerate(chosen)]
    judgements: dict[str, dict[str, dict[str, int]]] = {"train": {}, "dev": {}, "test": {}}
    for i in range(len(docs)):
        split = ("train", "train", "dev", "test")[i % 4]
        judgements[split][f"q{i}"] = {f"d{i}": 1}
    return Dataset.of(docs, queries, judgements, name="tiny")


class HashEncoder:
    """Bag of hashed words, L2-normalised: texts that share words are near. No weights, no torch."""

    metric: Metric = "cosine"

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings."""
        return fingerprint({"hash": self.dimension})

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts: float32 [n, dimension]."""
        values = np.stack([self._row(text) for text in texts]) if texts else np.zeros((0, self.dimension), np.float32)
        return Vectors.dense(values, ids or [str(i) for i in range(len(texts))], model=self.fingerprint)

    def _row(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        row = np.zeros(self.dimension, np.float32)
        for word in text.lower().split():
            digest = hashlib.blake2b(word.strip(".,").encode("utf-8", "surrogatepass"), digest_size=8).digest()
            row[int.from_bytes(digest[:4], "little") % self.dimension] += 1 if digest[4] % 2 else -1
        length = float(np.linalg.norm(row))
        return row / np.float32(length) if length else row


class EchoGenerator:
    """Answers a prompt with its own last line: at most `max_new_tokens` words of it, up to a stop string."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the name."""
        return fingerprint({"echo": 1})

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()
    ) -> list[Generated]:
        """One answer a prompt; of messages it is the last that counts."""
        return [self._answer(p if isinstance(p, str) else p[-1]["content"], max_new_tokens, stop) for p in prompts]

    def _answer(self, prompt: str, most: int, stop: Sequence[str]) -> Generated:
        text = prompt.rstrip().rpartition("\n")[2]
        for end in stop:
            text = text.partition(end)[0]
        words = text.split()
        return Generated(text) if len(words) <= most else Generated(" ".join(words[:most]), finished=False)
