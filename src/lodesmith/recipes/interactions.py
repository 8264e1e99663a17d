"""A teacher's interactions: to which tokens of its document each query token attends, for every training pair.

Of each query token the largest few shares are kept, 4 bytes each, so that training reads some kilobytes a pair and the
teacher is not loaded. They are made once for a teacher, a softness and the pairs' texts, and shared by all recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import atomic_folder, read_object, sha256_folder, verify_files, write_json
from lodesmith.core.hashing import fingerprint, text_key
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.vectors import Vectors
from lodesmith.recipes._beside import Beside

if TYPE_CHECKING:
    from lodesmith.training.stage import Batches

__all__ = ["Interacting", "Interactions", "check_interacts", "interactions_of"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Interactions:
    """What a teacher attends to, for p pairs.

    Args:
        columns: uint16 [r, k], of each query token the document's tokens with the largest shares; those that a short
            document does not have are 65,535.
        mass: float16 [r, k], their shares.
        offsets: int64 [p + 1] of a pair's rows.
        lengths: int64 [p], tokens of the documents.
    """

    columns: NDArray[np.uint16]
    mass: NDArray[np.float16]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    NONE = np.uint16(65_535)

    @classmethod
    def _files(cls) -> list[str]:
        return [field.name for field in fields(cls)]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote, memory-mapped.

        Raises:
            IntegrityError: a file is missing or differs.
        """
        files = read_object(folder / "manifest.json").get("files")
        verify_files(folder, files)
        if set(files or ()) != {f"{name}.npy" for name in cls._files()}:
            raise IntegrityError(
                f"{folder}: the manifest does not list its files", "delete the folder: it is made again"
            )
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in cls._files()))

    def save(self, folder: Path, **info: Any) -> None:
        """Write the folder, whole or not at all."""
        with atomic_folder(folder) as new:
            for name in self._files():
                np.save(new / f"{name}.npy", getattr(self, name), allow_pickle=False)
            write_json(new / "manifest.json", {**info, "files": sha256_folder(new)})

    @property
    def bytes(self) -> int:
        """On disk."""
        return int(sum(getattr(self, name).nbytes for name in self._files()))

    def take(self, pairs: Rows) -> dict[str, Any]:
        """Those of some pairs, as `objectives.mid` reads them."""
        import torch

        rows, offsets = ragged(self.offsets, pairs)
        columns = self.columns[rows].astype(np.int64)
        columns[columns == int(self.NONE)] = -1
        return {
            "columns": torch.from_numpy(columns),
            "mass": torch.from_numpy(self.mass[rows].astype(np.float32)),
            "offsets": torch.from_numpy(offsets),
            "lengths": torch.from_numpy(np.asarray(self.lengths[pairs], np.int64)),
        }


Kept = TypeVar("Kept", bound=Interactions)


def ragged(bounds: Rows, chosen: Rows) -> tuple[Rows, Rows]:
    """The rows of some items, one item after another, and the items' offsets among them.

    Args:
        bounds: int64 [n + 1] of the items' rows.
        chosen: int64 [c], items.
    """
    starts, counts = bounds[chosen], np.diff(bounds)[chosen]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) + np.repeat(starts, counts), offsets


def kept(kind: type[Kept], folder: Path, make: Callable[[], Kept], **info: Any) -> Kept:
    """What a folder holds; made and written there, with `info`, where it holds nothing or is damaged."""
    try:
        if (folder / "manifest.json").is_file():
            return kind.load(folder)
    except (IntegrityError, InputError):
        pass  # it is damaged, and made again
    make().save(folder, **info)
    return kind.load(folder)


def interactions_of(
    teacher: Encoder, pairs: Sequence[tuple[str, str]], *, softness: float, top: int, cache: Path
) -> Interactions:
    """The teacher's interactions of pairs of texts: read from the cache, or made now. Each text is encoded once.

    Args:
        teacher: gives vectors of tokens, which MaxSim compares.
        pairs: (query, document), each once.
        softness: divides the inner products before the softmax.
        top: tokens that are kept for each query token.
        cache: a folder of the cache.

    Raises:
        InputError: the teacher gives one vector a text.
    """
    check_interacts(teacher)
    keys = [(text_key(query), text_key(document)) for query, document in pairs]
    name = fingerprint({"teacher": teacher.fingerprint, "softness": softness, "top": top, "pairs": keys, "v": 1})
    info = {"teacher": teacher.fingerprint, "softness": softness, "top": top, "pairs": len(pairs)}
    folder = cache / "interactions" / name[:32]
    return kept(Interactions, folder, lambda: _made(teacher, pairs, softness, top), **info)


