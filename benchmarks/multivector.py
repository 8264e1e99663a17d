"""Late interaction over real documents: the multivector index against exact search, one query at a time.

    python -m benchmarks.multivector MODEL [DATASET …] [--queries 100] [--quick]

Documents of the datasets (SciFact and MedQuAD where none is named, from LODESMITH_DATA) are encoded by a model of
late interaction, or taken from the cache of vectors; queries are those of the datasets' test splits, in turn. Exact
search is this package's own `flat` index under maxsim; `benchmarks.maxsim` tells its speed against
sentence-transformers' scorer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write
from lodesmith.core.records import Dataset
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.encoders.corpus import VectorCache
from lodesmith.encoders.tokens import LateInteractionEncoder
from lodesmith.indexes.flat import Flat
from lodesmith.indexes.multivector import Multivector
from lodesmith.recipes.systems import load_encoder

K = 10
DATASETS = ("scifact", "medquad")


def documents(encoder: Any, datasets: list[Dataset], limit: int | None) -> Vectors:
    """Token vectors of the datasets' documents in float16, by ids that no two share."""
    items = [(f"{data.name}/{key}", one.content) for data in datasets for key, one in data.documents.items()]
    return VectorCache(dtype="float16").vectors(encoder, items[:limit], "document")


def asked(encoder: Any, datasets: list[Dataset], count: int) -> Vectors:
    """Test queries of the datasets, in turn."""
    each = [[query.content for query in data.queries_of("test").values()] for data in datasets]
    texts = [text for text in chain.from_iterable(zip_longest(*each)) if text is not None]
    return encoder.encode(texts[:count], "query")


def alone(index: Any, queries: Vectors) -> tuple[list[float], list[Run]]:
    """Milliseconds and results of each query asked by itself, after one that is not counted."""
    index.search(queries.take([0]), K)
    times, runs = [], []
    for at in range(len(queries)):
        one = queries.take([at])
        start = time.perf_counter()
        runs.append(index.search(one, K))
        times.append(1000 * (time.perf_counter() - start))
    return times, runs


def recall(found: list[Run], truth: list[Run]) -> float:
    """The mean share of the exact first ten that is found."""
    shares = []
    for mine, exact in zip(found, truth, strict=True):
        (name,) = exact.query_ids
        best = {key for key, _ in exact[name]}
        shares.append(len(best & {key for key, _ in mine[name]}) / len(best))
    return statistics.fmean(shares)


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/multivector.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a late-interaction model or run")
    parser.add_argument("datasets", nargs="*", help="dataset folders")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="500 documents and 10 queries: does it work?")
    options = parser.parse_args(argv)
    home = Path(os.environ.get("LODESMITH_DATA", "../shared/data"))
    datasets = [Dataset.load(folder) for folder in options.datasets or [home / name for name in DATASETS]]
    encoder = load_encoder(options.model)
    if not isinstance(encoder, LateInteractionEncoder):
        raise SystemExit(f"{options.model} is no late-interaction model")
    vectors = documents(encoder, datasets, 500 if options.quick else None)
    queries = asked(encoder, datasets, 10 if options.quick else options.queries)
    exact, index = Flat("maxsim"), Multivector(small=0)
    exact.add(vectors)
    index.add(vectors)
    start = time.perf_counter()
    index.build()
    built = time.perf_counter() - start
    exact_ms, truth = alone(exact, queries)
    index_ms, found = alone(index, queries)
    middle = {"exact": statistics.median(exact_ms), "multivector": statistics.median(index_ms)}
    figures = {
        "recall@10": recall(found, truth),
        "ratio": middle["exact"] / middle["multivector"],
        "p50_ms": middle,
        "p95_ms": {"exact": sorted(exact_ms)[-5:][0], "multivector": sorted(index_ms)[-5:][0]},
        "build_seconds": built,
        "report": index.report,
    }
    write(
        "multivector",
        "queries/s, one at a time",
        1000 / middle["multivector"],
        {"exact MaxSim (flat)": 1000 / middle["exact"]},
        packages=("torch", "faiss-cpu"),
        quick=options.quick,
        documents=len(vectors),
        rows=len(vectors.values),
        queries=len(queries),
        threads=torch.get_num_threads(),
        data=figures,
    )
    print(figures)


if __name__ == "__main__":
    main()
