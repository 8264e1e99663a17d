"""Exact search: `flat` against faiss's IndexFlatIP with its matrix products switched on and as many threads.

    python -m benchmarks.search [--quick]

100,000 × 384 unit vectors, 1,000 queries at once and one at a time, on two kinds of data: isotropic (random directions,
where nothing stands out: the hardest for bounds) and clustered (unequal variances, a common component, topics: like an
encoder's). Before anything is reported, every answer is compared with brute force in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import interleaved, medians, peak_memory, write
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.indexes.flat import Flat

Floats = NDArray[np.float32]
D = 384
CUTOFFS = (10, 100)
TIE = 2.0**-23
"""Scores in float64 that differ by less may be one number in float32."""


def data(kind: str, documents: int, queries: int) -> tuple[Floats, Floats]:
    """Unit vectors, seeded: documents [n, d] and queries [q, d]."""
    rng = np.random.default_rng(20)
    values = rng.standard_normal((documents + queries, D), np.float32)
    if kind == "clustered":
        spread = (1 + np.arange(D, dtype=np.float32)) ** np.float32(-0.5)
        topics = rng.standard_normal((documents // 200, D)).astype(np.float32)
        common = rng.standard_normal(D).astype(np.float32)
        values = (values + topics[rng.integers(0, len(topics), len(values))] + 0.7 * common) * spread
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values[:documents], values[documents:]


def ours(documents: Floats) -> Flat:
    """Our index, its low-precision copy made."""
    index = Flat("dot")
    index.add(Vectors.dense(documents, [str(i) for i in range(len(documents))]))
    index.search(Vectors.dense(documents[:1], ["0"]), 1)
    return index


def theirs(documents: Floats) -> Any:
    """faiss's, with matrix products for small batches too, and our number of threads."""
    import faiss
    import torch

    faiss.omp_set_num_threads(torch.get_num_threads())
    faiss.cvar.distance_compute_blas_threshold = 20
    index = faiss.IndexFlatIP(D)
    index.add(documents)
    return index


def memory_of_ours(inputs: tuple[Floats, Floats]) -> Any:
    """Index and search, for `peak_memory`."""
    index = ours(inputs[0])
    return index, index.search(batch(inputs[1]), 10)


def memory_of_theirs(inputs: tuple[Floats, Floats]) -> Any:
    """Index and search, for `peak_memory`."""
    index = theirs(inputs[0])
    return index, index.search(inputs[1], 10)


def batch(queries: Floats) -> Vectors:
    """Queries with ids."""
    return Vectors.dense(queries, [str(i) for i in range(len(queries))])


def check(run: Run, documents: Floats, queries: Floats, k: int) -> float:
    """Recall@k against brute force in float64; asserted to be 1, rank by rank, up to ties of float32."""
    wide = documents.astype(np.float64)
    hits = 0
    for start in range(0, len(queries), 50):
        scores = queries[start : start + 50].astype(np.float64) @ wide.T
        for row, exact in enumerate(scores):
            best = np.sort(np.partition(exact, len(exact) - k)[-k:])[::-1]
            found = exact[[int(name) for name, _ in run[str(start + row)]]]
            if len(found) != k or np.abs(found - best).max() > TIE:
                raise AssertionError(f"query {start + row}: not the {k} best")
            hits += int((found >= best[-1] - TIE).sum())
    return hits / (k * len(queries))


def latency(searches: dict[str, Callable[[int], Any]], count: int) -> dict[str, float]:
    """Median milliseconds of one query asked alone, the systems in turn."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for number in range(-2, count):
        for name, search in searches.items():
            start = time.perf_counter()
            search(max(number, 0))
            if number >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(kind: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """All figures for one kind of data."""
    documents, queries = data(kind, *size)
    start = time.perf_counter()
    flat = ours(documents)
    build = time.perf_counter() - start
    rival, asked = theirs(documents), batch(queries)
    result: dict[str, Any] = {"build_seconds": build, "precision": flat.precision}
    for k in CUTOFFS:
        cases = {"ours": lambda k=k: flat.search(asked, k), "faiss": lambda k=k: rival.search(queries, k)}
        seconds, returned = interleaved(cases, repeats=rounds)
        middle = medians(seconds)
        result[f"k={k}"] = {
            "queries_per_s": {name: len(queries) / value for name, value in middle.items()},
            "ratio": middle["faiss"] / middle["ours"],
            "recall": check(returned["ours"], documents, queries, k),
            "all_seconds": seconds,
        }
    alone = {
        "ours": lambda i: flat.search(asked.take([i]), 10),
        "faiss": lambda i: rival.search(queries[i : i + 1], 10),
    }
    result["one_query_ms_p50"] = latency(alone, min(100, len(queries)))
    return result


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/search.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 documents and 200 queries: does it work?")
    quick = parser.parse_args(argv).quick
    import torch

    size = (20_000, 200) if quick else (100_000, 1000)
    results = {kind: measure(kind, size, 3 if quick else 7) for kind in ("isotropic", "clustered")}
    speed = results["isotropic"]["k=10"]["queries_per_s"]
    memory = {
        "ours": peak_memory(data, memory_of_ours, "isotropic", *size),
        "faiss": peak_memory(data, memory_of_theirs, "isotropic", *size),
    }
    write(
        "search",
        "queries/s",
        speed["ours"],
        {"faiss IndexFlatIP": speed["faiss"]},
        packages=("torch", "faiss-cpu"),
        quick=quick,
        documents=size[0],
        queries=size[1],
        dimension=D,
        threads=torch.get_num_threads(),
        data=results,
        memory_mib=memory,
    )
    for kind, figures in results.items():
        for k in CUTOFFS:
            print(f"{kind} k={k}: ratio {figures[f'k={k}']['ratio']:.2f}, recall {figures[f'k={k}']['recall']}")
        print(f"{kind}: one query {figures['one_query_ms_p50']} ms")


if __name__ == "__main__":
    main()
