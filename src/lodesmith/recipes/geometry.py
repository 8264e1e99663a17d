"""The geometry of a model's vectors of a dataset: its documents, and its queries with their relevant documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.files import write_json, write_text
from lodesmith.core.protocols import SEVERAL
from lodesmith.core.records import Dataset, Document
from lodesmith.evaluation.geometry import Geometry, measure
from lodesmith.recipes._document_vectors import document_vectors
from lodesmith.recipes.systems import load_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lodesmith.core.protocols import Encoder
    from lodesmith.core.vectors import Vectors

__all__ = ["MOST", "ModelGeometry", "geometry", "geometry_of"]

MOST = 20_000
"""Documents that are measured unless told otherwise: some measures compare all pairs."""
_POSITIVES = 5000
_SEED = 0


@dataclass(frozen=True)
class ModelGeometry:
    """A geometry, and whose it is.

    Args:
        split: whose judgements gave the positive pairs; empty where there are none.
        documents: how many the dataset has; those measured may be a sample.
    """

    model: str
    dataset: str
    split: str
    documents: int
    fingerprints: Mapping[str, str]
    geometry: Geometry

    @property
    def title(self) -> str:
        """The model and the data."""
        return f"Geometry of {self.model} on {self.dataset}"

    @property
    def notes(self) -> list[str]:
        """How the vectors came about."""
        items, positives = self.geometry.items, self.geometry.positives
        sample = "" if items == self.documents else f", a random sample of {self.documents:,}"
        pairs = f"{positives.pairs:,} of the split {self.split}" if positives else "none: no judgements"
        return [
            f"Documents: {items:,} of {self.dataset}{sample}, each one vector of {self.geometry.dimension} dimensions.",
            f"Positive pairs: {pairs}.",
            "SIGReg is the Epps–Pulley statistic along 256 random directions; rescaled, the vectors are multiplied by "
            f"one number, {self.geometry.scale:.4g}, which makes E‖x‖² = d. T grows with the number of vectors, T/N "
            "does not.",
            "Cosines, uniformity and alignment are of vectors at length 1; spectrum, effective rank and IsoScore of "
            "vectors less their mean.",
            *(f"Fingerprint of the {name}: {print_[:16]}." for name, print_ in self.fingerprints.items()),
        ]

    def to_json(self, *, points: bool = False) -> dict[str, Any]:
        """A JSON object; `points` adds those of the map."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "split": self.split,
            "documents": self.documents,
            "fingerprints": dict(self.fingerprints),
        } | self.geometry.to_json(points=points)

    def to_text(self) -> str:
        """The table."""
        return f"{self.title}\n{self.geometry.to_text()}"


def geometry(
    model: str, folder: Path, *, split: str | None = None, limit: int | None = MOST, out: Path | None = None
) -> ModelGeometry:
    """Measure a model's vectors; they come from the cache where they were encoded before.

    Args:
        model: a model folder, a run directory, a hub name or `minilm`.
        folder: the dataset's.
        split: whose relevant documents are the positives; None for test where there is such a split.
        limit: the most documents, drawn at random; None for all.
        out: folder for `geometry.json` and `report.html`.

    Raises:
        InputError: there is no such model, dataset or split, or the model gives several vectors a document.
    """
    found = geometry_of(model, Dataset.load(folder), split=split, limit=limit)
    if out is not None:
        _write(found, out)
    return found


def geometry_of(model: str, dataset: Dataset, *, split: str | None = None, limit: int | None = MOST) -> ModelGeometry:
    """As `geometry`, of a dataset that is loaded."""
    if split is None:
        split = "test" if "test" in dataset.judgements else ""
    positives = _positives(dataset, split) if split else []
    encoder = load_encoder(model)
    if encoder.metric in SEVERAL:
        raise InputError(f"{model} gives several vectors a document", "geometry is of one vector a document")
    vectors = _dense(document_vectors(model, encoder, _sample(dataset.documents, limit)))
    return ModelGeometry(
        Path(model).resolve().name if Path(model).exists() else model,
        dataset.name,
        split,
        len(dataset.documents),
        {"model": encoder.fingerprint, "dataset": dataset.fingerprint},
        measure(vectors, _encoded(model, encoder, dataset, positives), metric=encoder.metric, seed=_SEED),
    )


def _sample(documents: Mapping[str, Document], limit: int | None) -> Mapping[str, Document]:
    if limit is None or limit >= len(documents):
        return documents
    if limit < 2:
        raise InputError(f"geometry of {limit} documents says nothing", "give --limit 2 or more")
    keys = list(documents)
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(keys))[:limit])
    return {keys[at]: documents[keys[at]] for at in chosen.tolist()}


def _positives(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    """Query and relevant document, at most so many pairs, drawn at random."""
    queries = dataset.queries_of(split)
    judged = dataset.split(split)
    pairs = [
        (query, key)
        for query in queries
        for key, grade in judged[query].items()
        if grade > 0 and key in dataset.documents
    ]
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(pairs))[:_POSITIVES])
    return [pairs[at] for at in chosen.tolist()]


def _encoded(
    model: str, encoder: Encoder, dataset: Dataset, pairs: list[tuple[str, str]]
) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
    """Both sides of the pairs: [p, d] twice."""
    if not pairs:
        return None
    from lodesmith.encoders.corpus import VectorCache

    queries = {query: dataset.queries[query].content for query, _ in pairs}
    documents = {key: dataset.documents[key] for _, key in pairs}
    first = VectorCache().vectors(encoder, queries.items(), "query")
    second = document_vectors(model, encoder, documents)
    rows, others = ({key: at for at, key in enumerate(side.ids)} for side in (first, second))
    return (
        _dense(first)[[rows[query] for query, _ in pairs]],
        _dense(second)[[others[key] for _, key in pairs]],
    )


def _dense(vectors: Vectors) -> NDArray[np.floating]:
    if not vectors.is_dense:
        raise InputError("this model gives several vectors a document", "geometry is of models that give one")
    return vectors.values


def _write(found: ModelGeometry, out: Path) -> None:
    from lodesmith.reports.geometry import render

    write_json(out / "geometry.json", found.to_json(points=True))
    write_text(out / "report.html", render(found.title, found.geometry, notes=found.notes))
