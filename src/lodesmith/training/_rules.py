"""The rules of `training.health`: one function each, from an event and what was seen before to findings.

A rule speaks when something has held for several reports in a row, and once a stage. A report is a `Step` event: the
mean over the steps since the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from lodesmith.core.events import Step, Validation

__all__ = ["STEP_RULES", "VALIDATION_RULES", "Finding", "Memory"]

FLAT = 5
"""So many reports in a row must look the same before anything is said."""
NEAR = 1e-3
"""Relative distance at which a loss counts as that of guessing."""
CLOSE = 0.02
"""The same where the vectors have collapsed: what is left of their differences still moves the loss a little."""
NARROW = 0.01
"""A spread below this is a collapse: two queries have a mean cosine above .99."""
WIDE = 0.05
"""A spread above this is none."""
NOTHING = 1e-4
"""Share of the loss of guessing below which a loss counts as 0."""
EXPLODED = 100.0
"""So many times the median norm of the earlier reports is an explosion, if the loss does not fall."""
VANISHED = 1e-5
"""Share of the largest group's gradient norm, or of the loss where there is one group, that is none."""
SLOW = 10
"""So many reports are looked at together to see whether anything is learned."""
PATIENCE = (100, 500)
"""Steps after which something should be learned: with two whole epochs behind them, or with none."""
CHANCE_RANK = 0.42
"""Mean share of negatives above the positive: .5 is chance."""
TIED = 0.05
"""Share of rows with a negative that scores exactly as the positive."""
NEGLIGIBLE = 0.01
"""Share of the total below which a term does nothing."""
SATISFIED = 0.2
"""A term so near the least that it can be, relatively, has nothing left to gain."""
STALE = 3
"""Validations in a row that are worse than the best."""
WORSE = 0.05
"""Relative loss of the measure that counts as worse; and fall of the training loss meanwhile."""
LEAST = 0.02
"""A measure that is worse by less may be so by chance: a hundred queries are no more exact."""
DEAD = ("dead:", "vanishing:")
"""What the memory calls groups that get no gradient."""
MEASURES = ("nDCG@10", "RR@10", "R@10")
"""What is looked at where it is not known which measure decides."""


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Args:
        cause: its short name, one of `health.CAUSES`.
        message: what, with the figures that show it.
        cure: what to try.
    """

    cause: str
    message: str
    cure: str


@dataclass
class Memory:
    """What the rules of a stage have seen, as JSON."""

    seen: dict[str, Any]

    def again(self, key: str, holds: bool, wanted: int = FLAT) -> bool:
        """Whether `holds` was true `wanted` times in a row just now; only once."""
        count = self.seen.get(key, 0)
        if count < 0:
            return False
        count = count + 1 if holds else 0
        self.seen[key] = -1 if count == wanted else count
        return bool(count == wanted)

    def told(self, key: str) -> bool:
        """Whether `again` has said so."""
        count = self.seen.get(key, 0)
        return isinstance(count, int) and count < 0

    def before(self, key: str, value: float, most: int) -> list[float]:
        """Up to `most` earlier values, oldest first; this one is kept for the next time."""
        earlier = list(self.seen.get(key, []))
        self.seen[key] = [*earlier, value][-most:]
        return earlier

    def first(self, key: str, value: float) -> float:
        """The first value that was ever given."""
        return float(self.seen.setdefault(key, value))


# ------------------------------------------------------------------------ the loss terms


def level_of(name: str, step: Step) -> str:
    """How the loss of guessing is called: `log(64)`, or the margin."""
    level = step.chance[name]
    count = math.exp(level) if level < 40 else 0.0
    if "triplet" not in name and abs(count - round(count)) <= 1e-3 * count and count >= 1.5:
        return f"log({count:.0f}), the loss of guessing among {count:.0f} candidates"
    return "the margin" if "triplet" in name or "margin" in name else "the loss of guessing"


def at_chance(name: str, step: Step) -> bool:
    """Whether a term says that positives and negatives score alike."""
    level, value = step.chance.get(name, 0.0), step.terms[name]
    near = CLOSE if step.evidence.get("spread", 1.0) < NARROW else NEAR
    return level > 0 and abs(value - level) <= near * level


def _weighed(step: Step) -> Iterator[tuple[str, float]]:
    """The terms that count, with their values."""
    for name, value in step.terms.items():
        if step.weights.get(name, 1.0) != 0:
            yield name, value


def _norms(step: Step) -> str:
    return "; ".join(f"gradient norm {value:.2g} in {name!r}" for name, value in step.grad_norm.items())


def no_learning(step: Step, memory: Memory) -> Iterator[Finding]:
    """A loss that stays at that of guessing: collapsed vectors, or scores that say nothing."""
    if spread := step.evidence.get("spread"):
        memory.first("spread", spread)
    for name, value in _weighed(step):
        if memory.again(f"chance:{name}", at_chance(name, step)):
            said = f"{name} stays at {value:.4f} = {level_of(name, step)}"
            yield _collapse(said, step, memory) if "spread" in step.evidence else _unseen(f"{said}; {_norms(step)}")


def _unseen(said: str) -> Finding:
    return Finding(
        "guessing",
        said,
        "the scores do not tell the positives apart: a collapsed or constant encoder, frozen parameters, a wrong join "
        "of queries and documents, or a temperature that is far too high",
    )


def _collapse(said: str, step: Step, memory: Memory) -> Finding:
    spread, first = step.evidence["spread"], memory.first("spread", step.evidence["spread"])
    evidence = f"{said}; the mean cosine of two texts' vectors is {1 - spread:.4f}; {_norms(step)}"
    if spread >= NARROW:
        return Finding(
            "guessing",
            f"{evidence}: the vectors differ, but their scores do not tell the positives apart",
            "check that each query stands beside its own document and that the groups which should train do; then a "
            "higher learning rate, or a lower temperature",
        )
    if first < WIDE:
        return Finding(
            "collapse",
            f"{evidence}: every text gets the same vector, and has since the first report",
            "the tower does not see the text: read the last valid state or a masked mean, never a state after the "
            "padding; keep the pad row at zero; train the embeddings; look for saturated activations",
        )
    return Finding(
        "collapse",
        f"{evidence}, after {1 - first:.4f} at first: training has pushed all vectors together",
        "check that each query stands beside its own document; then a lower learning rate, more negatives (in-batch "
        "InfoNCE), or trained instead of frozen embeddings",
    )


def nothing_left(step: Step, memory: Memory) -> Iterator[Finding]:
    """A loss of zero: nothing to learn from."""
    for name, value in _weighed(step):
        level = step.chance.get(name)
        if not memory.again(f"zero:{name}", abs(value) <= NOTHING * (level or 0.0)):
            continue
        if level == 0:
            yield Finding(
                "zero",
                f"{name} stays at {value:.2g}: the positive is the only candidate",
                "the batch holds one example, or every other document of it is masked as a positive: use larger "
                "batches, or mine negatives",
            )
        elif level is None:
            yield Finding("zero", f"{name} stays at exactly 0", "nothing is left to learn from in this term")
        else:
            yield Finding(
                "zero",
                f"{name} stays at {value:.2g}, where guessing gives {level:.4f}: every positive beats its negatives",
                "the negatives are too easy (or queries hold their documents' own text): in-batch, mined or semi-hard "
                "negatives, larger batches, a larger margin or lower temperature",
            )


def wrong_join(step: Step, memory: Memory) -> Iterator[Finding]:
    """Positives ranked by chance among the training batch's own documents, long after they should be learned."""
    levels = {name: step.chance[name] for name, _ in _weighed(step) if step.chance.get(name, 0.0) > 0}
    if not levels:
        return
    name, level = next(iter(levels.items()))
    reports = memory.seen["reports"] = memory.seen.get("reports", 0) + 1
    rank = step.evidence.get("rank")
    values = [*memory.before(f"value:{name}", step.terms[name], SLOW - 1), step.terms[name]]
    start = memory.seen.setdefault("start", values[:])
    if reports <= FLAT:
        memory.seen["start"] = start = values[:]
    explained = memory.told(f"chance:{name}") or any(memory.told(key) for key in memory.seen if key.startswith(DEAD))
    steps = step.step - memory.first("first step", step.step)
    due = reports >= SLOW and steps >= PATIENCE[0 if step.epoch > 2 else 1] and not explained
    if rank is not None:
        ranks = [*memory.before("rank", rank, SLOW - 1), rank]
        holds = fmean(ranks) >= CHANCE_RANK and fmean(values) >= (1 - CLOSE) * level
        if memory.again("join", due and holds, 1):
            said = f"positives have {fmean(ranks):.0%} of their negatives above them, chance being 50%"
            yield _joined(said, name, step)
    elif memory.again("join", due and fmean(values) >= max((1 + CLOSE) * level, (1 - CLOSE) * fmean(start)), 1):
        yield _joined("it has not fallen since it began", name, step)


