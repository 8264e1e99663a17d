"""`compare` and `recommend`: verdicts, their independence of order, and refusals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.results import Comparison, Estimate, Evaluation
from lodesmith.evaluation.compare import compare, recommend

N = 120
BASE = np.random.default_rng(0).random(N) * 0.5


def of(system: str, values: Sequence[float] | np.ndarray, dataset: str = "d", **fields: object) -> Evaluation:
    mean = float(np.mean(values))
    per_query = {f"q{i}": {"nDCG@10": float(value)} for i, value in enumerate(values)}
    made = Evaluation(system, dataset, "test", len(per_query), {"nDCG@10": Estimate(mean, mean, mean)}, per_query)
    return replace(made, **fields)


def noisy(lift: float, seed: int, spread: float = 0.1) -> np.ndarray:
    return BASE + lift + np.random.default_rng(seed).normal(0, spread, N)


WEAK, SAME, STRONG = of("weak", BASE), of("same", noisy(0.0, 1)), of("strong", noisy(0.08, 2))


def test_the_figures_of_a_pair() -> None:
    comparison = compare([WEAK, STRONG, SAME])
    pair = comparison.pair("strong", "weak")
    difference = np.array([STRONG.per_query[q]["nDCG@10"] - WEAK.per_query[q]["nDCG@10"] for q in WEAK.per_query])
    assert pair.difference == pytest.approx(difference.mean())
    half = 1.96 * difference.std(ddof=1) / np.sqrt(N)
    assert (pair.low, pair.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.004)
    assert (pair.wins, pair.ties, pair.losses) == (int((difference > 0).sum()), 0, int((difference < 0).sum()))
    assert pair.detectable == pytest.approx(2.8016 * difference.std(ddof=1) / np.sqrt(N), rel=1e-3)
    assert (pair.p, pair.p_holm, pair.queries) == (1 / 10_001, 3 / 10_001, N)
    assert pair.significant
    assert pair.family == "nDCG@10, 3 pairs"
    assert not comparison.pair("same", "weak").significant
    assert comparison.systems == ("weak", "strong", "same")


def test_planned_pairs_alone_are_corrected_for() -> None:
    whole = compare([WEAK, STRONG, SAME])
    planned = compare([WEAK, SAME, STRONG], planned=[("strong", "weak")])
    (pair,) = planned.pairs
    assert replace(whole.pair("strong", "weak"), p_holm=pair.p_holm, family=pair.family) == pair
    assert (pair.p_holm, pair.family) == (pair.p, "nDCG@10, 1 pair")
    assert pair.p_holm < whole.pair("strong", "weak").p_holm
    other = replace(STRONG, dataset="e"), replace(SAME, dataset="e")
    two = compare([WEAK, STRONG, SAME, *other], planned=[("weak", "strong"), ("strong", "same")])
    assert [(p.a, p.b, p.dataset) for p in two.pairs] == [
        ("weak", "strong", "d"),
        ("strong", "same", "d"),
        ("strong", "same", "e"),
    ]
    assert two.pairs[0].difference == -pair.difference
    with pytest.raises(InputError, match="'strang' is not among the systems"):
        compare([WEAK, STRONG], planned=[("strang", "weak")])
    for none in ([], [("weak", "far")]):
        with pytest.raises(InputError, match="no dataset has both systems of a planned pair"):
            compare([WEAK, STRONG, replace(SAME, system="far", dataset="e")], planned=none)
    for again in (("strong", "weak"), ("weak", "strong"), ("weak", "weak")):
        with pytest.raises(InputError, match="are no pair, or planned twice"):
            compare([WEAK, STRONG], planned=[("strong", "weak"), again])


def test_each_pair_is_the_same_in_any_company_and_order() -> None:
    alone = compare([WEAK, STRONG]).pairs[0]
    third = of("third", noisy(0.2, 5))
    for order in ([SAME, third, WEAK, STRONG], [STRONG, SAME, WEAK]):
        pair = compare(order).pair("strong", "weak")
        assert replace(pair, p_holm=alone.p_holm, family=alone.family) == alone


def test_the_order_of_queries_in_a_file_does_not_matter() -> None:
    weak, strong = (replace(e, per_query=dict(reversed(e.per_query.items()))) for e in (WEAK, STRONG))
    assert compare([WEAK, strong]) == compare([weak, strong]) == compare([WEAK, STRONG])


def test_the_baseline_is_b_and_the_first_by_default() -> None:
    assert compare([WEAK, SAME, STRONG]).baseline == "weak"
    comparison = compare([WEAK, SAME, STRONG], baseline="strong")
    assert comparison.baseline == "strong"
    assert [(pair.a, pair.b) for pair in comparison.pairs] == [("weak", "strong"), ("same", "strong"), ("same", "weak")]


def test_the_family_is_all_pairs_of_all_datasets() -> None:
    other = [of("weak", BASE[:30], "other"), of("strong", BASE[:30] + 0.1, "other"), of("alone", [0.1, 0.2], "third")]
    comparison = compare([WEAK, STRONG, SAME, *other])
    assert [pair.dataset for pair in comparison.pairs] == ["d", "d", "d", "other"]
    assert {pair.family for pair in comparison.pairs} == {"nDCG@10, 4 pairs"}
    assert comparison.pair("strong", "weak", "other").p_holm == 4 / 10_001


def test_identical_systems_tie_everywhere() -> None:
    pair = compare([WEAK, of("copy", BASE + 1e-13)]).pairs[0]
    assert (pair.difference, pair.p, pair.p_t, pair.ties, pair.significant) == (0.0, 1.0, 1.0, N, False)
    assert (pair.low, pair.high) == pytest.approx((0.0, 0.0), abs=1e-9)


@pytest.mark.parametrize(
    ("evaluations", "says"),
    [
        ([WEAK, of("b", BASE[:-1])], "1 queries are in one of them only, such as 'q119'"),
        ([WEAK, WEAK], "two evaluations of 'weak' on 'd'"),
        ([WEAK, replace(SAME, split="dev")], "splits differ: 'test' and 'dev'"),
        (
            [replace(WEAK, fingerprints={"dataset": "aa"}), replace(SAME, fingerprints={"dataset": "bb"})],
            "fingerprints differ: aa… and bb…",
        ),
        ([WEAK, replace(SAME, measures={"P@1": Estimate(0, 0, 0)})], r"'same' on 'd' has no nDCG@10 \(it has: P@1\)"),
        ([WEAK, replace(SAME, per_query={query: {} for query in WEAK.per_query})], "lacks a finite nDCG@10"),
        ([WEAK, of("b", np.full(N, np.nan))], "lacks a finite nDCG@10"),
        ([WEAK], "nothing to compare"),
        ([], "nothing to compare"),
        ([WEAK, of("b", BASE, "elsewhere")], "nothing to compare"),
        ([of("a", [0.5]), of("b", [0.6])], "at least two"),
    ],
)
def test_what_does_not_belong_together_is_refused(evaluations: list[Evaluation], says: str) -> None:
    with pytest.raises(InputError, match=says):
        compare(evaluations)


def test_wrong_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'strong'"):
        compare([WEAK, STRONG], baseline="strnog")
    with pytest.raises(ConfigError, match="did you mean 'nDCG@10'"):
        compare([WEAK, STRONG], measure="NDCG@10")


def test_too_few_permutations_for_the_family_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not any(pair.significant for pair in compare([WEAK, STRONG, SAME], permutations=30).pairs)
    assert "ask for more" in caplog.text


def test_a_fingerprint_that_one_side_lacks_is_no_obstacle() -> None:
    assert compare([replace(WEAK, fingerprints={"dataset": "aa"}), STRONG]).pairs


def choose(evaluations: list[Evaluation], *order: str):
    return recommend(evaluations, compare(evaluations), order)


def test_a_significantly_better_system_is_recommended_with_its_figures() -> None:
    chosen = choose([STRONG, WEAK, SAME], "weak", "same", "strong", "never evaluated")
    pair = compare([WEAK, STRONG, SAME]).pair("strong", "weak")
    assert (chosen.system, chosen.measure) == ("strong", "nDCG@10")
    assert f"significantly better than the simpler weak: {pair.difference:+.3f}" in chosen.reason
    assert "p < 0.001 after Holm" in chosen.reason
    assert [note.split(" against ")[0] for note in chosen.notes] == ["weak", "same"]


def test_a_higher_mean_alone_earns_nothing() -> None:
    lucky = of("lucky", noisy(0.005, 11))
    assert lucky.measures["nDCG@10"].mean > WEAK.measures["nDCG@10"].mean
    chosen = choose([lucky, WEAK], "weak", "lucky")
    assert chosen.system == "weak"
    assert "lucky has the highest mean" in chosen.reason
    assert "did not earn its place" in chosen.reason
    assert choose([lucky, WEAK], "lucky", "weak").system == "lucky"


def test_the_choice_is_never_below_a_simpler_system() -> None:
    wild = of("wild", noisy(0.06, 3, spread=0.6))
    steady = of("steady", BASE + 0.03)
    means = {e.system: e.measures["nDCG@10"].mean for e in (wild, steady)}
    comparison = compare([WEAK, wild, steady])
    assert means["wild"] > means["steady"]
    assert comparison.pair("steady", "weak").significant
    assert not comparison.pair("wild", "weak").significant
    assert recommend([WEAK, wild, steady], comparison, ["weak", "wild", "steady"]).system == "weak"
    assert recommend([WEAK, wild, steady], comparison, ["weak", "steady", "wild"]).system == "steady"


def test_several_datasets_must_not_contradict_each_other() -> None:
    up, down = of("strong", BASE + 0.1, "e"), of("strong", BASE - 0.02, "e")
    assert choose([WEAK, STRONG, of("weak", BASE, "e"), up], "weak", "strong").system == "strong"
    mixed = choose([WEAK, STRONG, of("weak", BASE, "e"), down], "weak", "strong")
    assert mixed.system == "weak"
    assert " on e" in mixed.reason


def test_recommending_refuses_gaps() -> None:
    with pytest.raises(InputError, match="how simple 'strong' is"):
        choose([WEAK, STRONG], "weak")
    with pytest.raises(InputError, match="'same' has no nDCG@10 on 'e'"):
        choose([WEAK, STRONG, SAME, of("weak", BASE, "e"), of("strong", BASE, "e")], "weak", "same", "strong")
    with pytest.raises(InputError, match="lacks the pair"):
        recommend([WEAK, STRONG, SAME], compare([WEAK, SAME]), ["weak", "same", "strong"])
    with pytest.raises(InputError, match="no evaluations"):
        recommend([], compare([WEAK, STRONG]), ["weak"])
    alone = recommend([WEAK], Comparison("weak", "nDCG@10", ("weak",), ()), ["weak"])
    assert "only system" in alone.reason
