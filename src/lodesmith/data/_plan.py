"""One epoch's batches: near in length yet shuffled, within the budget, and apart from their false negatives.

Examples are put in the order of their length times noise. Those that share a query or a document are then pushed apart
by more than a batch; the order is cut into batches, and an example that still conflicts is put aside for a later pass.
What remains after the passes is ordered so that neighbours differ where that is possible, and a conflict closes the
batch: one document with a thousand queries ends in a thousand small batches. Batches of few examples are then given
some of the largest ones. All of it takes n log n time, and memory in arrays. Last, the batches are shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lodesmith.data._budget import Budget, Examples, Load, Sizes
from lodesmith.data._conflicts import Conflicts, Seated

__all__ = ["Plan", "Planner", "collisions_of"]

_APART = 1.5
"""Examples that share a text are pushed so many batches apart."""
_PASSES = 4
"""So often an example may be put aside before it closes a batch."""
_ATTEMPTS = 4
"""So many shuffles are tried for an epoch that fits into the number of batches."""
_LEAST = 16
"""A batch of fewer examples (or of less than half the usual number) is given some of others."""
_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of an epoch.

    Args:
        order: int32 [n], the examples, one batch after another.
        bounds: int64 [batches + 1].
        displaced: how often an example was put aside for a later batch.
        collisions: examples that conflict with another of their batch; not 0 only where there are several ranks, or
            where they are not kept apart.
        short: batches closed by a conflict, the end of the examples or the need for a fixed number of batches.
        beyond: batches that hold more than the budget: a single long example, or one for each rank.
    """

    order: NDArray[np.int32]
    bounds: NDArray[np.int64]
    displaced: int = 0
    collisions: int = 0
    short: int = 0
    beyond: int = 0

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def batch(self, number: int) -> NDArray[np.int32]:
        """The examples of a batch."""
        return self.order[self.bounds[number] : self.bounds[number + 1]]


