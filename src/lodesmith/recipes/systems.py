"""A SYSTEM by its spelling: `bm25`, `random`, `minilm`, a model, run or index folder, a TREC run file, `A+B`, or
`A+rerank:MODEL`.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object, sha256_file, verify_files
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import SEVERAL, Encoder, Metric, Retriever
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.run import Run
from lodesmith.recipes._document_vectors import document_vectors
from lodesmith.recipes._fusion import Fusion, fusion_of
from lodesmith.recipes._hybrid_folder import hybrid_of, hybrid_system
from lodesmith.recipes._run_folder import STAGES

if TYPE_CHECKING:
    from lodesmith.core.vectors import Vectors
    from lodesmith.retrieval.dense import Searched
    from lodesmith.retrieval.rerank import CrossEncoder

__all__ = ["Resolver", "System", "latency", "load_encoder", "resolve"]

TOWERS = "lodesmith.json"
"""The file by which a model folder of towers is known."""
LATENCY_QUERIES = 50
"""How many queries are asked one at a time to measure the latency."""
_LATENCY_SECONDS = 30.0
"""How long that may take: a slow system is asked fewer."""
_MEMORY_SHARE = 0.25
"""The most of the machine's memory that an index may take for a corpus to be held. What is free says little: files
that were read count as used in a container."""
_RERANK = re.compile(r"rerank:(?:([0-9]+):)?")


@dataclass(frozen=True)
class System:
    """A retriever over one dataset, with what it cost to set up.

    Args:
        cost: `encode_docs_per_s`, `index_bytes`, `parameters`, where they apply.
        timed: whether asking it single queries says something about latency.
        vectors: the documents', where it has them.
        reads: whether what it finds depends on a query's text: a recorded run knows its id alone.
    """

    name: str
    retriever: Retriever
    cost: Mapping[str, float | None] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    timed: bool = True
    vectors: Vectors | None = None
    reads: bool = True


@dataclass(frozen=True)
class _Recorded:
    """A saved run as a retriever: it knows only its own queries."""

    run: Run

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        return Run.of({query: dict(self.run[query]) for query in queries if query in self.run}).top(k)


class Resolver:
    """Sets up systems over one dataset; parts that several systems share are set up once."""

    def __init__(self, dataset: Dataset, passages: int | None = None, *, dtype: str = "float32") -> None:
        self.dataset, self.passages, self.dtype = dataset, passages, dtype
        self._known: dict[str, System] = {}
        self._encoders: dict[str, CrossEncoder] = {}

    def resolve(self, spelling: str) -> System:
        """The system of this spelling. Vectors come from the cache where they were encoded before.

        Raises:
            InputError: nothing is called so; the message says what was looked for.
        """
        if spelling not in self._known:
            self._known[spelling] = self._set_up(spelling)
        return self._known[spelling]

    def _set_up(self, spelling: str) -> System:
        if not spelling.strip():
            raise InputError("the name of a system is empty", "give bm25, random, minilm, a folder, or A+B")
        path = Path(spelling)
        if ("+" in spelling or _RERANK.match(spelling)) and not path.exists():
            return self._fused(spelling)
        if spelling == "bm25":
            return self._bm25()
        if spelling == "random":
            from lodesmith.retrieval.chance import Chance

            return System(spelling, Chance(tuple(self.dataset.documents)), {"index_bytes": 0, "parameters": 0})
        if path.is_file():
            return System(
                path.stem, _Recorded(Run.load(path)), {}, {"run": sha256_file(path)}, timed=False, reads=False
            )
        if routed := hybrid_of(spelling):
            return hybrid_system(self, *routed)
        return _stored(path) if _is_index(path) else self._encoded(spelling)

    def _encoded(self, spelling: str) -> System:
        """A model; of a run without labels BM25 beside it, fused as training chose."""
        manifest = Path(spelling) / "manifest.json"
        is_run = manifest.is_file() and manifest.with_name("recipe.yaml").is_file()
        fusion = fusion_of(manifest.parent) if is_run else None
        encoded = self._dense(spelling)
        return encoded if fusion is None else self._beside_bm25(encoded, fusion)

    def _beside_bm25(self, encoded: System, fusion: Fusion) -> System:
        from lodesmith.retrieval.bm25 import BM25
        from lodesmith.retrieval.fuse import Standardised, Weight, covered

        lexical = self.resolve("bm25")
        words = cast(BM25, lexical.retriever)

        def weights(queries: Mapping[str, str], runs: Sequence[Run]) -> Sequence[Weight]:
            return covered(fusion.weight, words.coverage(queries, runs[0]), fusion.reference)

        retriever = Standardised((words, encoded.retriever), weights, fusion.depth)
        found = fused([lexical, encoded], encoded.name)
        prints = dict(found.fingerprints) | {"fusion": fingerprint(dict(fusion.told))}
        return replace(found, retriever=retriever, fingerprints=prints, vectors=encoded.vectors)

    def _bm25(self) -> System:
        from lodesmith.retrieval.bm25 import BM25

        start = time.perf_counter()
        retriever = BM25().build((key, document.content) for key, document in self.dataset.documents.items())
        rate = len(self.dataset.documents) / (time.perf_counter() - start)
        cost = {"encode_docs_per_s": rate, "index_bytes": retriever.bytes, "parameters": 0}
        return System("bm25", retriever, cost, {"system": retriever.fingerprint})

    def _fused(self, spelling: str) -> System:
        """From left to right: `rerank:` takes all that stands before it, fused, as its candidates."""
        parts: list[System] = []
        for part in _parts(spelling):
            if not (rerank := _RERANK.match(part)):
                parts.append(self.resolve(part))
            elif rerank.end() == len(part):
                raise InputError(f"{part!r} names no cross-encoder", "give its folder or hub name: bm25+rerank:MODEL")
            elif parts:
                parts = [self._reranked(_joined(parts), part[rerank.end() :], rerank[1])]
            else:
                raise InputError(f"{part!r} has nothing to re-rank", "say whose results: bm25+rerank:MODEL")
        return _joined(parts)

    def _reranked(self, candidates: System, model: str, depth: str | None) -> System:
        from lodesmith.recipes.scoring import cross_encoder
        from lodesmith.retrieval.rerank import DEPTH, Reranked

        if model not in self._encoders:
            self._encoders[model] = cross_encoder(model)
        encoder, documents = self._encoders[model], self.dataset.documents
        count = DEPTH if depth is None else int(depth)
        retriever = Reranked(candidates.retriever, encoder, lambda key: documents[key].content, count)
        cost = dict(candidates.cost) | {
            "parameters": _total([candidates.cost.get("parameters"), encoder.parameters]),
            "rerank_depth": count,
        }
        name = "rerank:" + ("" if count == DEPTH else f"{count}:") + encoder.name
        prints = dict(candidates.fingerprints) | {f"{name}@{count}": encoder.fingerprint}
        return System(f"{candidates.name}+{name}", retriever, cost, prints, candidates.timed, None, candidates.reads)

    def _dense(self, spelling: str) -> System:
        encoder = load_encoder(spelling, self.passages)
        name = Path(spelling).resolve().name if Path(spelling).exists() else spelling
        vectors = document_vectors(spelling, encoder, self.dataset.documents, self.dtype, folder=self.dataset.folder)
        return dense(name, encoder, vectors)


def _parts(spelling: str) -> list[str]:
    """The parts between the plus signs; a path that has one in its name stays whole, after `rerank:` too."""
    words = spelling.split("+")
    parts, at = [], 0
    while at < len(words):
        ends = range(len(words), at, -1)
        end = next((e for e in ends if e == at + 1 or _is_path("+".join(words[at:e]))), at + 1)
        parts.append("+".join(words[at:end]))
        at = end
    return parts


def parts_of(spelling: str) -> list[str]:
    """The parts of a system's spelling; one, where it is the path of something."""
    return [spelling] if Path(spelling).exists() else _parts(spelling)


