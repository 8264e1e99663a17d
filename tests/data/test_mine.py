"""Mining: what may become a negative, what may not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.core.errors import ConfigError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.run import Run
from lodesmith.data.mine import Mined, Miner, Rules, threshold

LONG = "the whale likes rivers and music of the moon in a barn far from the thunder"
DROPPED = ("margin-relative", "margin-absolute", "duplicate", "near-duplicate", "repeated", "empty", "filtered")


class Fixed:
    """A retriever with given scores."""

    def __init__(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        self.scores = scores

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        return Run.of({query: self.scores.get(query, {}) for query in queries}).top(k)


def world(count: int = 12, judged: Mapping[str, int] | None = None, **texts: str) -> Dataset:
    documents = [Document(f"d{at}", "", texts.get(f"d{at}", f"text number {at}")) for at in range(count)]
    return Dataset.of(documents, [Query("q", "what")], {"train": {"q": judged or {"d0": 1}}})


def falling(count: int = 12) -> dict[str, dict[str, float]]:
    """d0 scores 1, each next a tenth less."""
    return {"q": {f"d{at}": 1 - at / 10 for at in range(count)}}


def mined(dataset: Dataset, ranking: Mapping[str, Mapping[str, float]], rules: Rules, **more: object) -> Mined:
    miner = Miner(dataset, "train", rules, Fixed(ranking), **more)  # type: ignore[arg-type]
    found = dict(miner.mine({key: query.text for key, query in dataset.queries.items()}))["q"]
    check_counts(found)
    return found


def check_counts(found: Mined) -> None:
    counts = Counter(found.counts)
    assert counts["candidates"] == counts["kept"] + counts["not-needed"] + sum(counts[name] for name in DROPPED)
    assert counts["kept"] == len(found.ids) == len(found.scores)
    assert all(a >= b for a, b in pairwise(found.scores))


def test_the_best_ranked_that_are_not_positive() -> None:
    found = mined(world(), falling(), Rules(3, relative=None))
    assert found.ids == ("d1", "d2", "d3")
    assert found.scores == (0.9, 0.8, 0.7)
    assert found.counts == {"candidates": 11, "kept": 3, "not-needed": 8}


def test_ranks_count_what_is_not_a_positive() -> None:
    judged = {"d0": 1, "d2": 1}
    assert mined(world(judged=judged), falling(), Rules(2, 2, 4, relative=None)).ids == ("d3", "d4")
    assert mined(world(judged=judged), falling(), Rules(3, 2, 4, relative=None)).ids == ("d3", "d4", "d5")


def test_the_relative_margin_drops_what_is_above_its_share_of_the_positive() -> None:
    found = mined(world(), falling(), Rules(2, relative=0.8))
    assert found.ids == ("d2", "d3")  # .9 is above .8, and .8 is not
    assert found.counts["margin-relative"] == 1


def test_the_absolute_margin() -> None:
    found = mined(world(), falling(), Rules(2, absolute=0.35, relative=None))
    assert found.ids == ("d4", "d5")
    assert found.counts["margin-absolute"] == 3


def test_both_margins_hold() -> None:
    found = mined(world(), falling(), Rules(2, absolute=0.35, relative=0.85))
    assert found.ids == ("d4", "d5")
    assert (found.counts["margin-relative"], found.counts["margin-absolute"]) == (1, 2)


def test_scores_below_zero_keep_their_distance() -> None:
    """As −‖q − d‖²: .95 × −1 would let in what is nearer than the positive; −1.05 does not."""
    scores = {"q": {"d0": -1.0, "d1": -0.96, "d2": -1.02, "d3": -1.06, "d4": -3.0}}
    assert mined(world(), scores, Rules(2)).ids == ("d3", "d4")
    assert threshold(-1.0, Rules())[0] == pytest.approx(-1.05)
    assert threshold(2.0, Rules())[0] == pytest.approx(1.9)
    assert threshold(0.0, Rules(absolute=0.5)) == (0.0, -0.5)


@given(st.floats(-1e6, 1e6), st.floats(0.01, 1), st.floats(-1e6, 1e6))
def test_no_margin_lets_in_what_is_above_the_positive(positive: float, relative: float, candidate: float) -> None:
    assert not (candidate > positive and candidate <= threshold(positive, Rules(relative=relative))[0])


def test_the_lowest_positive_sets_the_margin() -> None:
    found = mined(world(judged={"d0": 1, "d4": 2}), falling(), Rules(2, relative=1.0))
    assert found.ids == ("d5", "d6")
    assert found.counts["margin-relative"] == 3


def test_a_positive_outside_the_ranking_is_scored_directly() -> None:
    asked: list[Mapping[str, Sequence[str]]] = []

    def scores(queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        asked.append(documents)
        assert queries == {"q": "what"}
        return {query: dict.fromkeys(keys, 0.65) for query, keys in documents.items()}

    found = mined(world(20, {"d15": 1, "d0": 1}), falling(10), Rules(2, relative=1.0), scores=scores)
    assert found.ids == ("d4", "d5")
    assert asked == [{"q": ["d15"]}]
    assert found.counts["positive-unranked"] == 1


def test_a_positive_that_nobody_can_score_counts_as_the_last_candidate() -> None:
    found = mined(world(20, {"d15": 1}), falling(10), Rules(2, relative=1.0))
    assert found.ids == ("d9",)
    assert (found.counts["short"], found.counts.get("none", 0)) == (1, 0)
    assert mined(world(20, {"d15": 1}), falling(10), Rules(2)).counts["none"] == 1


def test_without_margins_nobody_is_asked() -> None:
    def scores(*_: object) -> dict[str, dict[str, float]]:
        raise AssertionError

    assert len(mined(world(20, {"d15": 1}), falling(10), Rules(2, relative=None), scores=scores).ids) == 2


def test_words_of_a_positive_are_no_negative() -> None:
    texts = {"d0": LONG, "d1": "  The WHALE likes rivers, and music of the moon in a barn far from the thunder!"}
    texts |= {"d2": LONG + " again", "d3": LONG[: len(LONG) // 2], "d4": "What?", "d5": "", "d7": "text number 6"}
    found = mined(world(**texts), falling(), Rules(3, relative=None))
    assert found.ids == ("d3", "d6", "d8")
    expected = {"duplicate": 2, "near-duplicate": 1, "empty": 1, "repeated": 1}
    assert {name: found.counts[name] for name in expected} == expected


def test_titles_count_and_similarity_can_be_set() -> None:
    dataset = Dataset.of(
        [Document("d0", "the cat", "eats"), Document("d1", "", "the cat eats"), Document("d2", "", "the cat eats it")],
        [Query("q", "what")],
        {"train": {"q": {"d0": 1}}},
    )
    assert mined(dataset, falling(3), Rules(1, relative=None)).ids == ("d2",)
    assert mined(dataset, falling(3), Rules(1, relative=None, similar=0.5)).ids == ()


def test_its_own_id_is_dropped_only_where_the_dataset_says_so() -> None:
    documents = [Document(key, "", f"text {key}") for key in ("q", "d0", "d1")]
    scores = {"q": {"q": 3.0, "d0": 2.0, "d1": 1.0}}
    for drop, expected in ((True, ("d1",)), (False, ("q",))):
        dataset = Dataset.of(documents, [Query("q", "what")], {"train": {"q": {"d0": 1}}}, drop_same_id=drop)
        assert mined(dataset, scores, Rules(1, relative=None)).ids == expected


def test_judged_non_relevant_documents_are_kept_and_counted() -> None:
    found = mined(world(judged={"d0": 1, "d1": 0, "d2": 0}), falling(), Rules(2, relative=None))
    assert found.ids == ("d1", "d2")
    assert found.counts["judged-0"] == 2


def test_what_the_dataset_lacks_is_counted_and_left_out() -> None:
    found = mined(world(), {"q": {"gone": 2.0} | falling()["q"]}, Rules(2, relative=None))
    assert found.ids == ("d1", "d2")
    assert found.counts["unknown-document"] == 1


def test_queries_without_a_positive_or_a_result() -> None:
    only_zero = world(judged={"d1": 0, "elsewhere": 1})
    assert mined(only_zero, falling(), Rules(2)).counts == {"without-positive": 1}
    assert mined(world(), {}, Rules(2)).counts == {"positive-unranked": 1, "short": 1, "none": 1}


def test_random_sampling_depends_on_seed_and_query_alone() -> None:
    rules = Rules(4, relative=0.75, sampling="random")
    first = mined(world(40), falling(40), rules)
    assert first == mined(world(40), falling(40), rules)
    assert first.ids != mined(world(40), falling(40), Rules(4, relative=0.75, sampling="random", seed=1)).ids
    assert first.ids != ("d3", "d4", "d5", "d6")
    assert min(int(key[1:]) for key in first.ids) >= 3


def test_random_sampling_reaches_all_alike() -> None:
    seen = Counter[str]()
    for seed in range(300):
        seen.update(mined(world(), falling(), Rules(3, relative=None, sampling="random", seed=seed)).ids)
    assert set(seen) == {f"d{at}" for at in range(1, 12)}
    assert max(seen.values()) < 2 * min(seen.values())


def judge(limit: Mapping[str, float], calls: list[int]) -> object:
    def score(_: Mapping[str, str], documents: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        calls.append(sum(map(len, documents.values())))
        return {query: {key: limit.get(key, 0.1) for key in keys} for query, keys in documents.items()}

    return score


def test_a_positive_of_another_split_or_of_a_query_of_the_same_words_is_no_negative() -> None:
    documents = [Document(f"d{at}", "", LONG if at in (2, 5) else f"text number {at}") for at in range(9)]
    queries = [Query("q", "what"), Query("again", "What?"), Query("other", "which"), Query("unseen", "what")]
    judged = {
        "train": {"q": {"d0": 1}, "other": {"d4": 1}, "again": {"d2": 2, "gone": 1}},
        "test": {"q": {"d1": 1, "d3": 0}, "unseen": {"d4": 1}},
    }
    dataset = Dataset.of(documents, queries, judged)
    found = mined(dataset, falling(9), Rules(3, relative=0.8))
    assert found.ids == ("d3", "d4", "d6")  # d5 has the words of d2; d0 alone sets the margin
    assert (found.counts["duplicate"], found.counts["candidates"]) == (1, 6)
    # d4 is what the test judges relevant to a query of these words: it must not decide what is trained on


def test_a_filter_judges_instead_of_the_system_and_only_what_is_needed() -> None:
    calls: list[int] = []
    found = mined(world(), falling(), Rules(3), judge=judge({"d0": 0.9, "d1": 0.95, "d3": 0.86, "d4": 0.85}, calls))
    assert found.ids == ("d2", "d4", "d5")
    assert found.scores == (0.8, 0.6, 0.5)  # the system's
    assert found.counts["filtered"] == 2
    assert "margin-relative" not in found.counts
    assert calls == [1, 3, 2]


def test_a_filter_that_refuses_all_ends() -> None:
    found = mined(world(), falling(), Rules(3), judge=judge({f"d{at}": 1.0 for at in range(12)}, []))
    assert found.ids == ()
    assert found.counts["filtered"] == 11


def test_a_filter_needs_a_margin() -> None:
    with pytest.raises(ConfigError, match="by a margin"):
        Miner(world(), "train", Rules(relative=None), Fixed({}), judge=judge({}, []))  # type: ignore[arg-type]


def test_queries_do_not_depend_on_each_other() -> None:
    documents = [Document(f"d{at}", "", f"text number {at % 9}") for at in range(30)]
    queries = [Query(f"q{at}", f"query {at}") for at in range(8)]
    judged = {query.id: {f"d{at}": 1} for at, query in enumerate(queries)}
    scores = {q.id: {f"d{(at * 7 + n) % 30}": 1 / (1 + at) for at in range(30)} for n, q in enumerate(queries)}
    miner = Miner(Dataset.of(documents, queries, {"train": judged}), "train", Rules(4, relative=0.9), Fixed(scores))
    together = dict(miner.mine({query.id: query.text for query in queries}))
    alone = {query.id: dict(miner.mine({query.id: query.text}))[query.id] for query in reversed(queries)}
    assert together == alone
    assert list(together) == [query.id for query in queries]
    for found in together.values():
        check_counts(found)


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives": 0},
        {"first": 0},
        {"first": 5, "last": 4},
        {"first": 10, "last": 12},
        {"absolute": -1.0},
        {"absolute": float("nan")},
        {"relative": 0.0},
        {"relative": 1.5},
        {"relative": float("nan")},
        {"sampling": "best"},
        {"similar": 0.0},
    ],
)
def test_rules_that_do_not_fit_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Rules(**settings)  # type: ignore[arg-type]
