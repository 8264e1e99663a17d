"""Hard negatives: documents that a retriever ranks high for a query and that are not its positives.

What is too near to the positive's score is probably a positive that nobody judged. The margins that drop it are those
of Moreira et al., "NV-Retriever: Improving text embedding models with effective hard-negative mining" (2024):
TopK-MarginPos (`absolute`) and TopK-PercPos (`relative`, .95 in the paper).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import text_key
from lodesmith.core.protocols import Retriever
from lodesmith.core.records import Dataset
from lodesmith.core.run import Run

__all__ = ["Miner", "Mined", "PairScores", "Rules", "threshold"]  # noqa: RUF022 - the component comes first

PairScores = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Mapping[str, Mapping[str, float]]]
"""Scores of given pairs: queries (id → text) and query id → document ids give query id → document id → score."""

Sampling = Literal["top", "random"]

_WORD = re.compile(r"\w+")
_SHINGLE = 3
_SKETCH = 16
"""Texts without a common one among so many of their smallest shingles are not compared: of pairs with a similarity of
.8 that passes over one in 10¹¹, with .5 one in 10⁵ (Broder 1997, in whose terms it is a bottom-k sketch)."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FEW = 1 << 10
"""Documents whose shingles are kept at a time."""
_REMEMBERED = 1 << 16
"""Documents whose key and sketch are kept at a time."""


@dataclass(frozen=True)
class Rules:
    """What a negative is.

    Args:
        negatives: wanted for each query.
        first: the first rank that is looked at, from 1. Positives and what cannot be a document do not count.
        last: the last one.
        absolute: a candidate is dropped when its score is above the positive's less this.
        relative: a candidate is dropped when its score is above the positive's less (1 − relative) of its magnitude:
            `relative` × the positive's where that is above 0, as in NV-Retriever, and lower than it too where scores
            are below 0 (−‖q − d‖², logits), where the bare product would be higher. None turns it off.
        sampling: `top` takes the best ranked that remain, `random` any of them, equally likely.
        similar: two texts are near-duplicates from this Jaccard similarity of their sets of three-word shingles.
        seed: of `random`; a query's choice depends on it and the query's id alone.

    Raises:
        ConfigError: a value is out of range.
    """

    negatives: int = 7
    first: int = 1
    last: int = 100
    absolute: float | None = None
    relative: float | None = 0.95
    sampling: Sampling = "top"
    similar: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ConfigError(f"{self.negatives} negatives a query leave nothing to do", "ask for at least 1")
        if not 1 <= self.first <= self.last:
            raise ConfigError(f"the ranks {self.first}-{self.last} are no range", "give FIRST-LAST, such as 1-100")
        if self.last - self.first + 1 < self.negatives:
            raise ConfigError(
                f"the ranks {self.first}-{self.last} hold fewer than {self.negatives} candidates",
                "widen the range, or ask for fewer negatives",
            )
        if self.absolute is not None and not 0 <= self.absolute < float("inf"):
            raise ConfigError(f"the absolute margin {self.absolute} must be 0 or more", "choose another")
        if self.relative is not None and not 0 < self.relative <= 1:
            raise ConfigError(f"the relative margin {self.relative} must be above 0 and at most 1", "such as .95")
        if self.sampling not in get_args(Sampling):
            raise ConfigError(f"no sampling is called {self.sampling!r}", "choose top or random")
        if not 0 < self.similar <= 1:
            raise ConfigError(f"the similarity {self.similar} must be above 0 and at most 1", "such as .8")

    @property
    def margins(self) -> bool:
        """Whether scores can drop a candidate."""
        return self.absolute is not None or self.relative is not None


