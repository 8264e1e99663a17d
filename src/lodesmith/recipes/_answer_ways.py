"""The ways to answer a dataset's questions, and what each question reads in one of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.progress import listen, tell
from lodesmith.core.records import Dataset
from lodesmith.core.registry import did_you_mean
from lodesmith.core.run import Run
from lodesmith.recipes._answer_memory import PooledMemory, donors
from lodesmith.recipes._answer_pools import Kind, Pools, Questions, check_kind
from lodesmith.recipes._streaming import Stream

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["TEXTS", "WAYS", "Plan", "Reading", "Times", "read_memory", "read_text", "timed", "written"]

WAYS: Mapping[str, int | None] = {
    "closed": None,
    "text": None,
    "text-truncated": None,
    "full": None,
    "full-given": None,
    "random": None,
    "shuffled": None,
    "stage1": 1,
    "stage1-ranked": 1,
    "stage2": 2,
    "stage2-ranked": 2,
}
"""Each way with the stage whose model it takes; None for the final one. In the order in which they are measured."""
TEXTS = ("closed", "text", "text-truncated")
"""The ways that read texts, or nothing, by the language model without adapters."""
_GIVEN = ("stage1", "stage2", "full-given")
"""The ways that read memory in the pool's own order, as texts are read; the others rank the pool themselves."""
_CHUNK = 256
_TIMED, _SECONDS = 20, 10.0
"""How many questions are asked one by one to measure the latency, and how long that may take."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        ways: of `WAYS`, each once.
        pool: `normal`, the documents that retrieval gives; `oracle`, gold documents put among them.
        documents: k, read for a question.
        candidates: m, of a question's pool.
        limit: of the questions; None for all.
        max_new_tokens: of an answer.
        seed: of what is drawn for `random` and `shuffled`.

    Raises:
        ConfigError: a way or the pool is unknown, or a number is out of range.
    """

    ways: tuple[str, ...] = ("full",)
    pool: Kind = "normal"
    documents: int = 5
    candidates: int = 20
    limit: int | None = None
    max_new_tokens: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ways:
            raise ConfigError("no way to answer is named", f"choose some of: {', '.join(sorted(WAYS))}")
        for way in self.ways:
            if way not in WAYS:
                raise ConfigError(f"there is no way to answer called {way!r}", did_you_mean(way, [*WAYS]))
        if len(set(self.ways)) < len(self.ways):
            raise ConfigError(f"{','.join(self.ways)!r} does not name each way once", "name it once")
        check_kind(self.pool)
        numbers = {"documents": self.documents, "candidates": self.candidates, "max_new_tokens": self.max_new_tokens}
        if self.limit is not None:
            numbers["limit"] = self.limit
        if low := [name for name, number in numbers.items() if number < 1]:
            raise ConfigError(f"{low[0]} is {numbers[low[0]]}", "give at least 1")
        if self.documents > self.candidates:
            raise ConfigError(
                f"{self.documents} documents cannot be read of {self.candidates} candidates", "raise --candidates"
            )
        if self.seed < 0:
            raise ConfigError(f"the seed is {self.seed}", "give 0 or more")


@dataclass(frozen=True)
class Reading:
    """What the questions read.

    Args:
        documents: query id → memory [t, H], or texts.
        ranking: the pools in the order in which they are read; None where nothing is.
        tokens: query id → tokens of what it reads, the prompt's own not among them.
        how: of `MemoryEncoder.answer`: `adapter`, `text_tokens`.
        rank: ranks the pool of one query again; None where it is read in its own order.
    """

    documents: Mapping[str, Sequence[Any]]
    ranking: Run | None
    tokens: Mapping[str, int]
    how: Mapping[str, Any]
    rank: Callable[[str], object] | None = None


def read_text(way: str, plan: Plan, encoder: MemoryEncoder, dataset: Dataset, pools: Pools) -> Reading:
    """The first documents of each pool as texts; of `text-truncated` as many tokens each as memory has; of `closed`
    none."""
    if way == "closed":
        return Reading(dict.fromkeys(pools.orders, ()), None, dict.fromkeys(pools.orders, 0), {"adapter": None})
    most = encoder.count if way == "text-truncated" else None
    read = {query: order[: plan.documents] for query, order in pools.orders.items()}
    texts = {key: dataset.documents[key].content for key in dict.fromkeys(k for own in read.values() for k in own)}
    sizes = {key: len(encoder.tokens(text, most)) for key, text in texts.items()}
    return Reading(
        {query: [texts[key] for key in own] for query, own in read.items()},
        _given(pools),
        {query: sum(sizes[key] for key in own) for query, own in read.items()},
        {"adapter": None, "text_tokens": most},
    )


