"""Late interaction: the exact 100 best documents by MaxSim against sentence-transformers' scorer and a top-k.

    python -m benchmarks.maxsim [--quick]

50 queries of 32 tokens, 1,000 documents of 20 to 300, unit vectors of 128 dimensions, on two kinds of data: isotropic
(random directions, where all scores are alike: the hardest for bounds) and topical (documents and queries about
something, with words in common). Before anything is reported, ours is compared with brute force in float64, rank by
rank; theirs adds in float32, so near ties may change places there, and what differs is counted.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, medians, peak_memory, write
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.similarity.maxsim import maxsim_top

D = 128
QUERY_TOKENS = 32
DOCUMENT_TOKENS = (20, 300)
K = 100
Sides = tuple[Vectors, Vectors]


def data(kind: str, documents: int, queries: int) -> Sides:
    """Unit token vectors, seeded: queries and documents."""
    rng = np.random.default_rng(7)
    topics = 2 * rng.standard_normal((20, D)).astype(np.float32)
    vocabulary = rng.standard_normal((5000, D)).astype(np.float32)
    low, high = DOCUMENT_TOKENS
    sides = []
    for name, counts in (
        ("q", np.full(queries, QUERY_TOKENS)),
        ("d", rng.integers(low, high + 1, documents)),
    ):
        values = rng.standard_normal((int(counts.sum()), D), np.float32)
        if kind == "topical":
            values += np.repeat(topics[rng.integers(0, len(topics), len(counts))], counts, axis=0)
            values += 2 * vocabulary[rng.zipf(1.3, len(values)) % len(vocabulary)]
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        sides.append(Vectors(values, offsets, tuple(f"{name}{i}" for i in range(len(counts)))))
    return sides[0], sides[1]


def ours(sides: Sides) -> Run:
    """The exact k best."""
    return maxsim_top(*sides, K)


def split(items: Vectors) -> list[torch.Tensor]:
    """One tensor an item, as sentence-transformers takes them; nothing is copied."""
    return [torch.from_numpy(items.values[a:b]) for a, b in pairwise(items.offsets.tolist())]


def theirs(sides: Sides) -> Any:
    """All scores, then the k best, as its own semantic search does."""
    from sentence_transformers.util.similarity import maxsim

    with torch.inference_mode():
        return maxsim(split(sides[0]), split(sides[1])).topk(min(K, len(sides[1])), dim=1)


def prepared(kind: str, documents: int, queries: int) -> Sides:
    """Data, with both libraries imported and warm, so that the memory of neither is counted."""
    small = data(kind, 20, 2)
    ours(small)
    theirs(small)
    return data(kind, documents, queries)


def check(run: Run, sides: Sides) -> None:
    """Every rank against brute force in float64."""
    queries, documents = sides
    wide = documents.values.astype(np.float64)
    for number, name in enumerate(queries.ids):
        asked = queries.values[queries.offsets[number] : queries.offsets[number + 1]].astype(np.float64)
        scores = np.maximum.reduceat(asked @ wide.T, documents.offsets[:-1], axis=1).sum(axis=0).astype(np.float32)
        best = sorted(zip(scores.tolist(), documents.ids, strict=True), reverse=True)[:K]
        if run[name] != [(key, score) for score, key in best]:
            raise AssertionError(f"query {name}: not the {K} best")


def overlap(run: Run, found: Any, sides: Sides) -> dict[str, float]:
    """How many of their k best are ours, and how many ranks agree."""
    same = ranks = total = 0
    for name, row in zip(sides[0].ids, found.indices.tolist(), strict=True):
        mine, other = [key for key, _ in run[name]], [sides[1].ids[i] for i in row]
        same, total = same + len(set(mine) & set(other)), total + len(mine)
        ranks += sum(a == b for a, b in zip(mine, other, strict=True))
    return {"same_documents": same / total, "same_ranks": ranks / total}


def measure(kind: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """All figures for one kind of data."""
    sides = data(kind, *size)
    cases = {"ours": lambda: ours(sides), "sentence-transformers": lambda: theirs(sides)}
    seconds, returned = interleaved(cases, repeats=rounds)
    check(returned["ours"], sides)
    middle = medians(seconds)
    memory = {
        "ours": peak_memory(prepared, ours, kind, *size),
        "sentence-transformers": peak_memory(prepared, theirs, kind, *size),
    }
    return {
        "seconds": middle,
        "ratio": middle["sentence-transformers"] / middle["ours"],
        "all_seconds": seconds,
        "memory_mib": memory,
        "share_of_memory": memory["ours"]["extra"] / memory["sentence-transformers"]["extra"],
        "theirs_against_exact": overlap(returned["ours"], returned["sentence-transformers"], sides),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/maxsim.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 documents and 5 queries: does it work?")
    quick = parser.parse_args(argv).quick
    size = (100, 5) if quick else (1000, 50)
    results = {kind: measure(kind, size, 1 if quick else 5) for kind in ("isotropic", "topical")}
    speed = {name: size[1] / value for name, value in results["isotropic"]["seconds"].items()}
    write(
        "maxsim",
        "queries/s",
        speed["ours"],
        {"sentence-transformers maxsim": speed["sentence-transformers"]},
        packages=("torch", "sentence-transformers"),
        quick=quick,
        queries=size[1],
        documents=size[0],
        query_tokens=QUERY_TOKENS,
        document_tokens=DOCUMENT_TOKENS,
        dimension=D,
        k=K,
        threads=torch.get_num_threads(),
        data=results,
    )
    for kind, figures in results.items():
        memory = {name: found["extra"] for name, found in figures["memory_mib"].items()}
        print(
            f"{kind}: ratio {figures['ratio']:.2f}, exact, extra memory {memory} MiB, {figures['theirs_against_exact']}"
        )


if __name__ == "__main__":
    main()
