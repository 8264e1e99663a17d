"""What the page shows besides figures: passages, queries with the passages two systems found, answered questions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A document as shown. `relevant` is None where that is not judged; `score` None where there is none."""

    document_id: str
    text: str
    title: str = ""
    score: float | None = None
    relevant: bool | None = None


@dataclass(frozen=True)
class Example:
    """One query of the page's pair (a, b), as `main_pair` names it: both values and what each system put on top."""

    query_id: str
    query: str
    a_value: float
    b_value: float
    relevant: tuple[Passage, ...] = ()
    a_top: tuple[Passage, ...] = ()
    b_top: tuple[Passage, ...] = ()

    @property
    def difference(self) -> float:
        """a − b."""
        return self.a_value - self.b_value


@dataclass(frozen=True)
class Answer:
    """A sample question and the best passages that the shown system returns, best first."""

    question: str
    passages: tuple[Passage, ...]
