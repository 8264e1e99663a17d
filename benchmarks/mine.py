"""Hard negatives a second: our miner against `sentence_transformers.util.mine_hard_negatives`, and how far they agree.

python -m benchmarks.mine [--quick] [--data NAME] [--queries N] [--documents N] [--encode N] [--repeats N]

The same MiniLM vectors for all, made before the clock starts: the peer gets them from a model whose `encode` looks them
up. The same ranks, margin and number of negatives; from vectors to the finished result (ours: a column on disk; theirs:
a dataset of n-tuples with scores). Encoding is timed apart, on a sample, and added per text.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from lodesmith.core.columns import Column, ColumnWriter
from lodesmith.core.progress import track
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.records import Dataset
from lodesmith.core.vectors import Vectors
from lodesmith.data.mine import Miner, Rules
from lodesmith.encoders import TransformerEncoder, VectorCache
from lodesmith.indexes.flat import Flat
from lodesmith.recipes.mining import _mine
from lodesmith.recipes.scoring import vector_scores
from lodesmith.retrieval.dense import Dense

MODEL, SPLIT = "minilm", "train"
RULES = Rules(negatives=7, first=1, last=100, relative=0.95)


@dataclass
class World:
    """The dataset, its texts' vectors, and (query, positive) pairs."""

    dataset: Dataset
    queries: dict[str, str]
    documents: Vectors
    asked: Vectors

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Query and positive, as ids."""
        judged = self.dataset.split(SPLIT)
        return [(query, key) for query in self.queries for key, grade in judged[query].items() if grade > 0]


class Known:
    """An encoder that looks its vectors up."""

    metric: Metric = "cosine"
    fingerprint = "known"

    def __init__(self, queries: dict[str, str], vectors: Vectors) -> None:
        self.rows = {queries[key]: at for at, key in enumerate(vectors.ids)}
        self.values, self.dimension = np.asarray(vectors.values), vectors.dimension

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """The vectors of texts that are known."""
        assert side == "query"
        return Vectors.dense(self.values[[self.rows[text] for text in texts]], list(ids or map(str, range(len(texts)))))


class Peer:
    """What the peer asks of a model, over vectors that are there."""

    device = torch.device("cpu")

    def __init__(self, texts: dict[str, NDArray[np.floating]], dimension: int) -> None:
        self.texts, self.dimension = texts, dimension

    def encode_document(self, texts: list[str], **_: Any) -> NDArray[np.floating]:
        """Looked up."""
        return np.stack([self.texts[text] for text in texts])

    encode_query = encode_document

    def get_embedding_dimension(self) -> int:
        """d."""
        return self.dimension

    @staticmethod
    def similarity(queries: Any, documents: Any) -> torch.Tensor:
        """Dot products of unit vectors: less work than a model's own cosine."""
        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    @staticmethod
    def similarity_pairwise(queries: Any, documents: Any) -> torch.Tensor:
        """Row by row."""
        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(dim=1)


def world(name: str, queries: int | None, documents: int | None) -> World:
    """The first queries of the train split, and their positives among as many documents."""
    root = os.environ.get("LODESMITH_DATA", str(Path(__file__).parent.parent.parent / "shared" / "data"))
    if not (Path(root) / name).is_dir():
        raise SystemExit(f"no {name} in {root}: set LODESMITH_DATA")
    whole = Dataset.load(Path(root) / name)
    asked = dict(list(whole.queries_of(SPLIT).items())[:queries])
    judged = {query: whole.split(SPLIT)[query] for query in asked}
    needed = {key for own in judged.values() for key in own if key in whole.documents}
    spare = [key for key in whole.documents if key not in needed]
    keys = needed | set(spare[: None if documents is None else max(0, documents - len(needed))])
    held = [whole.documents[key] for key in whole.documents if key in keys]
    dataset = Dataset.of(held, asked.values(), {SPLIT: judged}, name=name)
    encoder, cache = TransformerEncoder(MODEL), VectorCache()
    rows = cache.vectors(encoder, track([(d.id, d.content) for d in held], "documents"))
    texts = {key: query.content for key, query in asked.items()}
    return World(dataset, texts, rows, cache.vectors(encoder, texts.items(), "query"))


def ours(w: World, folder: Path) -> Callable[[], Path]:
    """From vectors to a finished column."""

    def run() -> Path:
        shutil.rmtree(folder / "columns", ignore_errors=True)
        index = Flat("cosine")
        index.add(w.documents)
        encoder = Known(w.queries, w.asked)
        scores = vector_scores(encoder, w.documents)
        miner = Miner(w.dataset, SPLIT, RULES, Dense(encoder, index), scores)
        with ColumnWriter(folder, "negatives", "query", {"benchmark": "mine"}) as column:
            _mine(miner, w.queries, column)
        return folder

    return run


