"""What codecs cost a model: its vectors are encoded once, kept by each codec, searched and measured like any system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import tell
from lodesmith.core.protocols import SEVERAL, Encoder
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation, Pair
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.evaluation import compare as comparing
from lodesmith.evaluation.significance import holm
from lodesmith.recipes._variants import measure_variants
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.systems import System, resolve

if TYPE_CHECKING:
    from lodesmith.retrieval.dense import Searched

__all__ = ["Compressed", "against_baseline", "compressed", "compressed_datasets"]

_ALPHA = 0.05


@dataclass(frozen=True)
class Compressed:
    """The evaluations of float32 and each codec on each dataset, and each codec's comparison with float32."""

    evaluations: tuple[Evaluation, ...]
    comparison: Comparison


@dataclass(frozen=True)
class _Stored:
    """A retriever of queries whose vectors are there already: no codec has them encoded again."""

    index: Searched
    queries: Vectors

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        place = {key: at for at, key in enumerate(self.queries.ids)}
        return self.index.search(self.queries.take([place[key] for key in queries]), k)


def compressed(
    system: str,
    dataset: Dataset,
    codecs: Sequence[str],
    split: str = "test",
    measures: Sequence[str] = (),
    *,
    passages: int | None = None,
    seed: int = 0,
) -> list[Evaluation]:
    """Measure a model with its vectors in float32, then as each codec keeps them.

    A codec is fitted on the documents' vectors; queries stay float32, and every code is scored. Evaluations are called
    `MODEL` and `MODEL@CODEC`, and their costs have `bytes_per_document`, `shared_bytes` and `index_bytes`. Searches go
    as deep as the deepest measure, at least 100: a codec that ranks `rescore` times k again does so with that k.

    Args:
        system: a model folder or name, or a run of one model.
        dataset: whose documents are encoded, or come from the cache.
        codecs: spellings, as `codecs._codec.make` reads them; each once.
        split: whose queries.
        measures: more of them.
        passages: split documents into windows of so many tokens; a document's bytes are those of all its windows.
        seed: of what a codec draws.

    Raises:
        InputError: the system has no vectors of its own, or a codec cannot be fitted on them.
        ConfigError: a codec's spelling or setting is wrong.
    """
    plan = _Plan(codecs, split, measures, seed)
    return [evaluation for evaluation, _ in plan.measured(resolve(system, dataset, passages), dataset)]


def compressed_datasets(  # noqa: PLR0913 - the options of the verb
    system: str,
    datasets: Sequence[str | Path],
    codecs: Sequence[str],
    *,
    split: str = "test",
    measures: Sequence[str] = (),
    out: Path | None = None,
    run: Path | None = None,
    passages: int | None = None,
) -> Compressed:
    """`compressed` on datasets, compared; evaluation and run files go into the folders `out` and `run`, a file a system
    and, with several datasets, a folder a dataset.

    Raises:
        InputError: as `compressed`; a dataset is not there, lacks the split, or two have the same name; `out` or `run`
            is a file.
        ConfigError: as `compressed`.
    """
    found = measure_variants(
        datasets,
        lambda dataset, part, _: _Plan(codecs, part, measures).measured(resolve(system, dataset, passages), dataset),
        split=split,
        out=out,
        run=run,
        by="codecs",
    )
    return Compressed(tuple(found), against_baseline(found))


class _Plan:
    """What is measured on each dataset."""

    def __init__(self, codecs: Sequence[str], split: str, measures: Sequence[str], seed: int = 0) -> None:
        from lodesmith.codecs._codec import make

        self.codecs = list(dict.fromkeys(spelling.strip() for spelling in codecs))
        for spelling in self.codecs:
            make(spelling)  # a mistake shows before anything is encoded
        self.split, self.measures, self.seed = split, measures, seed

    def measured(self, system: System, dataset: Dataset) -> Iterator[tuple[Evaluation, Run]]:
        """The evaluation and run of float32, then of each codec."""
        encoder, vectors = _dense(system)
        queries = _query_vectors(encoder, dataset, self.split)
        plain = replace(system, retriever=_Stored(_index(system), queries), timed=False)
        width = vectors.dimension * 4
        plain = replace(plain, cost=dict(plain.cost) | _cost(vectors, width, 0))
        yield evaluate_system(plain, dataset, self.split, self.measures)
        for number, spelling in enumerate(self.codecs, start=1):
            coded = self._coded(spelling, system, encoder, queries)
            yield evaluate_system(coded, dataset, self.split, self.measures)
            tell("codecs", number, len(self.codecs), "codecs")

    def _coded(self, spelling: str, system: System, encoder: Encoder, queries: Vectors) -> System:
        from lodesmith.codecs._codec import make
        from lodesmith.retrieval.coded import Coded

        _, vectors = _dense(system)
        index = Coded(make(spelling), vectors, encoder.metric, seed=self.seed)
        cost = dict(system.cost) | _cost(vectors, index.codec.bytes, index.codec.shared_bytes)
        prints = dict(system.fingerprints) | {"codec": fingerprint({"codec": spelling, "seed": self.seed})}
        return System(f"{system.name}@{spelling}", _Stored(index, queries), cost, prints, timed=False)


def _cost(vectors: Vectors, width: int, shared: int) -> dict[str, float | None]:
    """Bytes by the width of a row."""
    rows = len(vectors.values)
    each = rows * width / len(vectors) if len(vectors) else float(width)
    return {"bytes_per_document": each, "shared_bytes": shared, "index_bytes": rows * width + shared}


def _dense(system: System) -> tuple[Encoder, Vectors]:
    """The encoder and the documents' vectors of a system of one model."""
    from lodesmith.retrieval.dense import Dense

    if not isinstance(system.retriever, Dense) or system.vectors is None:
        raise InputError(
            f"{system.name!r} is not one model with vectors of its own, and codecs keep vectors",
            "give a model folder, a run's model/ folder, a hub name or minilm",
        )
    if system.retriever.encoder.metric == "aligned":
        raise InputError(
            f"{system.name!r} has memory tokens, and codecs keep one vector a text",
            "evaluate an index of 8 bits: lode index build MODEL DATASET --dtype int8 --out DIR",
        )
    if system.retriever.encoder.metric in SEVERAL:
        raise InputError(f"{system.name!r} has a vector a token, and codecs keep one a text", "pool its tokens instead")
    return system.retriever.encoder, system.vectors


def _index(system: System) -> Searched:
    from lodesmith.retrieval.dense import Dense

    assert isinstance(system.retriever, Dense)
    return system.retriever.index


def _query_vectors(encoder: Encoder, dataset: Dataset, split: str) -> Vectors:
    from lodesmith.encoders.corpus import VectorCache

    items = ((key, query.content) for key, query in dataset.queries_of(split).items())
    return VectorCache().vectors(encoder, items, "query")


def against_baseline(evaluations: Sequence[Evaluation], measure: str = "nDCG@10") -> Comparison:
    """Each system against the first, on each dataset; Holm's correction runs over these pairs alone."""
    names = tuple(dict.fromkeys(evaluation.system for evaluation in evaluations))
    pairs: list[Pair] = []
    for name in names[1:]:
        two = [evaluation for evaluation in evaluations if evaluation.system in (names[0], name)]
        pairs += comparing.compare(two, measure=measure, baseline=names[0]).pairs
    family = f"{measure}, {len(pairs)} pairs with {names[0]}"
    corrected = [
        replace(pair, family=family, p_holm=p, significant=p <= _ALPHA)
        for pair, p in zip(pairs, holm([pair.p for pair in pairs]), strict=True)
    ]
    return Comparison(names[0], measure, names, tuple(corrected))
