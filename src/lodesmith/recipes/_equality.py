"""How far an exported model is its source: vectors, rankings, speed and size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.results import Evaluation
from lodesmith.core.run import Run
from lodesmith.evaluation import compare as comparing
from lodesmith.evaluation.evaluate import evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lodesmith.core.vectors import Vectors
    from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["Sample", "on_dataset", "on_texts", "sampled", "size", "speed", "text"]

_TEXTS = (
    "",
    "a",
    "What is a vector?",
    "42",
    "Numbers such as 3.14, and names like Zürich, count too.",
    "Ein Text in einer anderen Sprache, mit Umlauten: größer, älter, kühner.",
    "def mean(numbers): return sum(numbers) / len(numbers)",
    "Retrieval models turn a text into a vector; texts of like meaning lie close together. " * 4,
    "A long document says many things one after another, and a model sees its beginning alone. " * 60,
)
"""Texts on which every export is compared: empty, short, code, another language, and beyond the maximum length."""
_MEASURE = "nDCG@10"
_TIMED, _ROUNDS, _PADDED_BATCH = 64, 3, 32
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """A dataset with some of its documents, and the split whose queries are asked."""

    dataset: Dataset
    split: str


def sampled(dataset: Dataset, split: str, limit: int) -> Sample:
    """All documents that a split judges relevant, and others at random up to `limit`, in the order of the corpus.

    Raises:
        InputError: there is no such split.
    """
    judged = {key for grades in dataset.split(split).values() for key, grade in grades.items() if grade > 0}
    others = [key for key in dataset.documents if key not in judged]
    room = max(0, limit - (len(dataset.documents) - len(others)))
    drawn = np.random.default_rng(_SEED).permutation(len(others))[:room]
    chosen = judged | {others[at] for at in drawn.tolist()}
    documents = {key: document for key, document in dataset.documents.items() if key in chosen}
    return Sample(replace(dataset, documents=documents), split)


def on_texts(source: TransformerEncoder, exported: TransformerEncoder) -> dict[str, Any]:
    """Vectors of the check texts, and how much a vector depends on the texts of its batch."""
    wanted, found = (encoder.encode(_TEXTS, "document").values for encoder in (source, exported))
    alone = np.concatenate([exported.encode([text], "document").values for text in _TEXTS])
    return {"texts": _agreement(wanted, found), "batch_dependence": _difference(found, alone)}


def _agreement(wanted: NDArray[np.floating], found: NDArray[np.floating]) -> dict[str, Any]:
    """Cosines of rows, and the largest difference of a component relative to the largest component."""
    a, b = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    told = {"min": float(cosines.min()), "p1": float(np.quantile(cosines, 0.01)), "mean": float(cosines.mean())}
    return {"count": len(a), "cosine": told, "difference": _difference(a, b)}


def _difference(wanted: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    largest = float(np.abs(wanted).max())
    return float(np.abs(wanted - found).max()) / max(largest, float(np.finfo(np.float32).tiny))


def on_dataset(source: TransformerEncoder, exported: TransformerEncoder, sample: Sample) -> dict[str, Any]:
    """Vectors of documents and queries, the ten best documents of each query, and nDCG@10 with its difference."""
    from lodesmith.encoders.corpus import VectorCache

    dataset, split, cache = sample.dataset, sample.split, VectorCache()
    queries = {key: query.content for key, query in dataset.queries_of(split).items()}
    sides: dict[str, list[Vectors]] = {"documents": [], "queries": []}
    runs: dict[str, Run] = {}
    for name, encoder in (("source", source), ("exported", exported)):
        documents = cache.vectors(encoder, ((key, one.content) for key, one in dataset.documents.items()), "document")
        asked = cache.vectors(encoder, queries.items(), "query")
        index = find("indexes", "flat")(metric=encoder.metric)
        index.add(documents)
        runs[name] = index.search(asked, 10 + dataset.drop_same_id)
        sides["documents"].append(documents)
        sides["queries"].append(asked)
    agreements = {side: _agreement(two[0].values, two[1].values) for side, two in sides.items()}
    return agreements | {"dataset": dataset.name, "split": split} | _ranked(runs, sample)


def _ranked(runs: Mapping[str, Run], sample: Sample) -> dict[str, Any]:
    """Overlap of the ten best, and nDCG@10 over the sample's documents."""
    evaluations = [_measured(name, run, sample) for name, run in runs.items()]
    pair = comparing.compare(evaluations, measure=_MEASURE, baseline="source").pairs[0]
    best = [{query: {key for key, _ in run[query][:10]} for query in run} for run in runs.values()]
    shares = [len(best[0][query] & best[1].get(query, set())) / max(1, len(best[0][query])) for query in best[0]]
    means = {evaluation.system: evaluation.measures[_MEASURE].mean for evaluation in evaluations}
    told = {"difference": pair.difference, "low": pair.low, "high": pair.high, "p": pair.p, "queries": pair.queries}
    return {"top10_overlap": float(np.mean(shares)), _MEASURE: means | told}