@dataclass(frozen=True)
class Mined:
    """The negatives of a query.

    Args:
        ids: documents, best ranked first.
        scores: the retriever's, one each.
        counts: what became of the candidates (`candidates` = `margin-relative` + `margin-absolute` + `duplicate` +
            `near-duplicate` + `repeated` + `empty` + `filtered` + `kept` + `not-needed`), `unknown-document`
            results that the dataset does not hold, how many of those kept were judged non-relevant (`judged-0`), and 1
            each for a query that is `short` of what is wanted, has `none`, is `without-positive`, or has a
            positive outside the ranking (`positive-unranked`).
    """

    ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


def threshold(positive: float, rules: Rules) -> tuple[float, float]:
    """The highest scores that the relative and the absolute margin leave beside a positive of this score."""
    relative = float("inf") if rules.relative is None else positive - (1 - rules.relative) * abs(positive)
    absolute = float("inf") if rules.absolute is None else positive - rules.absolute
    return relative, absolute


class _Words(NamedTuple):
    """A text's name by its words, and its smallest shingles."""

    key: str
    sketch: frozenset[int]


@dataclass
class _Pool:
    """A query's candidates that the margins left, in the order in which they are tried."""

    ids: list[str]
    scores: NDArray[np.float64]
    order: list[int]
    counts: Counter[str]
    forbidden: set[str]
    positives: list[str]
    sketch: frozenset[int]
    tried: set[str] = field(default_factory=set)
    limit: float = float("inf")
    next: int = 0
    chosen: list[int] = field(default_factory=list)


class _Ranking(NamedTuple):
    """A query's results."""

    ids: list[str]
    scores: NDArray[np.float64]
    usable: NDArray[np.bool_]


_NOTHING = _Ranking([], np.empty(0), np.empty(0, np.bool_))


