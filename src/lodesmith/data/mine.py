"""Hard negatives: documents that a retriever ranks high for a query and that are not its positives.

What is too near to the positive's score is probably a positive that nobody judged. The margins that drop it are those
of Moreira et al., "NV-Retriever: Improving text embedding models with effective hard-negative mining" (2024):
TopK-MarginPos (`absolute`) and TopK-PercPos (`relative`, .95 in the paper).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import text_key
from lodesmith.core.protocols import Retriever
from lodesmith.core.records import Dataset
from lodesmith.data._ranked import Ranked
from lodesmith.data._wording import Wordings, spelled

__all__ = ["Miner", "Mined", "PairScores", "Rules", "threshold"]  # noqa: RUF022 - the component comes first

PairScores = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Mapping[str, Mapping[str, float]]]
"""Scores of given pairs: queries (id → text) and query id → document ids give query id → document id → score."""

Sampling = Literal["top", "random"]


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
    if positive == float("inf"):  # nothing is known of the positive
        return positive, positive
    relative = float("inf") if rules.relative is None else positive - (1 - rules.relative) * abs(positive)
    absolute = float("inf") if rules.absolute is None else positive - rules.absolute
    return relative, absolute


@dataclass
class _Pool:
    """A query's candidates that the margins left, in the order in which they are tried."""

    ids: Sequence[str]
    scores: NDArray[np.float64]
    order: Sequence[int]
    counts: Counter[str]
    forbidden: set[bytes]
    positives: Sequence[str]
    tried: set[bytes] = field(default_factory=set)
    limit: float = float("inf")
    next: int = 0
    chosen: list[int] = field(default_factory=list)


