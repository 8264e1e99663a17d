"""Rows of Parquet files, in memory bounded by a few of them, and orders that a seed fixes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lodesmith.core.errors import MissingExtraError
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._remote import share

__all__ = ["rows", "seeded"]

T = TypeVar("T")
Rows = Iterator[dict[str, Any]]
Order = tuple[int, str]
_AT_ONCE = 16  # rows: a row may be a page image of megabytes


def rows(
    path: Path, columns: Sequence[str], *, order: Order | None = None, required: int = 1, texts: Sequence[str] = ()
) -> Rows:
    """The rows of a file as dictionaries; columns that it does not have are absent.

    Args:
        path: the file.
        columns: which to read.
        order: seed and published name of the file, which fix the order of its row groups; None for its own order.
        required: how many of the first `columns` the file must have.
        texts: which of them hold texts, if the file has them.

    Raises:
        LayoutError: it is no whole Parquet file, lacks a required column, or has something else than texts in one.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "parquet") from None
    try:
        with parquet.ParquetFile(path) as file:
            have = set(file.schema_arrow.names)
            if missing := [name for name in columns[:required] if name not in have]:
                raise LayoutError(
                    f"{path.name}: has no column {missing[0]!r} (it has: {', '.join(sorted(have))})",
                    "this is not the published layout: check the name",
                )
            _check_texts(path, file.schema_arrow, texts)
            groups: Sequence[int] = range(file.num_row_groups)
            groups = groups if order is None else seeded(groups, *order)
            for group in groups:
                wanted = [name for name in columns if name in have]
                for batch in file.iter_batches(_AT_ONCE, [group], wanted, use_threads=False):
                    yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise LayoutError(f"{path}: no whole Parquet file: {error}", "delete it, and run again") from None


def _check_texts(path: Path, schema: Any, texts: Sequence[str]) -> None:
    from pyarrow import types

    for name in set(texts) & set(schema.names):
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (
            types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
        ):
            raise LayoutError(
                f"{path.name}: the column {name!r} holds {kind}, not texts",
                "this is not the published layout: check the name",
            )


def seeded(items: Sequence[T], seed: int, key: str = "") -> list[T]:
    """The items in an order that seed and key fix, on every machine and version."""
    drawn = list(items)
    random.Random(int(share(seed, key) * 2**53)).shuffle(drawn)
    return drawn
