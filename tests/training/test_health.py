"""Each diagnosis, provoked for real: a small training with the fault, and what is said of it; and healthy ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ailing_training as ailing
import pytest
import torch

from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import OptimSettings, _rules, fit
from lodesmith.training.health import CAUSES, Health, StoppedError, crowded, heed, misplaced, pad_leak, probed


def steps(happened: Sequence[Event]) -> list[events.Step]:
    return [event for event in happened if isinstance(event, events.Step)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["bag", "triplet", "rnn"])
def test_a_healthy_training_is_left_alone(kind: str, seed: int) -> None:
    happened = ailing.happened(ailing.healthy(seed, kind), log_every=5)
    assert not ailing.warnings(happened)
    losses = [step.total for step in steps(happened)]
    assert losses[-1] < 0.5 * losses[0]
    assert 0 <= steps(happened)[-1].evidence["rank"] < 0.2


def test_the_seed_s_own_collapse_is_told_from_easy_negatives() -> None:
    happened = ailing.happened(ailing.seeds_collapse(), log_every=2)
    assert steps(happened)[-1].terms["triplet"] == pytest.approx(0.2, abs=1e-3)
    found = ailing.warnings(happened)
    assert list(found) == ["collapse"]
    assert "= the margin" in found["collapse"].message
    assert "mean cosine of two texts' vectors is 1.0000" in found["collapse"].message
    assert "after the padding" in found["collapse"].cure
    assert found["collapse"].step == 10


def test_the_same_training_reading_valid_states_learns() -> None:
    plan = ailing.seeds_collapse()
    tower = ailing.Recurrent(valid=True, frozen=False)
    plan.objective.encoder = tower
    happened = ailing.happened(plan, log_every=2)
    assert not ailing.warnings(happened)
    assert steps(happened)[-1].terms["triplet"] < 0.17


def test_easy_negatives_and_a_batch_of_one_give_a_loss_of_zero_for_different_reasons() -> None:
    easy = ailing.warnings(ailing.happened(ailing.easy_negatives(), log_every=2))
    assert list(easy) == ["zero"]
    assert "every positive beats its negatives" in easy["zero"].message
    alone = ailing.warnings(ailing.happened(ailing.alone()))
    assert list(alone) == ["zero"]
    assert "the positive is the only candidate" in alone["zero"].message
    assert easy["zero"].cure != alone["zero"].cure


def test_a_huge_rate_ends_in_nan_and_says_what_went_before() -> None:
    happened = ailing.happened(ailing.huge_rate())
    assert isinstance(happened[-1], events.Warning)
    assert happened[-1].cause == "nan"
    assert "infonce is nan at step 2" in happened[-1].message
    assert "the gradient norm was" in happened[-1].message


def test_gradients_without_clipping_explode_before_they_are_nan() -> None:
    found = ailing.warnings(ailing.happened(ailing.no_clipping(), log_every=2))
    assert list(found) == ["exploding", "nan"]
    assert "times its usual" in found["exploding"].message
    assert "optim.clip" in found["exploding"].cure
    calm = ailing.no_clipping()
    clipped = calm.optim.model_copy(update={"clip": 1.0, "lr": 0.05})
    happened = ailing.happened(
        ailing.stage(calm.objective, ailing.TextPairs(*ailing.texts()), optim=clipped.model_dump())
    )
    assert not ailing.warnings(happened)


def test_a_stack_of_sigmoids_lets_no_gradient_through() -> None:
    found = ailing.warnings(ailing.happened(ailing.sigmoids(), log_every=2))
    assert "group 'encoder.bag.*'" in found["vanishing"].message
    assert "sigmoid" in found["vanishing"].cure


def test_documents_in_another_order_than_their_queries() -> None:
    found = ailing.warnings(ailing.happened(ailing.wrong_join()))
    assert list(found) == ["join"]
    assert "3.4657 being guessing" in found["join"].message
    assert "joined wrongly" in found["join"].cure


def test_a_group_without_gradient_and_one_that_trains_though_it_is_said_frozen() -> None:
    dead = ailing.warnings(ailing.happened(ailing.dead_group(), log_every=2))
    assert list(dead) == ["frozen"]
    assert "gradient is exactly 0" in dead["frozen"].message
    vain = ailing.frozen_in_vain()
    before = vain.objective.encoder.embedding.weight.detach().clone()  # type: ignore[union-attr]
    found = ailing.warnings(ailing.happened(vain, log_every=2))
    assert "encoder.embedding.weight will train" in found["frozen"].message
    assert not torch.equal(before, vain.objective.encoder.embedding.weight)  # type: ignore[union-attr]


def test_groups_are_what_the_recipe_says_of_them() -> None:
    def said(*groups: dict[str, Any], epochs: int | None = None, **trains: bool) -> list[str]:
        settings = OptimSettings.model_validate({"groups": groups})
        return [finding.message for finding in misplaced(settings, trains, epochs)]

    assert not said({"match": "a", "freeze": True}, {"match": "*"}, a=False, b=True)
    assert not said({"match": "a", "freeze_epochs": 2}, a=False, b=True, epochs=3)
    assert "never trains" in said({"match": "a", "freeze_epochs": 3}, a=False, b=True, epochs=3)[0]
    assert "nothing in it trains (a)" in said({"match": "a", "lr": 0.1}, a=False, b=True)[0]


def test_pairs_that_are_learned_by_heart() -> None:
    found = ailing.warnings(ailing.happened(ailing.twenty_pairs(), log_every=2))
    assert list(found) == ["overfitting"]
    assert "was best at step 0" in found["overfitting"].message
    assert "patience" in found["overfitting"].cure


def test_copies_of_a_document_under_no_id_count_as_false_negatives() -> None:
    found = ailing.warnings(ailing.happened(ailing.duplicates(), log_every=2))
    assert list(found) == ["duplicates"]
    plan = ailing.duplicates()
    queries, documents = ailing.texts(32)
    masked = ailing.TextPairs(queries * 3, documents * 3, batch_size=32)
    rows = torch.arange(96) % 32
    masked.numbers = rows
    assert not ailing.warnings(ailing.happened(ailing.stage(plan.objective, masked, epochs=10), log_every=2))


def test_batches_that_tell_of_collisions() -> None:
    class Told:
        collisions = 30
        pairs = range(100)

    (finding,) = crowded(Told())
    assert "30 of 100" in finding.message
    Told.collisions = 1
    assert not list(crowded(Told()))
    assert not list(crowded(object()))


def test_a_term_that_is_nothing_beside_the_other() -> None:
    class Two(Contrast):
        def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
            terms = super().forward(batch)
            return terms | {"mse": terms["infonce"] * 1e-3}

    plan = ailing.healthy(0)
    plan = ailing.stage(two := Two(ailing.Bag()), plan.batches, epochs=3)  # type: ignore[arg-type]
    two.weights = {"infonce": 0.6, "mse": 0.4}
    found = ailing.warnings(ailing.happened(plan, log_every=2))
    assert list(found) == ["negligible"]
    assert "mse is 0.07% of the total" in found["negligible"].message
    two.weights = {"infonce": 0.6, "mse": 400.0}
    assert not ailing.warnings(ailing.happened(plan, log_every=2))


def told(steps: Sequence[tuple[float, float, float]], floor: float | None = 1.05) -> list[str]:
    """Causes, from the loss, a regulariser and its weight at each report."""
    evidence, memory = {} if floor is None else {"sigreg_floor": floor}, _rules.Memory({})
    found: list[str] = []
    for number, (loss, value, weight) in enumerate(steps, 1):
        terms, weights = {"infonce": loss, "sigreg": value}, {"infonce": 1.0, "sigreg": weight}
        step = events.Step(number, 1, "s", terms, loss + weight * value, weights=weights, evidence=evidence)
        found += [finding.cause for finding in _rules.negligible(step, memory)]
    return found


def test_a_regulariser_is_negligible_only_where_it_never_counted() -> None:
    assert told([(3.0, 20.0, 1e-4)] * 9) == ["negligible"]
    assert told([(3.0, 1.08, 0.01)] * 9) == []  # where nothing is left to gain
    assert told([(3.0, 1.08, 0.01)] * 9, floor=None) == ["negligible"]
    assert told([(3.0, max(2.0, 20.0 / n), 0.01) for n in range(1, 30)]) == []  # worked down
    assert told([(3.0, 20.0, 1e-4 * n) for n in range(1, 14)]) == []  # a weight on its way
    assert told([(3.0, 2.0, 1e-4 * min(n, 8)) for n in range(1, 14)]) == ["negligible"]
    assert told([(3.0, -3.0, 1e-4)] * 9, floor=None) == ["negligible"]


def test_a_negative_loss_that_stays_is_no_fall() -> None:
    def found(losses: Sequence[float]) -> list[str]:
        memory = _rules.Memory({})
        causes: list[str] = []
        for number, loss in enumerate(losses):
            list(_rules.note_loss(events.Step(number, 1, "s", {"infonce": loss}, loss), memory))
            event = events.Validation(number, 1, "s", {"nDCG@10": 0.5 - 0.1 * min(number, 2)}, False)
            causes += [finding.cause for finding in _rules.overfitting(event, memory)]
        return causes

    assert found([-1.0] * 8) == []
    assert found([-1.0, *[-9.0] * 7]) == ["overfitting"]


# ------------------------------------------------------------------------ the probe


def encoded(tower: torch.nn.Module) -> Any:
    @torch.no_grad()
    def encode(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return tower(ailing.padded(rows, None))  # type: ignore[no-any-return]

    return encode


def test_padding_that_leaks_into_a_vector_is_told_before_the_first_step() -> None:
    short, long = [5, 7], list(range(1, 20))
    leaking = ailing.Recurrent(valid=False, frozen=True)
    right = ailing.Recurrent(valid=True, frozen=False)
    assert pad_leak(encoded(leaking), short, long) > 0.1
    assert pad_leak(encoded(right), short, long) < 1e-5
    for tower, causes in ((leaking, ["pad_leak"]), (right, [])):
        plan = ailing.stage(Contrast(tower), ailing.TextPairs(*ailing.texts()), epochs=1)
        found = list(probed(fit([plan]), encoded(tower), short, long))
        assert list(ailing.warnings(found)) == causes
        assert isinstance(found[-1], events.Done)
    resumed = probed(iter([events.Resumed(4, 1, "one", None)]), encoded(leaking), short, long)  # type: ignore[arg-type]
    assert [type(event) for event in resumed] == [events.Resumed]


# ------------------------------------------------------------------------ the watching itself


def step(number: int, value: float, **more: Any) -> events.Step:
    fields = {"chance": {"infonce": math.log(64)}, "grad_norm": {"default": 1.0}, **more}
    return events.Step(number, 1 + number // 50, "s", {"infonce": value}, value, **fields)


def causes(happened: Sequence[Event], health: Health | None = None) -> list[tuple[int, str]]:
    health = health or Health()
    return [(event.step, finding.cause) for event in happened for finding in health.watch(event)]


def test_what_was_seen_is_json_and_goes_on_after_a_break() -> None:
    import json

    flat = [step(10 * n, math.log(64), evidence={"spread": 0.4, "rank": 0.5}) for n in range(1, 12)]
    whole = causes(flat)
    assert whole == [(50, "guessing")]
    first = Health()
    halves = causes(flat[:3], first)
    halves += causes(flat[3:], Health(json.loads(json.dumps(first.seen))))
    assert halves == whole


def test_a_break_in_a_row_begins_it_anew() -> None:
    flat = [step(10 * n, 2.0 if n == 4 else math.log(64)) for n in range(1, 9)]
    assert not causes(flat)
    assert causes([*flat, step(90, math.log(64))]) == [(90, "guessing")]


def test_how_near_to_guessing_counts_depends_on_whether_the_vectors_have_collapsed() -> None:
    def at(share: float, spread: float) -> list[tuple[int, str]]:
        value = share * math.log(64)
        return causes([step(10 * n, value, evidence={"spread": spread}) for n in range(1, 7)])

    assert at(1.0005, 0.5) == [(50, "guessing")]
    assert at(1.01, 0.5) == []
    assert at(1.01, 0.001) == [(50, "collapse")]


def test_a_high_loss_over_well_ranked_positives_is_no_wrong_join() -> None:
    def ranked(rank: float) -> list[tuple[int, str]]:
        rows = [step(10 * n, 1.2 * math.log(64), evidence={"spread": 0.5, "rank": rank}) for n in range(1, 16)]
        return causes(rows)

    assert ranked(0.05) == []
    assert ranked(0.5) == [(110, "join")]
    without = [step(10 * n, 1.2 * math.log(64)) for n in range(1, 16)]
    assert causes(without) == [(110, "join")]


def test_terms_without_weight_and_losses_that_have_gone_down_are_left_alone() -> None:
    active = [step(n, 0.5, weights={"infonce": 1.0, "active": 0.0}) for n in range(1, 9)]
    silent = [events.Step(e.step, 1, "s", {**e.terms, "active": 0.0}, 0.5, weights=e.weights) for e in active]
    assert not causes(silent)
    rising = [step(n, 1 / n, grad_norm={"default": 10.0**n}) for n in range(1, 9)]
    assert not causes(rising)


def test_a_collapse_that_training_made_is_told_from_one_that_was_there() -> None:
    def run(first: float) -> str:
        health = Health()
        spreads = [first, 0.002, 0.001, 0.001, 0.001, 0.001]
        rows = [step(10 * n, math.log(64), evidence={"spread": s}) for n, s in enumerate(spreads, 1)]
        (finding,) = [f for row in rows for f in health.watch(row)]
        return finding.message

    assert "pushed all vectors together" in run(0.9)
    assert "has since the first report" in run(0.001)


def test_a_listed_cause_stops_the_training_after_it_was_told() -> None:
    closed = []

    def happenings() -> Iterator[Event]:
        try:
            yield events.Warning(7, 1, "s", "flat", "mend it", "collapse")
            yield events.Done(8, 1, "s", "complete")
        finally:
            closed.append(True)

    assert len(list(heed(happenings(), ["zero"]))) == 2
    seen = []
    with pytest.raises(StoppedError, match="stopped at step 7 by collapse"):
        seen.extend(heed(happenings(), ["collapse"]))
    assert len(closed) == 2
    assert set(ailing.warnings([events.Warning(1, 1, "s", "", "", cause) for cause in CAUSES])) == set(CAUSES)
