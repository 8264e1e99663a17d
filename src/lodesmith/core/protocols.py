"""The actors, each a protocol of a few methods. A room that needs a neighbour receives one of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors

Side = Literal["query", "document"]
Metric = Literal["dot", "cosine", "euclidean", "maxsim", "aligned"]
SEVERAL: tuple[Metric, ...] = ("maxsim", "aligned")
"""The metrics of items of several vectors each."""
Prompt = str | Sequence[Mapping[str, str]]
"""What a generator is asked: a text, or messages of a chat, each with `role` and `content`."""


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


class Generated(str):
    """A text that a generator wrote.

    Args:
        text: the text.
        finished: False where the limit of new tokens cut it off.
    """

    finished: bool

    def __new__(cls, text: str, finished: bool = True) -> Generated:
        """A text, and whether it is whole."""
        made = super().__new__(cls, text)
        made.finished = finished
        return made


@runtime_checkable
class Generator(Protocol):
    """Prompts → texts."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights and every setting that changes a text."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()
    ) -> Sequence[str]:
        """One text a prompt, without the prompt. The text of a prompt never depends on the others.

        Args:
            prompts: texts or messages.
            max_new_tokens: the most tokens of a text; one that is cut there may say so as `Generated`.
            stop: strings that end a text; they are not part of it.
        """
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