def theirs(w: World, *, faiss: bool, output: str = "n-tuple") -> Callable[[], Any]:
    """The peer, with its own best settings for the same job."""
    from datasets import Dataset as Rows
    from datasets.utils.logging import disable_progress_bar
    from sentence_transformers.util import mine_hard_negatives

    disable_progress_bar()
    documents = w.dataset.documents
    corpus = [document.content for document in documents.values()]
    texts = {documents[key].content: row for key, row in zip(w.documents.ids, w.documents.values, strict=True)}
    asked = {w.queries[key]: row for key, row in zip(w.asked.ids, w.asked.values, strict=True)}
    model = Peer(texts | asked, w.documents.dimension)
    rows = Rows.from_dict(
        {
            "query": [w.queries[query] for query, _ in w.pairs],
            "positive": [documents[key].content for _, key in w.pairs],
        }
    )

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return mine_hard_negatives(
                rows,
                model,  # type: ignore[arg-type]
                corpus=corpus,
                range_min=RULES.first - 1,
                range_max=RULES.last,
                relative_margin=1 - (RULES.relative or 1),
                num_negatives=RULES.negatives,
                output_format=output,  # type: ignore[arg-type]
                output_scores=True,
                use_faiss=faiss,
                verbose=False,
            )

    return run


def agreement(w: World, folder: Path, rows: Any) -> dict[str, float]:
    """Negatives of both, as texts: Jaccard similarity, and the share of ours that are theirs, means over queries."""
    column = Column.load(folder, "negatives")
    peer = {row["query"]: set(row["positive"][1:]) for row in rows}
    jaccard, share = [], []
    for query, own in column.rows.items():
        mine = {w.dataset.documents[key].content for key in own[0]["ids"]}
        other = peer.get(w.queries[query], set())
        if mine | other:
            jaccard.append(len(mine & other) / len(mine | other))
        if mine:
            share.append(len(mine & other) / len(mine))
    return {"queries": len(jaccard), "jaccard": float(np.mean(jaccard)), "ours_in_theirs": float(np.mean(share))}


def encoding(w: World, count: int) -> dict[str, float]:
    """Seconds that ours and theirs need for every text, from a sample of documents and of queries."""
    from sentence_transformers import SentenceTransformer

    encoder = TransformerEncoder(MODEL)
    peer = SentenceTransformer(str(encoder.folder), device="cpu")
    rng = np.random.default_rng(0)
    documents = [document.content for document in w.dataset.documents.values()]
    seconds = {"ours": 0.0, "peer": 0.0}
    for texts, side in ((documents, "document"), (list(w.queries.values()), "query")):
        sample = [texts[at] for at in rng.permutation(len(texts))[:count]]
        cases: dict[str, Callable[[Sequence[str], Any], Any]] = {
            "ours": encoder.encode,
            "peer": lambda some, _: peer.encode(list(some), normalize_embeddings=True, show_progress_bar=False),
        }
        for name, encode in cases.items():
            encode(sample[:8], side)
            start = time.perf_counter()
            encode(sample, side)
            seconds[name] += (time.perf_counter() - start) * len(texts) / len(sample)
    return seconds


def main(argv: list[str] | None = None) -> None:
    """Mine, compare and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 queries among 1,000 documents")
    parser.add_argument("--data", default="medquad")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--documents", type=int)
    parser.add_argument("--encode", type=int, default=512, help="texts of the encoding sample; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    if options.quick:
        options.queries, options.documents = options.queries or 300, options.documents or 1000
        options.encode, options.repeats = min(options.encode, 64), min(options.repeats, 3)
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 20
    w = world(options.data, options.queries, options.documents)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = {
            "ours": ours(w, folder),
            "sentence-transformers": theirs(w, faiss=False),
            "sentence-transformers, faiss": theirs(w, faiss=True),
        }
        seconds, _ = common.interleaved(cases, options.repeats)
        overlap = agreement(w, folder, theirs(w, faiss=True, output="labeled-list")())
        counts = Column.load(folder, "negatives").info["counts"]
    medians = common.medians(seconds)
    more: dict[str, Any] = {}
    if options.encode:
        encoded = encoding(w, options.encode)
        best = min(value for name, value in medians.items() if name != "ours")
        total = {"ours": medians["ours"] + encoded["ours"], "peer": best + encoded["peer"]}
        more["with_encoding"] = total | {"ratio": total["peer"] / total["ours"], "sample": options.encode}
    common.write(
        "mine",
        "queries/s",
        len(w.queries) / medians["ours"],
        {name: len(w.queries) / value for name, value in medians.items() if name != "ours"},
        packages=("sentence-transformers", "faiss-cpu", "torch"),
        seconds=medians,
        data={"name": w.dataset.name, "queries": len(w.queries), "documents": len(w.dataset.documents)},
        overlap=overlap,
        counts=counts,
        **more,
    )
    print(f"overlap: {overlap}")
    if more:
        print(f"with encoding: {more['with_encoding']}")


if __name__ == "__main__":
    main()
