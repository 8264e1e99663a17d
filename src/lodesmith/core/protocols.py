"""The actors, each a protocol of a few methods. A room that needs a neighbour receives one of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors

Side = Literal["query", "document"]
Metric = Literal["dot", "cosine", "euclidean"]


@runtime_checkable
class Encoder(Protocol):
    """Texts of one side → `Vectors`."""

    @property
    def dimension(self) -> int:
        """d of the vectors."""
        ...

    @property
    def metric(self) -> Metric:
        """How the vectors are to be compared."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights and every setting that changes a vector."""
        ...

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts; the result's ids are `ids`, or "0", "1", … The vector of a text never depends on the others."""
        ...


@runtime_checkable
class Index(Protocol):
    """Holds document vectors and finds the nearest to a query's."""

    def add(self, vectors: Vectors) -> None:
        """Add items by id; an id that is there is replaced."""
        ...

    def delete(self, ids: Iterable[str]) -> int:
        """Take items out; returns how many there were."""
        ...

    def search(self, queries: Vectors, k: int) -> Run:
        """The k best items of each query; ties by id, descending."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files of one generation into an empty folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """Queries (id → text) → `Run`."""

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query."""
        ...


class Objective(Protocol):
    """Batch → named terms. The only place where an encoder meets a loss. Terms are scalars of the array library."""

    def __call__(self, batch: Any) -> Mapping[str, Any]:
        """Unweighted terms by name."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term in the total."""
        ...