def check_interacts(teacher: Encoder) -> None:
    """Refuse a teacher whose tokens have no vectors.

    Raises:
        InputError: it gives one vector a text.
    """
    if teacher.metric != "maxsim":
        raise InputError(
            "the teacher gives one vector a text, and has no token interactions",
            "choose a late-interaction model; or mimic its scores: objective mimic with similarity: maxsim",
        )


def _made(teacher: Encoder, pairs: Sequence[tuple[str, str]], softness: float, top: int) -> Interactions:
    queries = encoded(teacher, [query for query, _ in pairs], "query")
    documents = encoded(teacher, [document for _, document in pairs], "document")
    columns, mass, counts, lengths = [], [], [], []
    for number, (query, document) in enumerate(pairs):
        asked, found = queries[query], documents[document]
        if len(found) > int(Interactions.NONE):
            raise InputError(
                f"a document has {len(found):,} tokens, above the {int(Interactions.NONE):,} that can be told apart",
                "set encoder.document_length",
            )
        own = largest(attended(asked, found, softness), top)
        columns.append(own[0])
        mass.append(own[1])
        counts.append(len(asked))
        lengths.append(len(found))
        if number % 256 == 0:
            tell("interactions", number, len(pairs), "pairs")
    tell("interactions", len(pairs), len(pairs), "pairs")
    return Interactions(
        np.concatenate([np.empty((0, top), np.uint16), *columns]),
        np.concatenate([np.empty((0, top), np.float16), *mass]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.asarray(lengths, np.int64),
    )


class _Tokens(Mapping[str, NDArray[np.floating]]):
    """Text → the vectors of its tokens."""

    def __init__(self, vectors: Vectors, texts: Sequence[str]) -> None:
        places = {key: at for at, key in enumerate(vectors.ids)}
        self._vectors, self._at = vectors, {text: places[str(number)] for number, text in enumerate(texts)}

    def __getitem__(self, text: str) -> NDArray[np.floating]:
        at = self._at[text]
        start, end = self._vectors.offsets[at : at + 2]
        return self._vectors.values[start:end]

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


def encoded(teacher: Encoder, texts: Sequence[str], side: Side) -> Mapping[str, NDArray[np.floating]]:
    """Text → the vectors of its tokens, from the cache that evaluations share; each text is encoded once."""
    from lodesmith.encoders.corpus import VectorCache

    texts = list(dict.fromkeys(texts))
    items = ((str(at), text) for at, text in enumerate(texts))
    return _Tokens(VectorCache(dtype="float16").vectors(teacher, items, side), texts)


def attended(query: NDArray[np.floating], document: NDArray[np.floating], softness: float) -> NDArray[np.float32]:
    """The share [r, m] that each query token gives to each token of the document."""
    logits = query.astype(np.float32) @ document.astype(np.float32).T / np.float32(softness)
    shares: NDArray[np.float32] = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return shares


def largest(shares: NDArray[np.float32], top: int) -> tuple[NDArray[np.uint16], NDArray[np.float16]]:
    """The largest shares of each row and where they are, both [r, top]; of equal ones the first."""
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    columns = np.full((len(shares), top), Interactions.NONE, np.uint16)
    mass = np.zeros((len(shares), top), np.float16)
    columns[:, : order.shape[1]] = order
    mass[:, : order.shape[1]] = np.take_along_axis(shares, order, 1)
    return columns, mass


class Interacting(Beside):
    """Batches of packed texts with the teacher's interactions of their pairs.

    Args:
        batches: with `query_ids` and `document_ids`.
        interactions: of pairs.
        numbers: (query id, document id) → the pair's number among these.
    """

    def __init__(self, batches: Batches, interactions: Interactions, numbers: Mapping[tuple[int, int], int]) -> None:
        super().__init__(batches)
        self._interactions, self._numbers = interactions, numbers

    def beside(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The interactions of the batch's pairs."""
        ids = zip(batch["query_ids"].tolist(), batch["document_ids"].tolist(), strict=True)
        pairs = np.asarray([self._numbers[own] for own in ids], np.int64)
        return {"interactions": self._interactions.take(pairs)}