class Planner:
    """Plans epochs, all of the same number of batches.

    Args:
        examples: to be dealt.
        conflicts: among them.
        budget: of a batch.
        seed: with an epoch's number it decides the plan.
        noise: standard deviation of the logarithm of the lengths; 0 for strictly by length.
    """

    def __init__(self, examples: Examples, conflicts: Conflicts, budget: Budget, seed: int, noise: float) -> None:
        self._examples, self._conflicts, self._budget = examples, conflicts, budget
        self._seed, self._noise = seed, noise
        self._weights = self._weigh()
        first = self._draw(0, 0)
        # Other epochs need a few batches more or less, by the cut and by the conflicts.
        spare = (len(first) // 200 if budget.tokens is not None else 0) + math.isqrt(first.short - 1)
        self._first = self._split(first, len(first) + spare) or first
        self.batches = len(self._first)

    def plan(self, epoch: int) -> Plan:
        """The batches of an epoch, by (seed, epoch) alone. Where none of some shuffles gives as few batches as the
        first epoch has, its batches serve again, in another order."""
        rng = np.random.Generator(np.random.PCG64([self._seed, epoch, _ATTEMPTS]))
        for attempt in range(_ATTEMPTS if epoch else 0):
            drawn = self._draw(epoch, attempt)
            if (fitting := self._split(drawn, self.batches)) is not None:
                return _shuffled(fitting, rng)
        return _shuffled(self._first, rng)

    def _weigh(self) -> NDArray[np.float32]:
        """The share of a batch that each example takes, float32 [n]."""
        weights = np.empty(len(self._examples), np.float32)
        for block in self._examples.blocks():
            tokens = self._examples.sizes(block)[:, 4]
            share = tokens / self._budget.tokens if self._budget.tokens else np.zeros(len(tokens))
            weights[block] = np.maximum(share, 1 / self._budget.examples if self._budget.examples else 0)
        return weights

    def _draw(self, epoch: int, attempt: int) -> Plan:
        rng = np.random.Generator(np.random.PCG64([self._seed, epoch, attempt]))
        cut = _Cut(self._examples, self._conflicts, self._budget)
        left = cut.deal(self._ordered(rng))
        displaced = len(left)
        for _ in range(_PASSES - 1):
            if not len(left):
                break
            before = len(left)
            left = cut.deal(self._pushed(left))
            displaced += len(left)
            if len(left) > before // 2:
                break
        if len(left):
            cut.deal(_layers(self._conflicts, self._examples.pairs, left), close=True)
        return cut.plan(displaced)

    def _split(self, plan: Plan, batches: int) -> Plan | None:
        """The plan with its largest batches halved until there are so many; None where that cannot be."""
        split = _split(plan, batches, self._budget.fewest)
        if split is None or not split.collisions:
            return split
        return replace(split, collisions=collisions_of(split, self._examples.pairs, self._conflicts))

    # ------------------------------------------------------------------ order

    def _ordered(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """All examples by length times noise, copies apart."""
        lengths = np.empty(len(self._examples), np.float32)
        for block in self._examples.blocks():
            lengths[block] = self._examples.sizes(block)[:, 4]
        np.log(lengths, out=lengths)
        lengths += np.float32(self._noise) * rng.standard_normal(len(lengths), np.float32)
        shuffled = rng.permutation(len(lengths))  # decides among equals
        return self._pushed(shuffled[np.argsort(lengths[shuffled], kind="stable")])

    def _pushed(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Some examples, in an order, with those that share a document or a query more than a batch apart."""
        at = np.cumsum(self._weights[order], dtype=np.float64)
        total = float(at[-1]) if len(at) else 0.0
        for side in (1, 0):
            several = np.flatnonzero(self._conflicts.copies[side][order] > 1)
            if len(several):
                at[several] = _apart(at[several], self._examples.pairs[order[several], side], total)
        found: NDArray[np.int64] = order[np.argsort(at, kind="stable")]
        return found


def _apart(at: NDArray[np.float64], group: NDArray[np.int32], total: float) -> NDArray[np.float64]:
    """Positions [n] from 0 to `total` moved back, and round, until those of one group are apart."""
    order = np.lexsort((at, group))
    sorted_group, position = group[order], at[order]
    opens = np.diff(sorted_group, prepend=-1) != 0
    number = np.cumsum(opens) - 1
    starts = np.flatnonzero(opens)
    rank = np.arange(len(order)) - starts[number]
    copies = np.diff(np.append(starts, len(order)))[number]
    offset = rank * np.minimum(_APART, total / copies)
    # A running maximum of (position − offset) within each group: groups are lifted above one another for it.
    lift = number * (2 * total + 2 * _APART)
    moved = np.maximum.accumulate(position - offset + lift) - lift + offset
    result = np.empty_like(at)
    result[order] = moved % total if total else moved
    return result


def _layers(conflicts: Conflicts, pairs: NDArray[np.int32], left: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is left, in layers: the first of each group of copies, then the second of each …"""
    side = 1 if conflicts.copies[1][left].sum() >= conflicts.copies[0][left].sum() else 0
    group = pairs[left, side]
    order = np.argsort(group, kind="stable")
    opens = np.flatnonzero(np.diff(group[order], prepend=-1))
    rank = np.empty(len(left), np.int64)
    rank[order] = np.arange(len(left)) - np.repeat(opens, np.diff(np.append(opens, len(left))))
    found: NDArray[np.int64] = left[np.argsort(rank, kind="stable")]
    return found


# ------------------------------------------------------------------------ cut


Line = tuple[int, Sequence[int] | None, Sizes, int]
"""Of an example: its document, its query's positives if it can conflict at all, its sizes and tokens."""


def _lines(examples: Examples, conflicts: Conflicts, part: NDArray[np.integer]) -> Iterator[Line]:
    sizes = examples.sizes(part)
    pairs = examples.pairs[part]
    positives = conflicts.positives(pairs, conflicts.tight[part])
    each: Iterator[Sizes] = map(tuple, sizes[:, :4].tolist())
    yield from zip(pairs[:, 1].tolist(), positives, each, sizes[:, 4].tolist(), strict=True)


class _Cut:
    """Cuts an order into batches."""

    def __init__(self, examples: Examples, conflicts: Conflicts, budget: Budget) -> None:
        self._examples, self._conflicts, self._budget = examples, conflicts, budget
        self._order = np.empty(len(examples), np.int32)
        self._done = 0
        self._ends: list[int] = []
        self._short = 0
        self._beyond = 0
        self._new()

    def _new(self) -> None:
        self._load, self._seated = Load(self._budget), Seated()

    def _close(self) -> None:
        self._ends.append(self._done)
        limit = self._budget.tokens
        self._beyond += limit is not None and self._load.tokens > limit
        self._new()

    def deal(self, order: NDArray[np.int64], close: bool = False) -> NDArray[np.int64]:
        """Cut an order; goes on with the batch that the last call left open.

        Args:
            order: examples.
            close: let a conflict close the batch.

        Returns:
            The examples put aside for a conflict.
        """
        aside = []
        for block in range(0, len(order), _BLOCK):
            part = order[block : block + _BLOCK]
            put = np.zeros(len(part), np.bool_)
            for at, (document, positives, sizes, tokens) in enumerate(_lines(self._examples, self._conflicts, part)):
                if not self._load.takes(sizes, tokens):
                    self._close()
                if positives is not None:
                    if not self._seated.admits(document, positives):
                        if not close:
                            put[at] = True
                            continue
                        self._short += 1
                        self._close()
                    self._seated.add(document, positives)
                self._order[self._done] = part[at]
                self._done += 1
                self._load.add(sizes, tokens)
            aside.append(part[put])
        return np.concatenate(aside) if aside else order[:0]

    def plan(self, displaced: int) -> Plan:
        """What was cut."""
        if self._load.count:
            self._short += 1
            self._close()
        bounds = np.array([0, *self._ends], np.int64)
        made = Plan(self._order, bounds, displaced, 0, self._short, self._beyond)
        made = _evened(made, self._examples, self._conflicts, self._budget)
        return _joined(made, self._examples.pairs, self._conflicts, self._budget.fewest)


def _evened(plan: Plan, examples: Examples, conflicts: Conflicts, budget: Budget) -> Plan:
    """The plan with examples moved from the largest batches to those of few, as far as budget and conflicts allow.

    It is the same for every number of ranks up to the least number of examples that is aimed at.
    """
    counts = np.diff(plan.bounds)
    least = max(budget.fewest, min(_LEAST, int(counts.mean()) // 2))
    offered = (
        (place, line)
        for places in _offered(plan, counts, 2 * least)
        for place, line in zip(places.tolist(), _lines(examples, conflicts, plan.order[places]), strict=True)
    )
    owner = np.repeat(np.arange(len(counts)), counts)
    moved = False
    for number in np.flatnonzero(counts < least).tolist():
        load, seated = Load(budget), Seated()
        for line in _lines(examples, conflicts, plan.batch(number)):
            _seat(line, load, seated)
        while load.count < least and (offer := next(offered, None)) is not None:
            if _seat(offer[1], load, seated):
                owner[offer[0]], moved = number, True
    if not moved:
        return plan
    bounds = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(counts)))])
    return replace(plan, order=plan.order[np.argsort(owner, kind="stable")], bounds=bounds.astype(np.int64))


def _offered(plan: Plan, counts: NDArray[np.int64], keep: int) -> Iterator[NDArray[np.int64]]:
    """Places in the order that the largest batches can spare, one of each in turn, down to `keep` examples."""
    large = np.argsort(-counts, kind="stable")
    turn = 0
    while len(large := large[counts[large] - turn > keep]):
        turn += 1
        yield plan.bounds[large + 1] - turn


def _seat(line: Line, load: Load, seated: Seated) -> bool:
    """Put an example into a batch if it fits; whether it did."""
    document, positives, sizes, tokens = line
    if not load.takes(sizes, tokens) or (positives is not None and not seated.admits(document, positives)):
        return False
    load.add(sizes, tokens)
    if positives is not None:
        seated.add(document, positives)
    return True


def _joined(plan: Plan, pairs: NDArray[np.int32], conflicts: Conflicts, fewest: int) -> Plan:
    """The plan with batches of too few examples for the ranks joined to one another: those may collide."""
    counts = np.diff(plan.bounds)
    few = counts < fewest
    if not few.any():
        return plan
    kept = [plan.batch(number) for number in np.flatnonzero(~few).tolist()]
    rest = np.concatenate([plan.batch(number) for number in np.flatnonzero(few).tolist()])
    whole = len(rest) // fewest * fewest
    made = [rest[start : start + fewest] for start in range(0, whole, fewest)]
    if len(rest) > whole:
        into = made or kept
        into[-1] = np.concatenate([into[-1], rest[whole:]])
    batches = [*kept, *made]
    bounds = np.concatenate([[0], np.cumsum([len(batch) for batch in batches])]).astype(np.int64)
    joined = replace(plan, order=np.concatenate(batches), bounds=bounds)
    return replace(joined, collisions=collisions_of(joined, pairs, conflicts))


def collisions_of(plan: Plan, pairs: NDArray[np.int32], conflicts: Conflicts) -> int:
    """How many examples conflict with one before them in their batch."""
    found = 0
    for number in range(len(plan)):
        seated, batch = Seated(), plan.batch(number)
        positives = conflicts.positives(pairs[batch], conflicts.tight[batch])
        for document, own in zip(pairs[batch, 1].tolist(), positives, strict=True):
            if own is not None:
                found += not seated.admits(document, own)
                seated.add(document, own)
    return found


def _split(plan: Plan, batches: int, fewest: int) -> Plan | None:
    """The plan with its largest batches halved until there are so many; None where that cannot be."""
    bounds = plan.bounds
    while (missing := batches - (len(bounds) - 1)) > 0:
        counts = np.diff(bounds)
        largest = np.argsort(-counts, kind="stable")[:missing]
        largest = largest[counts[largest] >= 2 * fewest]
        if not len(largest):
            return None
        bounds = np.sort(np.concatenate([bounds, bounds[largest] + counts[largest] // 2]))
    if len(bounds) - 1 > batches:
        return None
    return replace(plan, bounds=bounds, short=plan.short + len(bounds) - len(plan.bounds))


def _shuffled(plan: Plan, rng: np.random.Generator) -> Plan:
    """The batches in another order."""
    chosen = rng.permutation(len(plan))
    counts = np.diff(plan.bounds)[chosen]
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.arange(len(plan.order)) + np.repeat(plan.bounds[:-1][chosen] - bounds[:-1], counts)
    return replace(plan, order=plan.order[places], bounds=bounds)