class Miner:
    """Mines the queries of one split.

    Where a query has several positives, the one with the *lowest* score sets the margins: no candidate may come near
    any of them. A positive that the ranking lacks is scored by `scores`; without it, it counts as high as the last
    candidate, which it cannot exceed.

    Args:
        dataset: documents and queries.
        split: whose judgements say what a positive is: every document with a grade above 0. What was judged 0 may
            become a negative.
        rules: what a negative is.
        retriever: ranks the documents.
        scores: the retriever's scores of given pairs.
        judge: scores pairs in the retriever's stead where margins are concerned, such as a cross-encoder.

    Raises:
        ConfigError: there is a judge and no margin.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        rules: Rules,
        retriever: Retriever,
        scores: PairScores | None = None,
        judge: PairScores | None = None,
    ) -> None:
        if judge is not None and not rules.margins:
            raise ConfigError("a filter judges by a margin, and there is none", "set the relative or absolute margin")
        self.dataset, self.rules, self.retriever = dataset, rules, retriever
        self.judged = dataset.split(split)
        self._scores, self._judge = scores, judge
        self._positives = {query: self._positives_of(query) for query in self.judged}
        most = max(map(len, self._positives.values()), default=0)
        self.depth = rules.last + most + dataset.drop_same_id
        """Results that the retriever is asked for."""
        self._words = lru_cache(_REMEMBERED)(self._read)
        self._shingles = lru_cache(_FEW)(self._shingles_of)

    def _positives_of(self, query: str) -> list[str]:
        documents = self.dataset.documents
        return [key for key, grade in self.judged[query].items() if grade > 0 and key in documents]

    def mine(self, queries: Mapping[str, str]) -> Iterator[tuple[str, Mined]]:
        """The negatives of each query (id → text). A query's do not depend on the others."""
        wanted = {query: text for query, text in queries.items() if self._positives.get(query)}
        rankings = self._rankings(self.retriever.search(wanted, self.depth))
        known = self._unranked(wanted, rankings)
        pools = {q: self._pool(q, text, rankings.get(q, _NOTHING), known.get(q, {})) for q, text in wanted.items()}
        if self._judge is not None:
            positives = {query: self._positives[query] for query in wanted}
            for query, found in self._judge(wanted, positives).items():
                pools[query].limit = min(threshold(min(found.values()), self.rules))
        self._choose(wanted, pools)
        for query in queries:
            found_none = Mined(counts={"without-positive": 1})
            yield query, self._mined(query, pools[query]) if query in pools else found_none

    def _rankings(self, run: Run) -> dict[str, _Ranking]:
        """Results by query; those that the dataset does not hold are not usable."""
        used = np.unique(run.rows)
        names = [run.document_ids[row] for row in used.tolist()]
        held = np.fromiter((name in self.dataset.documents for name in names), np.bool_, len(names))
        local = np.searchsorted(used, run.rows)
        found = {}
        for at, query in enumerate(run.query_ids):
            part = slice(int(run.offsets[at]), int(run.offsets[at + 1]))
            ids = [names[row] for row in local[part].tolist()]
            found[query] = _Ranking(ids, run.scores[part], held[local[part]])
        return found

    def _unranked(
        self, queries: Mapping[str, str], rankings: Mapping[str, _Ranking]
    ) -> Mapping[str, Mapping[str, float]]:
        """Scores of the positives that the ranking lacks, as far as they can be had."""
        if self._scores is None or self._judge is not None or not self.rules.margins:
            return {}
        missing: dict[str, list[str]] = {}
        for query in queries:
            ranked = set(rankings.get(query, _NOTHING).ids)
            if absent := [key for key in self._positives[query] if key not in ranked]:
                missing[query] = absent
        return self._scores({query: queries[query] for query in missing}, missing) if missing else {}

    def _pool(self, query: str, text: str, ranking: _Ranking, known: Mapping[str, float]) -> _Pool:
        rules, counts, positives = self.rules, Counter[str](), self._positives[query]
        ids, scores = ranking.ids, ranking.scores
        own = set(positives)
        reached = [*(float(scores[at]) for at, key in enumerate(ids) if key in own), *known.values()]
        if len(reached) < len(positives) and len(scores):
            reached.append(float(scores[-1]))
        counts["positive-unranked"] = int(not own.issubset(ids))
        counts["unknown-document"] = int((~ranking.usable).sum())
        skipped = own | {query} if self.dataset.drop_same_id else own
        usable = [at for at in np.flatnonzero(ranking.usable).tolist() if ids[at] not in skipped]
        at = np.asarray(usable[rules.first - 1 : rules.last], np.int64)
        counts["candidates"] = len(at)
        if self._judge is None and rules.margins and reached:
            at = _within(scores, at, threshold(min(reached), rules), counts)
        words = [self._words(key) for key in positives]
        forbidden = {text_key(_plain(text)), *(word.key for word in words)}
        sketch = frozenset[int]().union(*(word.sketch for word in words))
        names = [ids[i] for i in at.tolist()]
        return _Pool(names, scores[at], self._order(query, len(at)), counts, forbidden, positives, sketch)

    def _order(self, query: str, count: int) -> list[int]:
        """The order in which a query's candidates are tried."""
        if self.rules.sampling == "top":
            return list(range(count))
        seed = int(text_key(f"{self.rules.seed}\0{query}")[:16], 16)
        return [int(at) for at in np.random.default_rng(seed).permutation(count)]

    def _choose(self, queries: Mapping[str, str], pools: Mapping[str, _Pool]) -> None:
        """Try the candidates in their order until there are enough; those that the judge refuses are replaced."""
        while proposed := {query: found for query, pool in pools.items() if (found := self._propose(pool))}:
            if self._judge is None:
                for query, found in proposed.items():
                    pools[query].chosen += found
                return
            documents = {query: [pools[query].ids[at] for at in found] for query, found in proposed.items()}
            judged = self._judge({query: queries[query] for query in proposed}, documents)
            for query, found in proposed.items():
                pool = pools[query]
                accepted = [at for at in found if judged[query][pool.ids[at]] <= pool.limit]
                pool.counts["filtered"] += len(found) - len(accepted)
                pool.chosen += accepted

    def _propose(self, pool: _Pool) -> list[int]:
        """The next candidates that are no duplicates, as many as are still wanted."""
        found: list[int] = []
        while pool.next < len(pool.order) and len(pool.chosen) + len(found) < self.rules.negatives:
            at = pool.order[pool.next]
            pool.next += 1
            word = self._words(pool.ids[at])
            if reason := self._refusal(pool.ids[at], word, pool):
                pool.counts[reason] += 1
                continue
            pool.tried.add(word.key)
            found.append(at)
        return found

    def _refusal(self, key: str, word: _Words, pool: _Pool) -> str:
        """Why a text cannot be a negative; empty where it can."""
        if not word.key:
            return "empty"
        if word.key in pool.forbidden:
            return "duplicate"
        if word.key in pool.tried:
            return "repeated"
        if word.sketch.isdisjoint(pool.sketch):
            return ""
        shingles, least = self._shingles(key), self.rules.similar
        return "near-duplicate" if any(_alike(shingles, self._shingles(p), least) for p in pool.positives) else ""

    def _mined(self, query: str, pool: _Pool) -> Mined:
        chosen = sorted(pool.chosen)
        ids = tuple(pool.ids[at] for at in chosen)
        counts = pool.counts
        counts["kept"], counts["not-needed"] = len(ids), len(pool.order) - pool.next
        counts["judged-0"] = sum(key in self.judged[query] for key in ids)
        counts["short"], counts["none"] = int(len(ids) < self.rules.negatives), int(not ids)
        scores = tuple(float(str(np.float32(pool.scores[at]))) for at in chosen)
        return Mined(ids, scores, {name: count for name, count in counts.items() if count})

    def _read(self, key: str) -> _Words:
        document = self.dataset.documents[key]
        words = _WORD.findall(document.content.lower())
        if not words and not document.image:
            return _Words("", frozenset())
        name = " ".join(words) + (f"\0{document.image}" if document.image else "")
        return _Words(text_key(name), frozenset(_hashed(words)[:_SKETCH].tolist()))

    def _shingles_of(self, key: str) -> frozenset[int]:
        return frozenset(_hashed(_WORD.findall(self.dataset.documents[key].content.lower())).tolist())


