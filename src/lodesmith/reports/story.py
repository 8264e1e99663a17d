"""The report's opening in words: which retriever, by how much, at what cost, and whether the difference is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lodesmith.core.results import Comparison, Evaluation, Pair
from lodesmith.reports.findings import (
    Systems,
    average,
    best_group,
    by_dataset,
    choice,
    find_pair,
    main_pair,
)
from lodesmith.reports.text import NONE, count, isolated, probability, rate, signed, size, value


@dataclass(frozen=True)
class Fact:
    """One of the opening's questions: a short answer and the sentence below it. `name` marks a system's name."""

    question: str
    answer: str
    below: str
    name: bool = False


@dataclass(frozen=True)
class Story:
    """What the page tells: evaluations by dataset, the comparison, and the pair that it speaks of."""

    blocks: Mapping[str, Systems]
    comparison: Comparison
    lead: str
    rival: str
    recommended: bool
    sentence: str

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation], comparison: Comparison, recommendation: str = "") -> Story:
        """Find the pair and check the evaluations.

        Raises:
            InputError: as `by_dataset`.
        """
        blocks = by_dataset(evaluations)
        _, sentence, recommended = choice(recommendation, blocks, comparison.measure)
        lead, rival = main_pair(evaluations, comparison, recommendation)
        return cls(blocks, comparison, lead, rival, recommended, sentence)

    @property
    def measure(self) -> str:
        """The comparison's measure."""
        return self.comparison.measure

    @property
    def shared(self) -> Mapping[str, Systems]:
        """The datasets on which both systems of the pair were evaluated."""
        return {d: block for d, block in self.blocks.items() if self.lead in block and self.rival in block}

    @property
    def pairs(self) -> list[Pair]:
        """The tests of the pair, one a dataset where there was one."""
        found = [find_pair(self.comparison, self.lead, self.rival, dataset) for dataset in self.shared]
        return [pair for pair in found if pair is not None]

    @property
    def facts(self) -> tuple[Fact, Fact, Fact, Fact]:
        """Which, by how much, at what cost, is it real."""
        return (self._which(), self._how_much(), self._cost(), self._real())

    def _which(self) -> Fact:
        kind = "recommended" if self.recommended else f"the highest {self.measure}"
        below = f"{kind}; {self._companions()}" if self._companions() else kind
        question = "Which system?" if self.measure == "CoverEM" else "Which retriever?"
        return Fact(question, self.lead, below, name=True)

    def _companions(self) -> str:
        if len(self.blocks) != 1:
            return ""
        dataset, systems = next(iter(self.blocks.items()))
        group = best_group(self.comparison, systems, dataset, self.measure)
        others = ", ".join(isolated(name) for name in group if name != self.lead)
        if self.lead not in group:
            return f"significantly below {isolated(group[0])}" if group else ""
        return f"not distinguishable from {others}" if others else "significantly better than every other"

    def _how_much(self) -> Fact:
        ours = average(self.shared, self.lead, self.measure) if self.shared else None
        theirs = average(self.shared, self.rival, self.measure) if self.shared else None
        if ours is None or theirs is None or self.lead == self.rival:
            return Fact("By how much?", NONE, "there is nothing to compare it with")
        below = f"{value(ours)} against {value(theirs)} of {isolated(self.rival)}"
        if len(self.shared) > 1:
            below += f", averaged over {len(self.shared)} datasets"
        elif self.pairs:
            below += f"; 95\u00a0% interval {signed(self.pairs[0].low)} to {signed(self.pairs[0].high)}"
        return Fact("By how much?", f"{signed(ours - theirs)} {self.measure}", below)

    def _cost(self) -> Fact:
        cost = self._cost_of(self.lead)
        time, rival = cost.get("query_ms_p50"), self._cost_of(self.rival).get("query_ms_p50")
        parts = [
            f"{rate(rival)} ms with {isolated(self.rival)}" if rival is not None and self.rival != self.lead else "",
            f"index {size(cost['index_bytes'])}" if cost.get("index_bytes") is not None else "",
            f"{count(cost['parameters'])} parameters" if cost.get("parameters") else "",
            f"{rate(cost['encode_docs_per_s'])} documents/s" if cost.get("encode_docs_per_s") is not None else "",
        ]
        below = "\n".join(part for part in parts if part) or "nothing was measured"
        return Fact("At what cost?", NONE if time is None else f"{rate(time)} ms a query", below)

    def _cost_of(self, system: str) -> Mapping[str, float | None]:
        return next((block[system].cost for block in self.blocks.values() if system in block), {})

    def _real(self) -> Fact:
        pairs = self.pairs
        if not pairs:
            return Fact("Is it real?", "Not tested", "the comparison has no test of this pair")
        if len(pairs) > 1:
            better = sum(pair.significant and pair.difference > 0 for pair in pairs)
            worse = sum(pair.significant and pair.difference < 0 for pair in pairs)
            below = f"significantly better on {better}, worse on {worse} of {len(pairs)} datasets, after Holm"
            return Fact("Is it real?", f"On {better} of {len(pairs)} datasets", below)
        return self._one_test(pairs[0])

    def _one_test(self, pair: Pair) -> Fact:
        verdict = "Not shown" if not pair.significant else "Yes" if pair.difference > 0 else "Yes, but it is worse"
        below = f"better on {pair.wins:,}, worse on {pair.losses:,}, equal on {pair.ties:,} of {pair.queries:,} queries"
        if not pair.significant:
            below += f"; so many find a difference of {value(pair.detectable)} with 80\u00a0% power"
        return Fact("Is it real?", f"{verdict}, {probability(pair.p_holm)}", below)

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        lead, rival = isolated(self.lead), isolated(self.rival)
        mean = average({d: b for d, b in self.blocks.items() if self.lead in b}, self.lead, self.measure)
        said = f"{lead} is recommended" if self.recommended else f"{lead} has the highest {self.measure}"
        reach = f": {self.measure}\u00a0{value(mean)}" if self.recommended else f": {value(mean)}"
        if self.lead == self.rival or not self.pairs:
            return said + reach
        if any(pair.significant and pair.difference < 0 for pair in self.pairs):
            return f"{said}{reach}; {rival} is significantly better" if len(self.pairs) == 1 else said + reach
        if not any(pair.significant for pair in self.pairs):
            return f"{said}{reach}; its difference to {rival} is not significant"
        return f"{said}{reach}, {self._how_much().answer.partition(' ')[0]} over {rival}"
