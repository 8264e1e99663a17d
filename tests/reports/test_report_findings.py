from __future__ import annotations

from dataclasses import replace

import pytest
from report_world import World, compared, evaluation, ladder

from lodesmith.core.errors import InputError
from lodesmith.core.results import Comparison, Estimate
from lodesmith.reports import findings

MEASURE = "nDCG@10"


def two(difference: float, queries: int = 40) -> World:
    """Two systems, `difference` apart on every second query."""
    low = [0.5] * queries
    high = [0.5 + difference * (i % 2) for i in range(queries)]
    evaluations = (evaluation("low", {MEASURE: low}), evaluation("high", {MEASURE: high}))
    return World(evaluations, compared(evaluations, "low"))


def test_a_significant_winner_stands_alone() -> None:
    world = two(0.3)
    systems = findings.by_dataset(world.evaluations)["docs"]
    assert findings.best_group(world.comparison, systems, "docs", MEASURE) == ("high",)


def test_an_insignificant_winner_is_tied(world: World) -> None:
    systems = findings.by_dataset(world.evaluations)["docs"]
    group = findings.best_group(world.comparison, systems, "docs", MEASURE)
    assert set(group) == {"projected minilm", "bm25+projected minilm"}
    for name in group[1:]:
        assert not world.comparison.pair(group[0], name, "docs").significant


def test_equal_means_are_tied() -> None:
    world = two(0.0)
    systems = findings.by_dataset(world.evaluations)["docs"]
    assert findings.best_group(world.comparison, systems, "docs", MEASURE) == ("low", "high")


def test_nothing_is_best_where_a_test_is_missing(world: World) -> None:
    systems = findings.by_dataset(world.evaluations)["docs"]
    kept = tuple(p for p in world.comparison.pairs if {p.a, p.b} != {"projected minilm", "random"})
    assert findings.best_group(replace(world.comparison, pairs=kept), systems, "docs", MEASURE) == ()
    assert findings.best_group(world.comparison, systems, "docs", "RR@10") == ()
    assert findings.best_group(world.comparison, systems, "other", MEASURE) == ()


def test_find_pair_turns_and_separates_measures(world: World) -> None:
    pair = findings.find_pair(world.comparison, "minilm", "bm25", "docs")
    turned = findings.find_pair(world.comparison, "bm25", "minilm", "docs")
    assert pair is not None
    assert turned is not None
    assert pair.difference == -turned.difference > 0
    other = replace(pair, measure="RR@10", difference=0.25)
    both = replace(world.comparison, pairs=(other, *world.comparison.pairs))
    assert findings.find_pair(both, "minilm", "bm25", "docs") == pair
    assert findings.find_pair(both, "minilm", "bm25", "docs", "RR@10") == other
    assert findings.find_pair(both, "minilm", "absent", "docs") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e, "two evaluations"),
        (lambda e: replace(e, system="new", split="dev"), "splits dev and test"),
        (lambda e: replace(e, system="new", measures={MEASURE: Estimate(float("nan"), 0, 1)}), "NaN"),
    ],
)
def test_evaluations_that_do_not_belong_together_are_refused(change, message: str) -> None:
    evaluations = ladder(queries=5)
    with pytest.raises(InputError, match=message):
        findings.by_dataset([*evaluations, change(evaluations[1])])


def test_no_evaluations_are_refused() -> None:
    with pytest.raises(InputError, match="no evaluations"):
        findings.by_dataset([])


@pytest.mark.parametrize(
    ("recommendation", "expected"),
    [
        ("minilm", ("minilm", "", True)),
        ("bm25+minilm: it is cheap: really", ("bm25+minilm", "it is cheap: really", True)),
        ("", ("projected minilm", "", False)),
        ("Use two of them.", ("projected minilm", "Use two of them.", False)),
    ],
)
def test_choice_reads_names_and_sentences(world: World, recommendation: str, expected: tuple[str, str, bool]) -> None:
    assert findings.choice(recommendation, findings.by_dataset(world.evaluations), MEASURE) == expected


def test_the_pair_is_the_chosen_system_against_the_baseline(world: World) -> None:
    assert findings.main_pair(world.evaluations, world.comparison, "minilm: x") == ("minilm", "bm25")
    assert findings.main_pair(world.evaluations, world.comparison) == ("projected minilm", "bm25")
    assert findings.main_pair(world.evaluations, world.comparison, "bm25") == ("bm25", "projected minilm")


def test_one_system_has_no_rival() -> None:
    alone = [evaluation("alone", {MEASURE: [0.5, 1.0]})]
    assert findings.main_pair(alone, Comparison("alone", MEASURE, ("alone",), ())) == ("alone", "alone")


def test_average_needs_every_dataset(two_worlds: World) -> None:
    blocks = findings.by_dataset(two_worlds.evaluations)
    means = [blocks[name]["bm25"].measures[MEASURE].mean for name in blocks]
    assert findings.average(blocks, "bm25", MEASURE) == pytest.approx(sum(means) / 2)
    assert findings.average(blocks, "random", MEASURE) is None
    assert "random" not in findings.common_systems(blocks)
    assert len(findings.common_systems(blocks)) == 5


def test_differences_are_sorted_and_cover_shared_queries() -> None:
    a = evaluation("a", {MEASURE: [0.1, 0.9, 0.5, 0.3]})
    b = evaluation("b", {MEASURE: [0.2, 0.1, 0.5 + 1e-12]})
    found = findings.differences(a, b, MEASURE)
    assert list(found) == ["q1", "q2", "q0"]
    assert found["q2"] == 0
    assert found["q1"] == pytest.approx(0.8)


def test_extremes_hold_only_wins_and_losses() -> None:
    a = evaluation("a", {MEASURE: [0.1, 0.9, 0.5, 0.3, 0.0]})
    b = evaluation("b", {MEASURE: [0.2, 0.1, 0.5, 0.1, 1.0]})
    assert findings.extremes(a, b, MEASURE, 5) == (("q1", "q3"), ("q4", "q0"))
    assert findings.extremes(a, b, MEASURE, 1) == (("q1",), ("q4",))
