"""A SYSTEM by its spelling: `bm25`, `random`, `minilm`, a model, run or index folder, a TREC run file, or `A+B`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json, sha256_file
from lodesmith.core.protocols import Retriever
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.run import Run

if TYPE_CHECKING:
    from lodesmith.core.vectors import Vectors
    from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["System", "latency", "load_encoder", "resolve"]

LATENCY_QUERIES = 50
"""How many queries are asked one at a time to measure the latency."""


@dataclass(frozen=True)
class System:
    """A retriever over one dataset, with what it cost to set up.

    Args:
        cost: `encode_docs_per_s`, `index_bytes`, `parameters`, where they apply.
        timed: whether asking it single queries says something about latency.
    """

    name: str
    retriever: Retriever
    cost: Mapping[str, float | None] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    timed: bool = True


@dataclass(frozen=True)
class _Recorded:
    """A saved run as a retriever: it knows only its own queries."""

    run: Run

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        return Run.of({query: dict(self.run[query]) for query in queries if query in self.run}).top(k)


def resolve(spelling: str, dataset: Dataset, *, name: str | None = None) -> System:
    """Set up a system over a dataset: vectors come from the cache where they were encoded before.

    Raises:
        InputError: nothing is called so; the message says what was looked for.
    """
    if "+" in spelling and not Path(spelling).exists():
        return _fused(spelling, dataset, name)
    if spelling == "bm25":
        return _bm25(dataset, name or spelling)
    if spelling == "random":
        from lodesmith.retrieval.chance import Chance

        return System(name or spelling, Chance(tuple(dataset.documents)), {"index_bytes": 0})
    path = Path(spelling)
    if path.is_file():
        return System(name or path.stem, _Recorded(Run.load(path)), {}, {"run": sha256_file(path)}, timed=False)
    if (path / "manifest.json").is_file() and "generation" in read_json(path / "manifest.json"):
        return _stored(path, name)
    return _dense(spelling, dataset, name)


def _bm25(dataset: Dataset, name: str) -> System:
    from lodesmith.retrieval.bm25 import BM25

    start = time.perf_counter()
    retriever = BM25().build((key, document.content) for key, document in dataset.documents.items())
    rate = len(dataset.documents) / (time.perf_counter() - start)
    cost = {"encode_docs_per_s": rate, "index_bytes": retriever.bytes, "parameters": 0}
    return System(name, retriever, cost, {"system": retriever.fingerprint})


def _fused(spelling: str, dataset: Dataset, name: str | None) -> System:
    from lodesmith.retrieval.fuse import Fused

    parts = [resolve(part, dataset) for part in spelling.split("+")]
    return fused(parts, name or "+".join(part.name for part in parts), Fused([part.retriever for part in parts]))


def fused(parts: list[System], name: str, retriever: Retriever) -> System:
    """A system made of others: sizes add up, and so does the time to set them up."""
    costs = [part.cost for part in parts]
    rates = [cost.get("encode_docs_per_s") for cost in costs]
    cost: dict[str, float | None] = {
        "index_bytes": _total([c.get("index_bytes") for c in costs]),
        "parameters": _total([c.get("parameters") for c in costs]),
        "encode_docs_per_s": None if not all(rates) else 1 / sum(1 / rate for rate in rates if rate),
    }
    prints = {f"{part.name}.{key}": value for part in parts for key, value in part.fingerprints.items()}
    return System(name, retriever, cost, prints, timed=all(part.timed for part in parts))


def _total(values: list[float | None]) -> float | None:
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def load_encoder(name: str) -> TransformerEncoder:
    """An encoder from a model folder, a run directory, a hub name or `minilm`."""
    from lodesmith.encoders.transformer import TransformerEncoder

    path = Path(name)
    if (path / "recipe.yaml").is_file():
        if not (path / "model" / "modules.json").is_file():
            raise InputError("this run has no model yet", "finish it: lode train … --resume", path=path)
        _check_weights(path)
        path = path / "model"
        name = str(path)
    return TransformerEncoder(name)


def _check_weights(run: Path) -> None:
    """Refuse weights that training did not write."""
    from lodesmith.core.files import verify_files

    verify_files(run / "model", read_json(run / "manifest.json")["model_files"])


def _dense(spelling: str, dataset: Dataset, name: str | None) -> System:
    from lodesmith.encoders.corpus import VectorCache

    encoder = load_encoder(spelling)
    vectors = VectorCache().vectors(encoder, ((k, d.content) for k, d in dataset.documents.items()), "document")
    name = name or (Path(spelling).resolve().name if Path(spelling).exists() else spelling)
    return dense(name, encoder, vectors)


def dense(name: str, encoder: TransformerEncoder, vectors: Vectors) -> System:
    """A system from an encoder and the vectors that it gave the documents."""
    from lodesmith.retrieval.dense import Dense

    index = find("indexes", "flat")(metric=encoder.metric)
    index.add(vectors)
    cost = {
        "encode_docs_per_s": vectors.info.get("docs_per_s"),
        "index_bytes": vectors.values.size * 4,
        "parameters": encoder.parameters,
    }
    return System(name, Dense(encoder, index), cost, {"model": encoder.fingerprint})


def _stored(folder: Path, name: str | None) -> System:
    from lodesmith.recipes.storing import open_searcher

    searcher = open_searcher(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return System(name or folder.resolve().name, searcher.retriever, {"index_bytes": size}, searcher.fingerprints)


def latency(retriever: Retriever, queries: Mapping[str, str], k: int = 10) -> float | None:
    """Median milliseconds of a query asked alone, over the first queries, after one warm-up."""
    sample = list(queries.items())[:LATENCY_QUERIES]
    if not sample:
        return None
    retriever.search(dict(sample[:1]), k)
    times = []
    for query, text in sample:
        start = time.perf_counter()
        retriever.search({query: text}, k)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)
