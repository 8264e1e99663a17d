"""Training pairs without judgements: texts that belong together because of where they stand in the documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.columns import Column
from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.joined import Joined
from lodesmith.core.records import Dataset
from lodesmith.data.pairs import Pair, pairs_of
from lodesmith.recipes.recipe import Recipe

__all__ = ["COLUMN", "TextPairs", "pairs_for", "text_pairs"]

COLUMN = "pairs"
"""The column that `lode data pairs` writes."""


@dataclass(frozen=True)
class TextPairs:
    """Pairs of texts, as row numbers; equal texts of a side share a row.

    Args:
        queries: the distinct texts that ask.
        passages: the distinct texts that they belong to.
        pairs: int64 [p, 2] of (row of `queries`, row of `passages`), each once.
    """

    queries: tuple[str, ...]
    passages: tuple[str, ...]
    pairs: NDArray[np.int64]


def pairs_for(recipe: Recipe, dataset: Dataset) -> TextPairs:
    """As `text_pairs`, by a recipe's split, seed and limit."""
    data = recipe.data
    return text_pairs(dataset, split=data.train, seed=recipe.seed, limit=data.limit)


def text_pairs(dataset: Dataset, *, split: str = "train", seed: int = 0, limit: int | None = None) -> TextPairs:
    """The pairs of the column `pairs`, where the dataset has it; else they are made now, as `lode data pairs` does.

    Of joined datasets one of which has the column, each gives the pairs that it would give by itself.

    Args:
        dataset: documents that other splits than `split` judge are left out where the pairs are made now.
        split: whose documents may be used; there need be no split `train`.
        seed: of the sentences that are taken out, and of the sample.
        limit: at most so many pairs, drawn by the seed.

    Raises:
        InputError: no document gives a pair, the column is of something else, or there is no such split.
    """
    found = _found(dataset, split, seed)
    if not found:
        raise InputError(
            f"no document of {dataset.name} gives a pair of texts",
            "titles, headings or passages of several sentences make pairs: see `lode data pairs --help`",
        )
    if limit is not None and limit < len(found):
        chosen = np.random.default_rng(seed).permutation(len(found))[:limit]
        found = [found[at] for at in np.sort(chosen).tolist()]
    return _numbered(
        [(pair.text, dataset.documents[name].content if pair.passage is None else pair.passage) for name, pair in found]
    )


def _found(dataset: Dataset, split: str, seed: int) -> list[tuple[str, Pair]]:
    """Pairs by document, out of columns or made now."""
    if isinstance(dataset, Joined) and any(map(_has_column, dataset.parts.values())):
        parts = {name: _found(part, _of_part(dataset, part, split), seed) for name, part in dataset.parts.items()}
        return [(f"{name}/{own}", pair) for name, pairs in parts.items() for own, pair in pairs]
    if _has_column(dataset):
        return _from_column(dataset, cast(Path, dataset.folder))
    if split != "train":
        dataset.split(split, "set data.train")
    made, _ = pairs_of(dataset, split=split, seed=seed)
    return [(name, pair) for name, pairs in made.items() for pair in pairs]


def _of_part(whole: Dataset, part: Dataset, split: str) -> str:
    """The split of a part; `train`, of which there need be none, where another part has it."""
    return split if split in part.judgements or split not in whole.judgements else "train"


def _has_column(dataset: Dataset) -> bool:
    return dataset.folder is not None and (dataset.folder / "columns" / f"{COLUMN}.jsonl").exists()


def _from_column(dataset: Dataset, folder: Path) -> list[tuple[str, Pair]]:
    column = Column.load(folder, COLUMN)
    try:
        rows = [
            (name, Pair(row["kind"], row["text"], row.get("passage")))
            for name, own in column.rows.items()
            for row in own
        ]
    except (KeyError, TypeError):
        raise InputError(
            "its rows are no pairs of texts", "make it again: `lode data pairs DIR`", path=folder / "columns"
        ) from None
    if missing := next((name for name, _ in rows if name not in dataset.documents), None):
        raise InputError(
            f"the column is of other documents: {missing!r} is none of the dataset's",
            "make it again: `lode data pairs DIR`",
            path=folder / "columns" / f"{COLUMN}.jsonl",
        )
    return rows


def _numbered(texts: list[tuple[str, str]]) -> TextPairs:
    rows: tuple[dict[str, int], dict[str, int]] = ({}, {})
    firsts: tuple[list[str], list[str]] = ([], [])
    numbers = []
    for pair in texts:
        number = []
        for text, known, first in zip(pair, rows, firsts, strict=True):
            key = text_key(text)
            if key not in known:
                known[key] = len(first)
                first.append(text)
            number.append(known[key])
        numbers.append(tuple(number))
    distinct = list(dict.fromkeys(numbers))
    return TextPairs(tuple(firsts[0]), tuple(firsts[1]), np.asarray(distinct, np.int64).reshape(-1, 2))
