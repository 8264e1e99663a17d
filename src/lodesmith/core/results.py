"""`Evaluation` and `Comparison`: figures that know their system, dataset, uncertainty and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json, write_json


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Evaluation:
    """One system on one split of one dataset.

    Args:
        measures: measure → estimate.
        per_query: query id → measure → value.
        cost: `encode_docs_per_s`, `query_ms_p50`, `index_bytes`, `parameters`, where they apply.
        fingerprints: of the dataset, the model and whatever else decides the figures.
        missing: how many of the judged queries the run had no result for; each counts 0.
        answers: query id → what was written, where answers were measured.
    """

    system: str
    dataset: str
    split: str
    queries: int
    measures: Mapping[str, Estimate]
    per_query: Mapping[str, Mapping[str, float]]
    cost: Mapping[str, float | None] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    answers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The evaluation file's content."""
        return {name: value for name, value in asdict(self).items() if name != "answers" or value}

    def save(self, path: Path | str) -> None:
        """Write the evaluation file atomically."""
        write_json(path, self.to_json(), indent=1)

    def check(self) -> None:
        """Compare the fields with each other.

        Raises:
            TypeError: a field is of the wrong type.
            ValueError: a figure is not possible, or a mean is not that of its queries.
        """
        for name in ("system", "dataset", "split"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is {getattr(self, name)!r}")
        rows = list(self.per_query.values())
        if len(rows) != self.queries:
            raise ValueError(f"{self.queries} queries are announced, {len(rows)} are there")
        if not isinstance(self.answers, Mapping) or not self.answers.keys() <= self.per_query.keys():
            raise ValueError("there are answers to queries that are not there")
        for name, estimate in self.measures.items():
            values = [float(row[name]) for row in rows if name in row]
            if not all(0 <= value <= 1 for value in values):
                raise ValueError(f"a value of {name} lies outside 0 to 1")
            if values and abs(sum(values) / len(values) - estimate.mean) > 1e-6:
                raise ValueError(f"the mean of {name} is {estimate.mean}, its queries say {sum(values) / len(values)}")

    @classmethod
    def load(cls, path: Path | str) -> Evaluation:
        """Read an evaluation file.

        Raises:
            InputError: it is not one.
        """
        value = read_json(path)
        try:
            measures = {name: Estimate(**estimate) for name, estimate in value["measures"].items()}
            found = cls(**{**value, "measures": measures})
            found.check()
            return found
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"not an evaluation file: {error}", "make one with `lode evaluate … --out FILE`", path=path
            ) from None


@dataclass(frozen=True)
class Pair:
    """The paired comparison of system `a` with system `b` on one dataset: `difference` is mean(a) − mean(b).

    `p` is the randomisation test's, `p_t` the paired t-test's, `p_holm` is `p` corrected over the `family`;
    `detectable` is the difference that this number of queries finds with 80 % power at 5 %.
    """

    a: str
    b: str
    dataset: str
    family: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_t: float
    p_holm: float
    significant: bool
    wins: int
    ties: int
    losses: int
    queries: int
    detectable: float


@dataclass(frozen=True)
class Comparison:
    """All pairs of systems on one measure, or those that were planned; Holm's correction runs over all of them."""

    baseline: str
    measure: str
    systems: tuple[str, ...]
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison file's content."""
        return asdict(self) | {"systems": list(self.systems), "pairs": [asdict(pair) for pair in self.pairs]}

    def save(self, path: Path | str) -> None:
        """Write the comparison file atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Comparison:
        """Read a comparison file.

        Raises:
            InputError: it is not one.
        """
        value = read_json(path)
        try:
            pairs = tuple(Pair(**pair) for pair in value["pairs"])
            return cls(value["baseline"], value["measure"], tuple(value["systems"]), pairs)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"not a comparison file: {error}", "make one with `lode compare … --out FILE`", path=path
            ) from None

    def pair(self, a: str, b: str, dataset: str | None = None) -> Pair:
        """The pair of `a` against `b`, turned round where it was computed as `b` against `a`.

        Raises:
            KeyError: there is no such pair.
        """
        for pair in self.pairs:
            if dataset is not None and pair.dataset != dataset:
                continue
            if (pair.a, pair.b) == (a, b):
                return pair
            if (pair.a, pair.b) == (b, a):
                return _turned(pair)
        raise KeyError((a, b, dataset))


def _turned(pair: Pair) -> Pair:
    values = asdict(pair)
    values |= {"a": pair.b, "b": pair.a, "difference": -pair.difference, "low": -pair.high, "high": -pair.low}
    return Pair(**(values | {"wins": pair.losses, "losses": pair.wins}))


@dataclass(frozen=True)
class Recommendation:
    """The system to use, and why.

    Args:
        system: the recommended one.
        measure: what it was chosen by.
        reason: one sentence with the figures.
        notes: a sentence for each other system considered, from the simplest to the most complex.
    """

    system: str
    measure: str
    reason: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the same fields."""
        return asdict(self) | {"notes": list(self.notes)}