def _measured(name: str, run: Run, sample: Sample) -> Evaluation:
    dataset, split = sample.dataset, sample.split
    return evaluate(
        run,
        dataset.split(split),
        system=name,
        dataset=dataset.name,
        split=split,
        measures=[_MEASURE],
        drop_same_id=dataset.drop_same_id,
    )


# ------------------------------------------------------------------------------ costs


def speed(source: TransformerEncoder, exported: TransformerEncoder, sample: Sample) -> dict[str, Any]:
    """Documents a second of the export, of the source in packed batches, and of sentence-transformers' padded ones.

    They take turns, and the best of their rounds counts: other programs slow all of them down.
    """
    from lodesmith.encoders._loading import load_model

    documents = list(sample.dataset.documents.values())
    step = max(1, len(documents) // _TIMED)
    texts = [document.content for document in documents[::step][:_TIMED]]
    padded, prompt = load_model(source.folder, str(source.device)), source.reader.prompts["document"]
    ways: dict[str, Callable[[], Any]] = {
        "exported": lambda: exported.encode(texts),
        "packed" if source.packed else "source": lambda: source.encode(texts),
        "padded": lambda: padded.encode(texts, batch_size=_PADDED_BATCH, prompt=prompt, show_progress_bar=False),
    }
    best = {name: float("inf") for name in ways}
    for name in _turns(list(ways)):
        start = time.perf_counter()
        ways[name]()
        best[name] = min(best[name], time.perf_counter() - start)
    rates = {name: len(texts) / seconds for name, seconds in best.items()}
    ratios = {f"ratio_to_{name}": rates["exported"] / rate for name, rate in rates.items() if name != "exported"}
    return {"documents": len(texts), "documents_per_second": rates} | ratios


def _turns(names: Sequence[str]) -> Iterator[str]:
    for number in range(_ROUNDS):
        yield from names if number % 2 == 0 else reversed(names)


def size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# ------------------------------------------------------------------------------- text


def text(report: Mapping[str, Any]) -> str:
    """The report as lines."""
    sides = {side: report[side] for side in ("texts", "documents", "queries") if side in report}
    lines = [f"{report['source']} in {report['kind']}"]
    for side, found in sides.items():
        cosine = found["cosine"]
        lines.append(
            f"{found['count']:,} {'check texts' if side == 'texts' else side}: cosine to the source at least "
            f"{cosine['min']:.6f} (1 %: {cosine['p1']:.6f}, mean {cosine['mean']:.6f}), "
            f"largest difference {found['difference']:.1g} of the largest component"
        )
    lines.append(f"a text alone or among others: {report['batch_dependence']:.1g} of the largest component")
    if ranked := report.get(_MEASURE):
        lines.append(
            f"{_MEASURE} of {ranked['queries']} queries over {report['documents']['count']:,} documents of "
            f"{report['dataset']}: {ranked['exported']:.4f}, the source {ranked['source']:.4f}, difference "
            f"{ranked['difference']:+.4f} [{ranked['low']:+.4f}, {ranked['high']:+.4f}], p {ranked['p']:.3f}; "
            f"{report['top10_overlap']:.1%} of the ten best are the same"
        )
    if timed := report.get("speed"):
        ratios = {name.removeprefix("ratio_to_"): value for name, value in timed.items() if name.startswith("ratio_")}
        named = ", ".join(f"{value:.2f} × those of the {name} source" for name, value in ratios.items())
        lines.append(f"documents a second: {named}")
    lines.append(f"bytes on disk: {report['bytes']['exported']:,}, {report['bytes']['ratio']:.2f} × the source's")
    return "\n".join(lines)
