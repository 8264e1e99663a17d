"""Near-duplicates: the same groups as comparing every pair."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.data import duplicates
from lodesmith.data.duplicates import near_duplicates

WORDS = [f"w{i}" for i in range(3000)]


def jaccard(a: str, b: str, size: int) -> float:
    first, second = (
        {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))} for words in (a.split(), b.split())
    )
    return len(first & second) / len(first | second)


def brute(texts: list[str], threshold: float, size: int) -> set[tuple[int, ...]]:
    parent = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if jaccard(texts[i], texts[j], size) >= threshold:
                low, high = sorted((parent[i], parent[j]))
                parent = [low if p == high else p for p in parent]
    groups = {p: tuple(i for i in range(len(texts)) if parent[i] == p) for p in parent}
    return {group for group in groups.values() if len(group) > 1}


def texts_with_copies(seed: int, n: int = 120) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(n):
        words = rng.choices(WORDS, k=rng.randint(1, 60))
        if texts and rng.random() < 0.5:
            words = rng.choice(texts).split()
            for _ in range(rng.randint(0, 3)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("threshold", "shingle"), [(0.8, 3), (0.8, 2), (0.5, 1), (0.95, 3)])
def test_groups_are_those_of_all_pairs(seed: int, threshold: float, shingle: int) -> None:
    texts = texts_with_copies(seed)
    found = near_duplicates(texts, threshold, shingle=shingle, seed=seed)
    assert set(found.groups) == brute(texts, threshold, shingle)


def test_case_and_punctuation_do_not_count_and_short_texts_are_compared() -> None:
    found = near_duplicates(["Hello, WORLD!", "hello world", "hello", "", " ", "—", "world hello"])
    assert found.groups == ((0, 1),)
    assert found.representatives.tolist() == [0, 0, 2, 3, 4, 5, 6]
    assert found.first.tolist() == [True, False, True, True, True, True, True]


def test_a_text_that_begins_another_is_no_copy_by_that() -> None:
    text = " ".join(WORDS[:50])
    assert near_duplicates([text, text + " " + " ".join(WORDS[50:100])]).groups == ()
    assert near_duplicates([text, text + " end"]).groups == ((0, 1),)


def test_large_groups_are_found() -> None:
    rng = random.Random(0)
    base = WORDS[:80]
    texts = []
    for _ in range(400):
        words = list(base)
        words[rng.randrange(80)] = rng.choice(WORDS)
        texts.append(" ".join(words))
    assert near_duplicates([*texts, "something else entirely"]).groups == (tuple(range(400)),)


def test_the_estimate_is_near_the_truth() -> None:
    texts = [" ".join(WORDS[:100]), " ".join(WORDS[20:120]), " ".join(WORDS[200:300])]
    shingles, offsets = duplicates._shingles(texts, 3)
    signatures = np.concatenate(
        [duplicates._signatures(shingles, offsets, np.arange(3), seed) for seed in range(30)], axis=1
    )
    estimate = (signatures[0] == signatures[1]).mean()
    assert abs(estimate - jaccard(texts[0], texts[1], 3)) < 0.03
    assert (signatures[0] == signatures[2]).mean() < 0.01
    left, right = np.asarray([0, 0]), np.asarray([1, 2])
    assert duplicates._jaccard(shingles, offsets, left, right).tolist() == [jaccard(texts[0], texts[1], 3), 0.0]


def test_nothing_and_nonsense() -> None:
    assert near_duplicates([]).groups == ()
    assert near_duplicates(["", ""]).groups == ()
    for threshold, shingle in ((0.1, 3), (1.1, 3), (0.8, 0)):
        with pytest.raises(ConfigError):
            near_duplicates(["a"], threshold, shingle=shingle)


@pytest.mark.parametrize("texts", [["x"], ["x", "y z"], ["x", "x"], [""]])
def test_fewer_words_than_a_shingle_in_all(texts: list[str]) -> None:
    assert near_duplicates(texts).first.tolist() == [index == texts.index(text) for index, text in enumerate(texts)]