def _hashed(words: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes of a text's word shingles, rising, each once; a text that is shorter is one shingle, zeros at its end."""
    count = max(len(words), _SHINGLE) if words else 0
    hashes = np.zeros(count, np.int64)
    hashes[: len(words)] = np.fromiter(map(hash, words), np.int64, len(words))
    mixed = np.zeros(max(0, count - _SHINGLE + 1), np.uint64)
    for at in range(_SHINGLE if count else 0):
        mixed = (mixed + hashes[at : at + len(mixed)].view(np.uint64)) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    mixed.sort()
    return mixed[np.concatenate([[True], mixed[1:] != mixed[:-1]])] if len(mixed) else mixed


def _within(
    scores: NDArray[np.float64], at: NDArray[np.int64], limits: tuple[float, float], counts: Counter[str]
) -> NDArray[np.int64]:
    """The positions whose scores the margins leave."""
    relative = scores[at] > limits[0]
    absolute = ~relative & (scores[at] > limits[1])
    counts["margin-relative"], counts["margin-absolute"] = int(relative.sum()), int(absolute.sum())
    return at[~relative & ~absolute]


def _plain(text: str) -> str:
    """A text's words in lower case: equal for texts that differ in case, punctuation and spacing alone."""
    return " ".join(_WORD.findall(text.lower()))


def _alike(a: frozenset[int], b: frozenset[int], least: float) -> bool:
    """Whether the Jaccard similarity of two sets is at least `least`."""
    few, many = sorted((len(a), len(b)))
    if not few or few < least * many:
        return False
    both = len(a & b)
    return both >= least * (len(a) + len(b) - both)