class Miner:
    """Mines the queries of one split.

    Where a query has several positives, the one with the *lowest* score sets the margins: no candidate may come near
    any of them. A positive that the ranking lacks is scored by `scores`; without it, it counts as high as the last
    candidate, which it cannot exceed.

    Args:
        dataset: documents and queries.
        split: whose judgements say which positives set the margins: the documents with a grade above 0. What any
            split judges above 0, for this query or for one of the same words, is no negative, nor is a duplicate of it.
            What was judged 0 may become one.
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
        self._known = self._known_positives()
        most = max((len(self._known[query]) for query in self.judged), default=0)
        self.depth = rules.last + most + dataset.drop_same_id
        """Results that the retriever is asked for."""
        self._wordings = Wordings(dataset.documents)

    def _positives_of(self, query: str) -> list[str]:
        documents = self.dataset.documents
        return [key for key, grade in self.judged[query].items() if grade > 0 and key in documents]

    def _known_positives(self) -> dict[str, dict[str, None]]:
        """By query what any split judges relevant to it, and its own split to a query of the same words.

        Other splits' judgements of other queries do not count: what a test judges must not decide what is trained on.
        """
        queries, documents = self.dataset.queries, self.dataset.documents
        words = {key: spelled(query.content) or key for key, query in queries.items()}
        found: dict[bytes | str, dict[str, None]] = defaultdict(dict)
        for judged in self.dataset.judgements.values():
            for query, grades in judged.items():
                if query in self.judged:
                    own = found[words.get(query, query)]
                    own.update((key, None) for key, grade in grades.items() if grade > 0 and key in documents)
        return {query: found[words.get(query, query)] for query in self.judged}

    def mine(self, queries: Mapping[str, str]) -> Iterator[tuple[str, Mined]]:
        """The negatives of each query (id → text). A query's do not depend on the others."""
        wanted = {query: text for query, text in queries.items() if self._positives.get(query)}
        ranked = Ranked.of(self.retriever.search(wanted, self.depth), list(wanted), self.dataset.documents)
        pools = self._pools(wanted, ranked)
        if self._judge is not None:
            positives = {query: self._positives[query] for query in wanted}
            for query, found in self._judge(wanted, positives).items():
                pools[query].limit = min(threshold(min(found.values()), self.rules))
        self._choose(wanted, pools)
        for query in queries:
            found_none = Mined(counts={"without-positive": 1})
            yield query, self._mined(query, pools[query]) if query in pools else found_none

    def _pools(self, queries: Mapping[str, str], ranked: Ranked) -> dict[str, _Pool]:
        """What the ranks and the margins leave of each query's results, all queries at once."""
        rules, names = self.rules, list(queries)
        positive = ranked.among([self._positives[query] for query in names])
        passed = [[*self._known[q], q] if self.dataset.drop_same_id else list(self._known[q]) for q in names]
        inside = ranked.ranks(ranked.held & ~ranked.among(passed), rules.first, rules.last)
        short = ranked.count(positive) < [len(self._positives[query]) for query in names]
        left, relative = inside, np.zeros_like(inside)
        if self._judge is None and rules.margins:
            reached = self._reached(queries, ranked, positive, short)
            limits = np.array([threshold(score, rules) for score in reached.tolist()]).reshape(len(names), 2)
            relative = inside & (ranked.scores > limits[ranked.owner, 0])
            left = inside & ~relative & ~(ranked.scores > limits[ranked.owner, 1])
        counts = {
            "positive-unranked": short,
            "unknown-document": ranked.count(~ranked.held),
            "candidates": ranked.count(inside),
            "margin-relative": ranked.count(relative),
            "margin-absolute": ranked.count(inside & ~relative & ~left),
        }
        table = {name: values.astype(np.int64).tolist() for name, values in counts.items()}
        return {
            query: self._pool(query, queries[query], *found, Counter({name: table[name][at] for name in table}))
            for at, (query, found) in enumerate(zip(names, ranked.parts(left), strict=True))
        }

    def _reached(
        self, queries: Mapping[str, str], ranked: Ranked, positive: NDArray[np.bool_], short: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The lowest score of each query's positives; infinite where there is nothing to go by."""
        reached = ranked.lowest(positive)
        names = list(queries)
        if self._scores is None:
            return np.where(short, np.minimum(reached, ranked.last), reached)
        missing: dict[str, list[str]] = {}
        for at in np.flatnonzero(short).tolist():
            seen = set(ranked.ids(at))
            missing[names[at]] = [key for key in self._positives[names[at]] if key not in seen]
        known = self._scores({query: queries[query] for query in missing}, missing) if missing else {}
        for at in np.flatnonzero(short).tolist():
            found = known.get(names[at], {})
            rest = [] if len(found) == len(missing[names[at]]) else [float(ranked.last[at])]
            reached[at] = min([float(reached[at]), *found.values(), *rest])
        return reached

    def _pool(
        self, query: str, text: str, ids: Sequence[str], scores: NDArray[np.float64], counts: Counter[str]
    ) -> _Pool:
        positives = list(self._known[query])
        forbidden = {spelled(text), *(self._wordings.words(key).spelling for key in positives)}
        return _Pool(ids, scores, self._order(query, len(ids)), counts, forbidden, positives)

    def _order(self, query: str, count: int) -> Sequence[int]:
        """The order in which a query's candidates are tried."""
        if self.rules.sampling == "top":
            return range(count)
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
            words = self._wordings.words(pool.ids[at]).spelling
            if reason := self._refusal(pool.ids[at], words, pool):
                pool.counts[reason] += 1
                continue
            pool.tried.add(words)
            found.append(at)
        return found

    def _refusal(self, key: str, words: bytes, pool: _Pool) -> str:
        """Why a text cannot be a negative; empty where it can."""
        if not words:
            return "empty"
        if words in pool.forbidden:
            return "duplicate"
        if words in pool.tried:
            return "repeated"
        least = self.rules.similar
        return "near-duplicate" if any(self._wordings.near(key, other, least) for other in pool.positives) else ""

    def _mined(self, query: str, pool: _Pool) -> Mined:
        chosen = sorted(pool.chosen)
        ids = tuple(pool.ids[at] for at in chosen)
        counts = pool.counts
        counts["kept"], counts["not-needed"] = len(ids), len(pool.order) - pool.next
        counts["judged-0"] = sum(key in self.judged[query] for key in ids)
        counts["short"], counts["none"] = int(len(ids) < self.rules.negatives), int(not ids)
        scores = tuple(float(str(np.float32(pool.scores[at]))) for at in chosen)
        return Mined(ids, scores, {name: count for name, count in counts.items() if count})