def _given(pools: Pools) -> Run:
    """Each pool in its own order."""
    return Run.of(
        {query: {key: float(len(order) - at) for at, key in enumerate(order)} for query, order in pools.orders.items()}
    )


def read_memory(way: str, plan: Plan, asked: Questions, pooled: PooledMemory) -> Reading:
    """The documents of each pool that the model ranks first, or that stand first, as its memory.

    Of `random` each is replaced by noise; of `shuffled` a question reads what another one would, and the ranking is
    that one's.

    Raises:
        InputError: one question cannot be shuffled.
    """
    ranking = _given(pooled.pools) if way in _GIVEN else pooled.ranking
    if way == "shuffled":
        ranking = _shuffled(plan, asked, ranking)
    read = {query: [key for key, _ in ranking[query][: plan.documents]] for query in asked.texts}
    made = (lambda key: pooled.noise(key, plan.seed)) if way == "random" else pooled.memory
    return Reading(
        _Lazy(read, made),
        ranking,
        {query: len(own) * pooled.encoder.count for query, own in read.items()},
        {"adapter": "decoder"},
        None if way in _GIVEN else lambda query: Run.of(pooled.scores([query])),
    )


def _shuffled(plan: Plan, asked: Questions, ranking: Run) -> Run:
    if len(asked.texts) < 2:
        raise InputError("one question cannot read what another one reads", "ask at least two, or leave shuffled out")
    keys = list(asked.texts)
    order = [keys[at] for at in np.random.default_rng(plan.seed).permutation(len(keys)).tolist()]
    read = {query: [key for key, _ in found[: plan.documents]] for query, found in ranking.items()}
    given = donors(order, read, asked.relevant)
    return Run.of({query: dict(ranking[given[query]]) for query in keys})


class _Lazy(Mapping[str, Sequence[Any]]):
    """Query id → the memory of its documents, made when it is asked for."""

    def __init__(self, read: Mapping[str, Sequence[str]], made: Callable[[str], Any]) -> None:
        self._read, self._made = read, made

    def __getitem__(self, query: str) -> Sequence[Any]:
        return [self._made(key) for key in self._read[query]]

    def __iter__(self) -> Any:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def written(way: str, plan: Plan, encoder: MemoryEncoder, asked: Questions, reading: Reading) -> dict[str, str]:
    """The answer to each question."""
    keys: list[str] = list(asked.texts)
    found: dict[str, str] = {}
    tell(f"answer, {way}", 0, len(keys), "questions")
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        texts = [asked.texts[key] for key in part]
        own = [reading.documents[key] for key in part]
        made = encoder.answer(texts, own, max_new_tokens=plan.max_new_tokens, **reading.how)
        found.update(zip(part, map(str, made), strict=True))
        tell(f"answer, {way}", start + len(part), len(keys), "questions")
    return found


@dataclass(frozen=True)
class Times:
    """Median milliseconds of a question asked alone: to find and rank its pool, until the first token of its answer
    from then on, and for the rest of the answer."""

    retrieval: float
    prefill: float
    generation: float
    total: float


def timed(plan: Plan, encoder: MemoryEncoder, asked: Questions, reading: Reading, pools: Pools) -> Times:
    """Ask the first questions one by one, after one warm-up; as many as some seconds take, at least three."""
    rows: list[tuple[float, float, float]] = []
    sample = list(asked.texts)[:_TIMED]
    with listen(lambda _: None):  # a single question is no progress
        _alone(sample[0], plan, encoder, asked, reading, pools)
        for query in sample:
            if len(rows) >= 3 and sum(map(sum, rows)) > _SECONDS:
                break
            rows.append(_alone(query, plan, encoder, asked, reading, pools))
    columns = [statistics.median(column) * 1000 for column in zip(*rows, strict=True)]
    return Times(columns[0], columns[1], columns[2], statistics.median(map(sum, rows)) * 1000)


def _alone(
    query: str, plan: Plan, encoder: MemoryEncoder, asked: Questions, reading: Reading, pools: Pools
) -> tuple[float, float, float]:
    """Seconds of one question: retrieval, until the first token, and from then to the last."""
    found = 0.0 if reading.ranking is None else pools.seconds(query)
    start = time.perf_counter()
    if reading.rank is not None:
        reading.rank(query)
    own = reading.documents[query]
    begin, stream = time.perf_counter(), Stream()
    encoder.answer([asked.texts[query]], [own], max_new_tokens=plan.max_new_tokens, streamer=stream, **reading.how)
    end = time.perf_counter()
    first = end if stream.first is None else stream.first
    return found + begin - start, first - begin, end - first