def _is_path(part: str) -> bool:
    return Path(_RERANK.sub("", part, count=1) if _RERANK.match(part) else part).exists()


def _joined(parts: list[System]) -> System:
    return parts[0] if len(parts) == 1 else fused(parts, "+".join(part.name for part in parts))


def resolve(spelling: str, dataset: Dataset, passages: int | None = None) -> System:
    """The system of this spelling over a dataset; `passages` splits long documents into windows of so many tokens."""
    return Resolver(dataset, passages).resolve(spelling)


def renamed(system: System, name: str) -> System:
    """The same system under another name."""
    return replace(system, name=name)


def _is_index(path: Path) -> bool:
    if (path / "system.json").is_file():
        return True
    return (path / "manifest.json").is_file() and "generation" in read_object(path / "manifest.json")


def fused(parts: list[System], name: str) -> System:
    """Systems fused by reciprocal rank: sizes add up, and so does the time to set them up."""
    from lodesmith.retrieval.fuse import Fused

    retriever = Fused([part.retriever for part in parts])
    costs = [part.cost for part in parts]
    rates = [cost.get("encode_docs_per_s") for cost in costs]
    cost: dict[str, float | None] = {
        "index_bytes": _total([c.get("index_bytes") for c in costs]),
        "parameters": _total([c.get("parameters") for c in costs]),
        "encode_docs_per_s": None if not all(rates) else 1 / sum(1 / rate for rate in rates if rate),
    }
    prints = {f"{part.name}.{key}": value for part in parts for key, value in part.fingerprints.items()}
    timed, reads = (all(getattr(part, name) for part in parts) for name in ("timed", "reads"))
    return System(name, retriever, cost, prints, timed, None, reads)


