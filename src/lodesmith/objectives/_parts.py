"""Encode whatever a batch holds: stored rows, packed texts, padded texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lodesmith.core.errors import InputError

Packed = Mapping[str, torch.Tensor]
Part = torch.Tensor | Packed
"""Rows [n, d]; or a packed mapping: `offsets` int64 [n + 1] into each of its other tensors, [total, …]; or any other
mapping of tensors [n, …], such as padded texts."""


@dataclass(frozen=True)
class Encoded:
    """The vectors of a batch, [·, e] each.

    Args:
        queries: of the n queries.
        documents: of their positives.
        negatives: of the mined documents, row after row: every place [n · h] where the batch holds rows, the filled
            places only where it holds texts; None where the batch has none.
        pool: of the documents that are negatives of every query; None where the batch has none.
    """

    queries: Any
    documents: Any
    negatives: Any = None
    pool: Any = None


def encode_batch(
    batch: Mapping[str, Any], encoder: nn.Module, document_encoder: nn.Module | None = None, *, paired: bool = True
) -> Encoded:
    """Every part of a batch in as few calls as there are encoders.

    Args:
        batch: `queries`, `documents` and, where there are such, `negatives` and `pool`.
        encoder: of both sides, or of the queries where the documents have their own.
        document_encoder: the documents' own.
        paired: each query has a document.

    Raises:
        InputError: they are paired, and not the same number.
    """
    found = {name: batch[name] for name in ("documents", "negatives", "pool") if name in batch}
    if isinstance(found.get("negatives"), torch.Tensor):
        found["negatives"] = found["negatives"].flatten(0, 1)
    queries = batch["queries"]
    if paired and count(queries) != count(found["documents"]):
        raise InputError(f"a batch has {count(queries)} queries but {count(found['documents'])} documents")
    if document_encoder is None:
        asked, *others = encode(encoder, [queries, *found.values()])
    else:
        asked, others = encoder(queries), encode(document_encoder, list(found.values()))
    return Encoded(asked, **dict(zip(found, others, strict=True)))


def encode(encoder: nn.Module, parts: Sequence[Part]) -> list[Any]:
    """What the encoder makes of each part. Rows and packed texts go through it together, in one call; padded ones one
    after another, since together all would be as long as the longest."""
    if len(parts) == 1 or not (_all_rows(parts) or _all_packed(parts)):
        return [encoder(part) for part in parts]
    return split(encoder(join(parts)), [count(part) for part in parts])


def _all_rows(parts: Sequence[Part]) -> bool:
    return all(isinstance(part, torch.Tensor) for part in parts)


def _all_packed(parts: Sequence[Part]) -> bool:
    return all(not isinstance(part, torch.Tensor) and "offsets" in part for part in parts)


def count(part: Part) -> int:
    """How many items a part holds."""
    if isinstance(part, torch.Tensor):
        return len(part)
    return len(part["offsets"]) - 1 if "offsets" in part else len(next(iter(part.values())))


def join(parts: Sequence[Any]) -> Any:
    """Parts of one kind, rows or packed, as one part: the first one's items, then the second one's …"""
    if _all_rows(parts):
        return torch.cat(list(parts))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "offsets"}
    lengths = torch.cat([part["offsets"].diff() for part in parts])
    return {**joined, "offsets": nn.functional.pad(lengths.cumsum(0), (1, 0))}


def split(whole: Any, counts: Sequence[int]) -> list[Any]:
    """The inverse of `join`: rows, or packed (several vectors an item), as parts of so many items."""
    if isinstance(whole, torch.Tensor):
        return list(torch.split(whole, list(counts)))  # type: ignore[no-untyped-call]
    parts = []
    first = 0
    for number in counts:
        offsets = whole["offsets"][first : first + number + 1]
        start, end = int(offsets[0]), int(offsets[-1])
        flat = {name: values[start:end] for name, values in whole.items() if name != "offsets"}
        parts.append({**flat, "offsets": offsets - start})
        first += number
    return parts
