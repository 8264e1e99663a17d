"""Measures of rankings, by the conventions of trec_eval, vectorised over queries.

A measure is a value and its spelling is its name everywhere: in Python, on the command line and in files.

>>> parse("nDCG@10")
nDCG@10
>>> parse("nDCG@10") == Measure("nDCG", 10)
True

Gains are linear: a document of grade g at rank r adds g / log2(r + 1). A document is relevant where its grade is
above 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.registry import did_you_mean
from lodesmith.core.run import Run
from lodesmith.core.tables import Judgements
from lodesmith.evaluation.hits import Floats, Hits

__all__ = ["DEFAULT", "Measure", "Scores", "parse", "score"]

_OTHER_NAMES = {"MRR": "RR", "MAP": "AP", "RECALL": "R", "PRECISION": "P", "HIT": "Success", "HITS": "Success"}


@dataclass(frozen=True, repr=False)
class Measure:
    """A measure and its cut-off; `str` and `repr` give its spelling.

    Args:
        name: `nDCG`, `RR`, `AP`, `R`, `P`, `Judged` or `Success`.
        cutoff: how many results count; None for all of them (not for P and Success).

    Raises:
        ConfigError: there is no such measure.
    """

    name: str
    cutoff: int | None = None

    def __post_init__(self) -> None:
        if self.name not in _FORMULAS:
            raise ConfigError(f"no measure is called {self.name!r}", did_you_mean(self.name, list(_FORMULAS)))
        if self.cutoff is None and self.name in _NEED_CUTOFF:
            raise ConfigError(f"{self.name} needs a cut-off", f"write {self.name}@10, or another number")
        if self.cutoff is not None and self.cutoff < 1:
            raise ConfigError(f"the cut-off of {self.name} must be at least 1, not {self.cutoff}")

    def __str__(self) -> str:
        return self.name if self.cutoff is None else f"{self.name}@{self.cutoff}"

    __repr__ = __str__


def parse(spelling: str) -> Measure:
    """The measure of a spelling such as `nDCG@10`, `RR` or `R@1000`.

    Raises:
        ConfigError: it is none; the message offers the nearest.
    """
    name, at, cutoff = spelling.strip().partition("@")
    if name not in _FORMULAS:
        raise ConfigError(f"no measure is called {spelling!r}", _nearest(name, at + cutoff))
    if at and not re.fullmatch("[0-9]{1,9}", cutoff):
        raise ConfigError(f"{spelling!r}: the cut-off must be a whole number, not {cutoff!r}", f"write {name}@10")
    return Measure(name, int(cutoff) if at else None)


def _nearest(name: str, rest: str) -> str:
    known = {key.upper(): key for key in _FORMULAS} | _OTHER_NAMES
    if found := known.get(name.upper()):
        return f"did you mean {found + rest!r}?"
    return did_you_mean(name, list(_FORMULAS)) + " (with a cut-off, such as nDCG@10)"


@dataclass(frozen=True, eq=False)
class Scores:
    """The value of each measure for each judged query.

    Args:
        query_ids: the n judged queries, in the order of the judgements.
        values: measure → float64 [n].
        missing: the queries for which the run holds no result; they count 0.
    """

    query_ids: tuple[str, ...]
    values: Mapping[Measure, Floats]
    missing: tuple[str, ...] = ()

    def __getitem__(self, measure: Measure | str) -> Floats:
        return self.values[parse(measure) if isinstance(measure, str) else measure]

    def __len__(self) -> int:
        return len(self.query_ids)

    @cached_property
    def means(self) -> dict[str, float]:
        """Spelling → mean over all judged queries."""
        return {str(measure): float(values.mean()) for measure, values in self.values.items()}

    def per_query(self) -> dict[str, dict[str, float]]:
        """Query id → spelling → value, as the evaluation file has it."""
        names = [str(measure) for measure in self.values]
        columns = zip(*(values.tolist() for values in self.values.values()), strict=True)
        return {query: dict(zip(names, row, strict=True)) for query, row in zip(self.query_ids, columns, strict=True)}

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {mean:.4f}" for name, mean in self.means.items())
        return f"Scores({len(self)} queries, {len(self.missing)} missing: {means})"


def score(run: Run, judgements: Judgements, measures: Iterable[Measure], *, drop_same_id: bool = False) -> Scores:
    """Measure a run against judgements.

    Every judged query counts: without results, or without any relevant document, its value is 0, as in
    trec_eval's average over all judged queries (`-c`). Queries of the run that are not judged are left aside.

    Args:
        run: the rankings.
        judgements: query id → document id → grade.
        measures: what to compute.
        drop_same_id: leave out a result whose id is the query's, before any cut-off (ArguAna, Quora).

    Raises:
        InputError: no query is judged, a grade is not an integer of at least 0, or the run holds a judged document
            twice for a query.
        ConfigError: no measure is asked for.
    """
    measures = list(dict.fromkeys(measures))
    if not measures:
        raise ConfigError("no measure is asked for", "name at least one, such as nDCG@10")
    if not judgements:
        raise InputError("there are no judged queries", "choose a split that has judgements")
    hits = Hits.of(run, judgements, _depth(measures), drop_same_id=drop_same_id)
    values = {measure: _FORMULAS[measure.name](hits, measure.cutoff) for measure in measures}
    query_ids = tuple(judgements)
    return Scores(query_ids, values, tuple(query_ids[i] for i in hits.missing))


def _depth(measures: Sequence[Measure]) -> int | None:
    """How many results of a query can matter; None for all."""
    cutoffs = [measure.cutoff for measure in measures]
    return None if None in cutoffs else max(cutoff for cutoff in cutoffs if cutoff is not None)


def _divide(above: Floats, below: Floats) -> Floats:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _ndcg(hits: Hits, cutoff: int | None) -> Floats:
    """Discounted gain over that of the ideal ranking, to the same cut-off (Järvelin & Kekäläinen 2002, linear gain)."""
    kept = hits.within(cutoff)
    gained = hits.total(hits.query[kept], hits.gain[kept] / np.log2(hits.rank[kept] + 1))
    ideal = slice(None) if cutoff is None else hits.ideal_rank <= cutoff
    gains = hits.ideal_gain[ideal] / np.log2(hits.ideal_rank[ideal] + 1)
    return _divide(gained, hits.total(hits.ideal_query[ideal], gains))


def _reciprocal_rank(hits: Hits, cutoff: int | None) -> Floats:
    """1 / rank of the first relevant result; 0 where it stands below the cut-off."""
    kept = hits.within(cutoff)
    query, first = np.unique(hits.query[kept], return_index=True)
    values = np.zeros(hits.queries)
    values[query] = 1 / hits.rank[kept][first]
    return values


def _average_precision(hits: Hits, cutoff: int | None) -> Floats:
    """Sum of the precision at each relevant result to the cut-off, over all relevant documents."""
    kept = hits.within(cutoff)
    query, rank = hits.query[kept], hits.rank[kept]
    ordinal = np.arange(len(query)) - np.searchsorted(query, query) + 1
    return _divide(hits.total(query, ordinal / rank), hits.relevant)


def _recall(hits: Hits, cutoff: int | None) -> Floats:
    """Relevant results to the cut-off over all relevant documents."""
    return _divide(hits.total(hits.query[hits.within(cutoff)]), hits.relevant)


def _precision(hits: Hits, cutoff: int | None) -> Floats:
    """Relevant results to the cut-off over the cut-off, even where fewer were retrieved."""
    return hits.total(hits.query[hits.within(cutoff)]) / (cutoff or 1)


def _judged(hits: Hits, cutoff: int | None) -> Floats:
    """Judged results to the cut-off over the results there are to it (ir_measures' definition); 0 without results."""
    retrieved = hits.retrieved if cutoff is None else np.minimum(hits.retrieved, cutoff)
    return _divide(hits.total(hits.query[hits.within(cutoff, relevant=False)]), retrieved.astype(np.float64))


def _success(hits: Hits, cutoff: int | None) -> Floats:
    """1 where a relevant result stands at or above the cut-off, else 0."""
    return (hits.total(hits.query[hits.within(cutoff)]) > 0).astype(np.float64)


_FORMULAS: dict[str, Callable[[Hits, int | None], Floats]] = {
    "nDCG": _ndcg,
    "RR": _reciprocal_rank,
    "AP": _average_precision,
    "R": _recall,
    "P": _precision,
    "Judged": _judged,
    "Success": _success,
}
_NEED_CUTOFF = ("P", "Success")

DEFAULT: tuple[Measure, ...] = tuple(
    map(parse, ["nDCG@5", "nDCG@10", "RR@10", "AP@100", "R@1", "R@5", "R@10", "R@100", "P@10", "Judged@10"])
)
"""What every evaluation computes."""