def _joined(evidence: str, name: str, step: Step) -> Finding:
    return Finding(
        "join",
        f"nothing is learned: {name} is {step.terms[name]:.4f} after {step.epoch - 1} epochs, {step.chance[name]:.4f} "
        f"being guessing, and in the training batches themselves {evidence}",
        "queries and documents are probably joined wrongly (a shuffled or shifted column): look at a few pairs; if "
        "they are right, raise the learning rate",
    )


def same_scores(step: Step, memory: Memory) -> Iterator[Finding]:
    """Negatives with the positive's own score: duplicates that no id gives away."""
    tied = step.evidence.get("tied", 0.0)
    apart = step.evidence.get("spread", 1.0) > WIDE
    if memory.again("tied", tied >= TIED and apart):
        yield Finding(
            "duplicates",
            f"in {tied:.0%} of the rows a negative has the positive's own score: the same text under several ids, or "
            "several positives of one query in a batch, count as false negatives",
            "merge equal documents (`lode data check DIR --fix OUT`), and give the batches ids so that they are masked",
        )


def negligible(step: Step, memory: Memory) -> Iterator[Finding]:
    """A term that is a vanishing part of the total, and has been from the first: neither one that has been worked down
    (or begins where nothing is left to gain), nor one whose weight is on its way."""
    parts = {name: abs(step.weights.get(name, 1.0) * value) for name, value in _weighed(step)}
    whole = sum(parts.values())
    if len(parts) < 2 or not step.weights:
        return
    for name, part in parts.items():
        small = 0 < part < NEGLIGIBLE * whole
        memory.seen[f"counted:{name}"] = counted = memory.seen.get(f"counted:{name}", False) or not small
        least = step.evidence.get(f"{name}_floor", -math.inf)
        weight = step.weights.get(name, 1.0)
        moves = memory.before(f"weight:{name}", weight, 1) not in ([], [weight])
        small = small and not counted and not moves and step.terms[name] > (1 + SATISFIED) * least
        if memory.again(f"share:{name}", small) and not memory.told(f"zero:{name}"):
            yield Finding(
                "negligible",
                f"{name} is {part / whole:.2%} of the total ({part:.3g} of {whole:.3g}, with its weight "
                f"{step.weights[name]:g}): it hardly trains anything",
                f"give it about {min(1e6, whole / part * step.weights[name] / len(parts)):.2g} as weight, or another "
                "scale (a sum over dimensions, not a mean), or leave it out",
            )


