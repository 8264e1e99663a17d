"""What the splits of a dataset share: queries, relevant documents, and queries that nearly agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from lodesmith.core.lines import LineError
from lodesmith.core.records import Query
from lodesmith.data.duplicates import near_duplicates
from lodesmith.data.problems import Tally

__all__ = ["Judged", "Split", "find_leaks"]

_MOST = 300_000  # queries whose texts are held for comparison
_LENGTH = 1_000  # characters of a query that are compared
_SHINGLE = 2  # words; queries are short


@dataclass
class Split:
    """The judgements of one file: query → its first line, and its relevant documents."""

    file: str
    queries: dict[str, tuple[int, set[str]]] = field(default_factory=dict)
    count: int = 0
    _grades: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, query: str, document: str, grade: int, line: int) -> None:
        """Take a judgement in.

        Raises:
            LineError: of kind `duplicate-judgement` or `conflicting-judgement`.
        """
        known = self._grades.setdefault((query, document), grade)
        _, relevant = self.queries.setdefault(query, (line, set()))
        if len(self._grades) == self.count:
            pair = f"{document!r} for {query!r}"
            if known != grade:
                raise LineError("conflicting-judgement", f"{pair} has the grade {known} before, {grade} here")
            raise LineError("duplicate-judgement", f"{pair} is repeated")
        self.count += 1
        if grade > 0:
            relevant.add(document)


@dataclass
class Judged:
    """What is remembered for the comparison of splits."""

    splits: dict[str, Split] = field(default_factory=dict)
    texts: dict[str, tuple[str, int]] = field(default_factory=dict)
    whole: bool = True

    def remember(self, query: Query, line: int) -> None:
        """Hold a query's text, as long as there is room."""
        if len(self.texts) < _MOST:
            self.texts[query.id] = (query.text[:_LENGTH], line)
        else:
            self.whole = False


def find_leaks(judged: Judged, tally: Tally) -> None:
    """Count what each pair of splits shares."""
    for (a, first), (b, second) in combinations(judged.splits.items(), 2):
        for query in sorted(first.queries.keys() & second.queries.keys()):
            tally.add("shared-query", second.file, second.queries[query][0], f"{query!r} is judged in {a} and {b}")
        owners = _relevant(first)
        for document, query in sorted(_relevant(second).items()):
            if document in owners:
                line = second.queries[query][0]
                tally.add("shared-document", second.file, line, f"{document!r} is relevant in {a} and {b}")
    _near(judged, tally)


def _relevant(split: Split) -> dict[str, str]:
    """Relevant document → a query that it is relevant to."""
    return {document: query for query, (_, documents) in split.queries.items() for document in documents}


def _near(judged: Judged, tally: Tally) -> None:
    splits_of = {q: [s for s, split in judged.splits.items() if q in split.queries] for q in judged.texts}
    queries = [q for q, splits in splits_of.items() if splits]
    if len(judged.splits) < 2 or not queries:
        return
    if not judged.whole:
        tally.add("unexamined", "queries.jsonl", None, f"over {_MOST:,} queries: near-duplicates were not sought")
        return
    found = near_duplicates([judged.texts[q][0] for q in queries], shingle=_SHINGLE)
    for group in found.groups:
        members = [queries[i] for i in group]
        splits = sorted({split for q in members for split in splits_of[q]})
        if len(splits) > 1:
            first = members[0]
            other = next((q for q in members if splits_of[q] != splits_of[first]), members[1])
            detail = f"{first!r} and {other!r} ({', '.join(splits)}): {judged.texts[other][0][:80]!r}"
            tally.add("near-duplicate-query", "queries.jsonl", judged.texts[other][1], detail)
