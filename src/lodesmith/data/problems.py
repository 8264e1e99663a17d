"""What can be wrong with a dataset, and the report that counts and locates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ERRORS", "WARNINGS", "Count", "Example", "Problem", "Report", "Tally"]

ERRORS = {
    "missing-file": "a file of the layout is absent",
    "unreadable": "a file cannot be read: it is damaged, no file, or not allowed",
    "long-line": "a line is longer than is read",
    "invalid-utf8": "bytes that are not UTF-8",
    "broken-json": "a line that is not JSON",
    "deep-nesting": "JSON nested too deeply",
    "nan": "NaN or Infinity, which JSON does not have",
    "duplicate-key": "a key that occurs twice in one object",
    "not-object": "a line that is no JSON object",
    "lone-surrogate": "half of a surrogate pair",
    "missing-id": "no id, or one that is neither a string nor an integer",
    "bad-id": "an id that is empty or holds a tab, NUL or another control character",
    "bad-field": "a field that is missing or of the wrong type",
    "duplicate-id": "an id that occurred before",
    "empty-query": "a query without text",
    "field-count": "a judgement that has not three fields",
    "bad-grade": "a grade that is no number, or too large",
    "negative-grade": "a grade below 0",
    "fractional-grade": "a grade that is not an integer",
    "conflicting-judgement": "two grades for the same query and document",
    "unknown-query": "a line about a query that is not in the query file",
    "unknown-document": "a line about a document that is not in the corpus",
}
"""Kinds that have to be mended before the dataset is used: what each means."""

WARNINGS = {
    "bom": "a byte order mark",
    "crlf": "a line that ends in CR LF",
    "blank-line": "an empty line",
    "integer-id": "an id that is an integer; it is read as a string",
    "path-id": "an id that looks like a path out of its folder",
    "space-id": "an id with white space, which a TREC run file cannot carry",
    "empty-text": "a document with neither title nor text",
    "duplicate-judgement": "a judgement that is repeated",
    "no-positive": "a judged query without a relevant document; it counts 0",
    "no-judgements": "no split has judgements",
    "shared-query": "a query that two splits judge",
    "shared-document": "a document that is relevant in two splits",
    "near-duplicate-query": "queries of two splits that nearly agree word by word",
    "unexamined": "a comparison that was left out because it would not fit into memory",
}
"""Kinds that are read with a defined result, or that cast doubt on figures: what each means."""


@dataclass(frozen=True)
class Example:
    """Where a problem is, and what was found there. `line` is None where it concerns a whole file."""

    file: str
    line: int | None
    detail: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.detail}"


@dataclass(frozen=True)
class Problem:
    """All occurrences of one kind: how many, and the first of them."""

    kind: str
    severity: str
    meaning: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Count:
    """Lines of a file, blank ones aside: `read` is always `kept + rejected`."""

    kept: int = 0
    rejected: int = 0

    @property
    def read(self) -> int:
        """All lines."""
        return self.kept + self.rejected


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Args:
        folder: what was checked.
        problems: kind → problem; errors first, in the order of `ERRORS` and `WARNINGS`.
        files: file → lines kept and rejected.
        fixed: where the clean copy is, if one was asked for.
    """

    folder: Path
    problems: Mapping[str, Problem]
    files: Mapping[str, Count]
    fixed: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return not any(problem.severity == "error" for problem in self.problems.values())

    @property
    def total(self) -> Count:
        """The lines of all files."""
        return Count(sum(c.kept for c in self.files.values()), sum(c.rejected for c in self.files.values()))

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "folder": str(self.folder),
            "ok": self.ok,
            "problems": {kind: _problem_json(problem) for kind, problem in self.problems.items()},
            "files": {name: _count_json(count) for name, count in self.files.items()},
            "total": _count_json(self.total),
            "fixed": None if self.fixed is None else str(self.fixed),
        }

    def to_text(self) -> str:
        """The report for a reader, a few lines a problem."""
        lines = [f"{name}: {c.read:,} lines, {c.rejected:,} to reject" for name, c in self.files.items()]
        for problem in self.problems.values():
            lines.append(f"{problem.severity}: {problem.kind} ×{problem.count:,} ({problem.meaning})")
            lines += [f"  {example}" for example in problem.examples[:3]]
        lines.append("no errors" if self.ok else "errors found; `--fix OUT` writes a clean copy")
        if self.fixed is not None:
            lines[-1] = f"clean copy in {self.fixed}: {self.total.kept:,} lines kept, {self.total.rejected:,} rejected"
        return "\n".join(lines)


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {
        "severity": problem.severity,
        "meaning": problem.meaning,
        "count": problem.count,
        "examples": [{"file": e.file, "line": e.line, "detail": e.detail} for e in problem.examples],
    }


def _count_json(count: Count) -> dict[str, int]:
    return {"read": count.read, "kept": count.kept, "rejected": count.rejected}


@dataclass
class Tally:
    """Counts problems while a dataset is read, and keeps the first `limit` of each kind."""

    limit: int
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, kind: str, file: str, line: int | None, detail: str) -> None:
        """Count one occurrence."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < self.limit:
            kept.append(Example(file, line, detail))

    def problems(self) -> dict[str, Problem]:
        """What was counted, errors first."""
        kinds = [("error", k, m) for k, m in ERRORS.items()] + [("warning", k, m) for k, m in WARNINGS.items()]
        return {
            kind: Problem(kind, severity, meaning, self.counts[kind], tuple(self.examples[kind]))
            for severity, kind, meaning in kinds
            if kind in self.counts
        }