# ------------------------------------------------------------------------ the gradients


def exploding(step: Step, memory: Memory) -> Iterator[Finding]:
    """A gradient norm far above what it was, while the loss does not fall."""
    totals = memory.before("totals", step.total, 20)
    for name, norm in step.grad_norm.items():
        earlier = memory.before(f"norm:{name}", norm, 20)
        if len(earlier) < 2 or not math.isfinite(norm):
            continue
        usual = median(earlier)
        wild = usual > 0 and norm >= EXPLODED * usual and step.total >= median(totals)
        if memory.again(f"exploding:{name}", wild, 1):
            yield Finding(
                "exploding",
                f"the gradient norm of group {name!r} is {norm:.3g}, {norm / usual:,.0f} times its usual {usual:.3g}, "
                f"and the loss {step.total:.4g} (before: {median(totals):.4g})",
                "clip gradients (optim.clip: 1.0), lower the learning rate, lengthen the warm-up",
            )


def vanishing(step: Step, memory: Memory) -> Iterator[Finding]:
    """A group whose gradient is nothing beside the others', or beside the loss."""
    if not step.grad_norm or _solved(step):
        return
    largest = max(step.grad_norm.values())
    for name, norm in step.grad_norm.items():
        yield from _dead(name, norm, step, memory)
        whole = len(step.grad_norm) == 1
        against = abs(step.total) if whole else largest
        collapsed = any(memory.told(f"chance:{term}") for term, _ in _weighed(step))
        if memory.again(f"vanishing:{name}", 0 < norm <= VANISHED * against) and not (whole and collapsed):
            beside = f"a loss of {step.total:.4g}" if whole else f"{largest:.2g} in the largest"
            yield Finding(
                "vanishing",
                f"the gradient norm of group {name!r} is {norm:.2g} beside {beside}: it does not learn",
                "saturated activations, a mean over very long texts, or too many layers without normalisation or "
                "residuals: smaller initial weights, GELU or ReLU instead of sigmoid, or an own higher rate for the "
                "group",
            )