def _total(values: list[float | None]) -> float | None:
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def load_encoder(name: str, passages: int | None = None) -> Encoder:
    """An encoder from a model folder, a run directory, a hub name or `minilm`.

    Args:
        name: which.
        passages: split documents into windows of so many tokens, a quarter of them shared with the next.

    Raises:
        InputError: there is none.
        IntegrityError: it is of a run, or of a run's stage, and its weights are not those that training wrote.
    """
    from lodesmith.encoders._loading import MEMORY, find_model, is_late, is_memory
    from lodesmith.encoders._page_models import is_pages
    from lodesmith.encoders.tokens import LateInteractionEncoder
    from lodesmith.encoders.transformer import Passages, TransformerEncoder

    path = Path(name)
    if (path / "recipe.yaml").is_file():
        if not any((path / "model" / name).is_file() for name in ("modules.json", "config.json", MEMORY)):
            raise InputError("this run has no model yet", "finish it: lode train … --resume", path=path)
        if read_object(path / "manifest.json").get("model_files") is None:
            raise InputError("this run is not finished", "finish it: lode train … --resume", path=path)
        path = path / "model"
        name = str(path)
    _check_weights(path)
    if (path / TOWERS).is_file():
        return _towers(path, passages)
    if is_memory(folder := find_model(name)):
        from lodesmith.encoders.memory import MemoryEncoder

        if passages:
            raise InputError(f"{name}: a compressor reads whole documents", "leave --passages out")
        return MemoryEncoder(name)
    if is_pages(folder):
        from lodesmith.encoders.patches import PageEncoder

        if passages:
            raise InputError(f"{name}: a page is read whole", "leave --passages out")
        return PageEncoder(name)
    if is_late(folder):
        if passages:
            raise InputError(f"{name}: a late-interaction model reads whole documents", "leave --passages out")
        return LateInteractionEncoder(name)
    return TransformerEncoder(name, passages=Passages(passages, passages // 4) if passages else None)


def model_of(name: str) -> str:
    """The model folder of a run directory; any other name as it is."""
    path = Path(name)
    return str(path / "model") if (path / "recipe.yaml").is_file() else name


def _towers(path: Path, passages: int | None) -> Encoder:
    from lodesmith.encoders import load_tower

    if passages:
        raise InputError("a tower reads whole documents", "leave --passages out", path=path)
    encoder: Encoder = load_tower(path)
    return encoder


def _check_weights(folder: Path) -> None:
    """Refuse weights that training did not write, where the folder is a run's `model`, or the model of a stage.

    Raises:
        IntegrityError: a file is not the one that the run's manifest names.
    """
    folder = folder.resolve()
    stage = folder.parent.name == STAGES
    run = folder.parents[1] if stage else folder.parent
    if not all((run / name).is_file() for name in ("recipe.yaml", "manifest.json")):
        return
    told = read_object(run / "manifest.json")
    files = told.get("stage_files") if stage else {"model": told.get("model_files")}
    if isinstance(files, dict) and isinstance(own := files.get(folder.name), dict):
        verify_files(folder, own)


def dense(name: str, encoder: Encoder, vectors: Vectors) -> System:
    """A system from an encoder and the vectors that it gave the documents.

    Where an index of them would take much of the memory, they are searched block by block from the disk; as each search
    then reads all of them, single queries are not timed.
    """
    from lodesmith.retrieval.dense import Dense

    index, held = _searched(vectors, encoder.metric)
    cost = {
        "encode_docs_per_s": vectors.info.get("docs_per_s"),
        "index_bytes": vectors.values.size * (vectors.values.itemsize if encoder.metric in SEVERAL else 4),
        "parameters": parameters_of(encoder),
        "truncated": vectors.info.get("truncated"),
    }
    return System(name, Dense(encoder, index), cost, {"model": encoder.fingerprint}, timed=held, vectors=vectors)


def _searched(vectors: Vectors, metric: Metric) -> tuple[Searched, bool]:
    """What searches the vectors, and whether it holds them in memory."""
    from lodesmith.indexes._streamed import Streamed
    from lodesmith.recipes._machine import memory

    index = find("indexes", "flat")(metric=metric)
    if index.bytes_for(vectors) > _MEMORY_SHARE * memory()["total"]:
        return Streamed(vectors, metric), False
    index.add(vectors)
    return index, True


def parameters_of(encoder: Encoder) -> int:
    """How many parameters an encoder has."""
    total = getattr(encoder, "parameters_total", None)
    return int(getattr(encoder, "parameters", 0) if total is None else total)


def _stored(folder: Path) -> System:
    from lodesmith.recipes.storing import open_searcher

    searcher = open_searcher(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return System(folder.resolve().name, searcher.retriever, {"index_bytes": size}, searcher.fingerprints)


def latency(retriever: Retriever, queries: Mapping[str, str], k: int = 10) -> float | None:
    """Median milliseconds of a query asked alone, over the first queries, after one warm-up; as many as half a minute
    takes, at least three.
    """
    sample = list(queries.items())[:LATENCY_QUERIES]
    if not sample:
        return None
    retriever.search(dict(sample[:1]), k)
    times: list[float] = []
    for query, text in sample:
        if len(times) >= 3 and sum(times) > _LATENCY_SECONDS * 1000:
            break
        start = time.perf_counter()
        retriever.search({query: text}, k)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)
