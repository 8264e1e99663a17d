"""Training pairs of a dataset, as a recipe asks for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.columns import Column
from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.records import Dataset, Document
from lodesmith.core.tables import Judgements
from lodesmith.recipes.recipe import Recipe

__all__ = ["Pairs", "distinct_documents", "document_rows", "make_pairs", "mined", "validation_pairs"]


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """Training pairs as row numbers, and the queries kept for validation.

    Args:
        pairs: int64 [p, 2] of (query row, document row).
        known: int64 [·, 2]: all positives of the training queries.
        queries: text of each query row.
        validation: judgements that validation is measured on; empty for none.
    """

    pairs: NDArray[np.int64]
    known: NDArray[np.int64]
    queries: dict[str, str]
    validation: Judgements


def make_pairs(dataset: Dataset, recipe: Recipe) -> Pairs:
    """Rows of all positive judgements of the training split; documents of equal text share a row.

    Where the validation split is missing, a share of the training queries (chosen by id and seed) is kept for it. A
    recipe whose stages all learn from pairs of texts needs no judgements; then there may be nothing to validate on,
    which is logged.

    Raises:
        InputError: a stage needs judged pairs, and the split is missing, has no positive judgement, or judges what is
            not there.
    """
    judged = [stage.name for stage in recipe.stages if stage.pairs == "judged"]
    train = _training_split(dataset, recipe.data.train, judged)
    validation: Judgements = {}
    if recipe.data.validation is not None:
        if recipe.data.validation in dataset.judgements:
            validation = dataset.split(recipe.data.validation)
        else:
            kept = [query for query in train if _share(query, recipe.seed) < recipe.data.hold_out]
            validation = {query: train.pop(query) for query in kept}
    rows = document_rows(dataset)
    texts = {query: dataset.queries[query].content for query in train if query in dataset.queries}
    query_rows = {query: row for row, query in enumerate(texts)}
    pairs = [
        (query_rows[query], rows[document])
        for query, documents in train.items()
        for document, grade in documents.items()
        if grade > 0 and query in query_rows and document in rows
    ]
    if judged and not pairs:
        raise InputError(f"{dataset.name}: the split {recipe.data.train!r} has no usable pair", "`lode data check DIR`")
    if recipe.data.validation is not None and not (validation or recipe.evaluation.validate_on):
        _log.warning(
            "%s has no judgements to validate on (data.validation: %s): the weights of the last step are kept",
            dataset.name,
            recipe.data.validation,
        )
    known = np.asarray(pairs, np.int64).reshape(-1, 2)
    return Pairs(_limited(known, recipe), known, texts, validation)


def _training_split(dataset: Dataset, name: str, judged: Sequence[str]) -> dict[str, Mapping[str, int]]:
    """The judgements of the training split; none where there is no such split and no stage needs it."""
    if name in dataset.judgements or not judged:
        return dict(dataset.judgements.get(name, {}))
    do = f"set data.train; or set pairs of the stage {judged[0]!r} to text, which needs no judgements"
    return dict(dataset.split(name, do))


def distinct_documents(dataset: Dataset) -> NDArray[np.int64]:
    """Document rows, one of each text, ascending: int64 [m]."""
    return np.unique(np.fromiter(document_rows(dataset).values(), np.int64, len(dataset.documents)))


def validation_pairs(dataset: Dataset, judgements: Judgements) -> NDArray[np.int64]:
    """The positives of judgements: int64 [p, 2] of (place of the query among them, document row)."""
    rows = document_rows(dataset)
    found = [
        (number, rows[document])
        for number, documents in enumerate(judgements.values())
        for document, grade in documents.items()
        if grade > 0 and document in rows
    ]
    return np.asarray(found, np.int64).reshape(-1, 2)


def mined(
    dataset: Dataset, pairs: Pairs, recipe: Recipe, usable: NDArray[np.bool_] | None = None
) -> NDArray[np.int64] | None:
    """Document rows of the mined negatives of each pair: int64 [p, h], −1 for an empty place.

    Args:
        dataset: its column `data.negatives` is read.
        pairs: the training pairs.
        recipe: None comes back where it names no column.
        usable: bool [documents], those that may serve; None for all.

    Raises:
        InputError: there is no such column, or nothing in it is of the training queries.
    """
    name, most = recipe.data.negatives, recipe.data.negatives_each
    if name is None:
        return None
    if dataset.folder is None:
        raise InputError(f"{dataset.name} has no folder and so no column {name!r}", "save it as one dataset first")
    column, rows = Column.load(dataset.folder, name), document_rows(dataset)
    places = np.full((len(pairs.queries), most), -1, np.int64)
    for number, query in enumerate(pairs.queries):
        ids = (column.one(query) or {}).get("ids", ())
        found = list(dict.fromkeys(rows[key] for key in ids if key in rows))
        found = [row for row in found if usable is None or usable[row]][:most]
        places[number, : len(found)] = found
    if not (places >= 0).any():
        raise InputError(
            f"{dataset.name}: the column {name!r} has no usable negative of any training query",
            f"mine the split {recipe.data.train!r}: `lode data mine DIR --with bm25`, or set data.negatives to null",
        )
    return places[pairs.pairs[:, 0]]


def _share(query: str, seed: int) -> float:
    """A number in [0, 1) by the query's id."""
    return int(text_key(f"{seed}\0{query}")[:13], 16) / 16**13


def document_rows(dataset: Dataset) -> dict[str, int]:
    """Row of each document by id; documents of equal text have the first one's, pages of the same image file too."""
    first: dict[str, int] = {}
    return {key: first.setdefault(_same(d), row) for row, (key, d) in enumerate(dataset.documents.items())}


def _same(document: Document) -> str:
    return text_key(f"{document.content}\0{document.image}" if document.image else document.content)


def _limited(pairs: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    if recipe.data.limit is None or recipe.data.limit >= len(pairs):
        return pairs
    chosen = np.random.default_rng(recipe.seed).permutation(len(pairs))[: recipe.data.limit]
    return pairs[np.sort(chosen)]