def _solved(step: Step) -> bool:
    """Whether there is no loss that could have a gradient."""
    return all(abs(value) <= NOTHING * (step.chance.get(name) or 1.0) for name, value in _weighed(step))


def _dead(name: str, norm: float, step: Step, memory: Memory) -> Iterator[Finding]:
    said = any(memory.told(f"{cause}:{term}") for cause in ("chance", "zero") for term, _ in _weighed(step))
    if memory.again(f"dead:{name}", norm == 0.0) and (any(step.grad_norm.values()) or not said):
        others = ", ".join(f"{value:.2g} in {key!r}" for key, value in step.grad_norm.items() if key != name)
        yield Finding(
            "frozen",
            f"group {name!r} is to train, but its gradient is exactly 0" + (f" (others: {others})" if others else ""),
            "its parameters do not enter the loss: a detached or unused module, a no_grad block, or a dead activation; "
            "freeze the group if that is meant",
        )


# ------------------------------------------------------------------------ the validation


def note_loss(step: Step, memory: Memory) -> Iterator[Finding]:
    """Keep the training loss for the comparison with validations."""
    memory.first("first loss", step.total)
    memory.before("losses", step.total, FLAT)
    return iter(())


def overfitting(event: Validation, memory: Memory) -> Iterator[Finding]:
    """A measure that falls while the training loss falls."""
    name = next((name for name in MEASURES if name in event.measures), next(iter(event.measures), None))
    value = event.measures.get(name or "", math.nan)
    if name is None or not math.isfinite(value):
        return
    loss, higher = fmean(memory.seen.get("losses", [math.inf])), _more_is_better(name)
    best: Mapping[str, Any] | None = memory.seen.get("best")
    if best is None or (value > best["value"] if higher else value < best["value"]):
        memory.seen["best"] = {"value": value, "loss": loss if math.isfinite(loss) else None, "step": event.step}
        memory.again("overfitting", False, STALE)
        return
    fallen = (best["value"] - value) * (1 if higher else -1) >= max(WORSE * abs(best["value"]), LEAST)
    then = memory.seen.get("first loss", 0.0) if best["loss"] is None else best["loss"]
    if memory.again("overfitting", fallen and loss <= then - WORSE * abs(then), STALE):
        yield Finding(
            "overfitting",
            f"{name} on validation was best at step {best['step']} ({best['value']:.4f}) and is {value:.4f} now, while "
            f"the training loss went from {then:.4g} to {loss:.4g}",
            "the training pairs are learned by heart: stop early (patience), more or more varied pairs, dropout, "
            "weight decay, fewer trained parameters",
        )


def _more_is_better(name: str) -> bool:
    return "loss" not in name.lower() and "perplexity" not in name.lower()


STEP_RULES = (no_learning, nothing_left, wrong_join, same_scores, negligible, exploding, vanishing, note_loss)
VALIDATION_RULES = (overfitting,)
