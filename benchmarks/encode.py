"""Documents a second: our encoder against sentence-transformers in float32 and with bfloat16 weights.

python -m benchmarks.encode [--quick] [--documents N] [--repeats N]

The same texts, the same threads, the cases in turn. Texts are SciFact's documents where LODESMITH_DATA has them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from lodesmith.core.records import Dataset
from lodesmith.encoders import TransformerEncoder

MODEL = "minilm"
FLOP_A_TOKEN = 2 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)
"""Matrix products of MiniLM's six layers without attention scores, floating-point operations a token."""


def texts(count: int) -> tuple[str, list[str]]:
    """Name and texts of the corpus."""
    root = os.environ.get("LODESMITH_DATA", str(Path(__file__).parent.parent.parent / "shared" / "data"))
    folder = Path(root) / "scifact"
    if folder.is_dir():
        documents = list(Dataset.load(folder).documents.values())
        chosen = np.random.default_rng(0).permutation(len(documents))[:count]
        return "scifact", [documents[at].content for at in chosen]
    words = [f"word{i}" for i in range(5000)]
    rng = np.random.default_rng(0)
    return "synthetic", [" ".join(rng.choice(words, size=int(rng.gamma(4, 40)) + 5)) for _ in range(count)]


def ours() -> Callable[[list[str]], Any]:
    """Our encoder with its default settings."""
    encoder = TransformerEncoder(MODEL)
    return lambda batch: encoder.encode(batch).values


def float32() -> Callable[[list[str]], Any]:
    """sentence-transformers as it comes."""
    return _peer(torch.float32)


def bfloat16() -> Callable[[list[str]], Any]:
    """sentence-transformers with bfloat16 weights."""
    return _peer(torch.bfloat16)


def _peer(dtype: torch.dtype) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    from lodesmith.encoders._loading import find_model

    model = SentenceTransformer(str(find_model(MODEL)), device="cpu", model_kwargs={"dtype": dtype})
    return lambda batch: model.encode(batch, convert_to_tensor=True, show_progress_bar=False).float().numpy()


CASES = {"ours": ours, "sentence-transformers float32": float32, "sentence-transformers bfloat16 weights": bfloat16}


def _work(inputs: tuple[Callable[[list[str]], Any], list[str]]) -> Any:
    encode, batch = inputs
    return encode(batch)


def _prepare(name: str, count: int) -> tuple[Callable[[list[str]], Any], list[str]]:
    encode = CASES[name]()
    encode(["warm up"])
    return encode, texts(count)[1]


def matmul_flops(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Floating-point operations a second of a matrix product of the model's size, at best."""
    a, b = torch.randn(4096, 384).to(dtype), torch.randn(384, 1536).to(dtype)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * 4096 * 384 * 1536 / (time.perf_counter() - start))
    return best


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Over the rows of two matrices."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def main(argv: list[str] | None = None) -> int:
    """Measure and write results/encode.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few documents, one round")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    count, repeats = (96, 1) if options.quick else (options.documents, options.repeats)

    corpus, batch = texts(count)
    encoder = TransformerEncoder(MODEL)
    tokens = encoder.encode(batch).info["tokens"]
    encoders = {name: make() for name, make in CASES.items()}
    seconds, vectors = common.interleaved(
        {name: (lambda encode=encode: encode(batch)) for name, encode in encoders.items()}, repeats, warmup=1
    )
    rates = {name: len(batch) / took for name, took in common.medians(seconds).items()}
    reference = vectors["sentence-transformers float32"]
    dtype = torch.float32 if encoder.precision == "float32" else torch.bfloat16
    common.write(
        "encode",
        "documents/s",
        rates["ours"],
        {name: rate for name, rate in rates.items() if name != "ours"},
        limit=matmul_flops(dtype) / FLOP_A_TOKEN / (tokens / len(batch)),
        packages=("torch", "transformers", "sentence-transformers"),
        ratios={name: rates["ours"] / rate for name, rate in rates.items() if name != "ours"},
        cosine_to_float32={name: lowest_cosine(found, reference) for name, found in vectors.items()},
        tokens_per_s={name: rate * tokens / len(batch) for name, rate in rates.items()},
        tokens_a_document=tokens / len(batch),
        precision=encoder.precision,
        packed=encoder.packed,
        threads=torch.get_num_threads(),
        corpus=corpus,
        documents=len(batch),
        seconds=seconds,
        memory_mib={name: common.peak_memory(_prepare, _work, name, count) for name in CASES},
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
