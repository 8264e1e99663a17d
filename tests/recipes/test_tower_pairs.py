"""Awkward pairs reach the towers whole: several positives, equal texts, no words, a document that many ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodesmith.core import events
from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.recipes.pairs import mined
from lodesmith.recipes.train import Training, forecast, plan

pytestmark = pytest.mark.usefixtures("cache")


def saved(
    folder: Path, documents: Sequence[str], queries: Sequence[str], judged: Mapping[int, Sequence[int]]
) -> tuple[Path, dict[str, object]]:
    """A dataset of documents d0, d1 … and queries q0, q1 …, and the settings that train a small bag on it."""
    dataset = Dataset.of(
        [Document(f"d{i}", "", text) for i, text in enumerate(documents)],
        [Query(f"q{i}", text) for i, text in enumerate(queries)],
        {"train": {f"q{q}": {f"d{d}": 1 for d in own} for q, own in judged.items()}},
        name="pairs",
    )
    settings: dict[str, object] = {"data.validation": None, "vocabulary.min_count": 1, "encoder.dimension": 8}
    settings |= {f"stages.{stage}.{name}": 4 if name == "batch_size" else 1 for stage in (0, 1) for name in SMALL}
    return dataset.save(folder / "data"), {"data": str(folder / "data"), **settings}


SMALL = ("epochs", "batch_size")


def mine(dataset: Path, found: Mapping[str, Sequence[str]]) -> None:
    with ColumnWriter(dataset, "negatives", "query", {}) as column:
        for query in column.missing(list(found)):
            column.add(query, [{"ids": list(found[query]), "scores": [1.0] * len(found[query])}])
        column.finish()


def planned(folder: Path, settings: Mapping[str, Any], **more: Any) -> Training:
    made = plan("two_tower_bag", {**settings, **more}, out=folder / "run", reported=False)
    assert isinstance(made, Training)
    return made


def batches_of(training: Training, stage: int = 1) -> Any:
    return training.learner.batches(training.recipe.stages[stage])


def test_mined_negatives_are_those_of_the_pairs_own_query(tmp_path: Path) -> None:
    texts = [f"text {'abcdefgh'[i]}" for i in range(8)]
    dataset, settings = saved(tmp_path, texts, ["one", "two", "three"], {2: [3, 4], 0: [0, 1], 1: [2]})
    own = {"q0": ["d5", "d2"], "q1": ["d6"], "q2": ["nowhere", "d7", "d0"]}
    mine(dataset, own)
    training = planned(tmp_path, settings, **{"data.negatives": "negatives", "data.negatives_each": 2})
    rows = {
        f"q{q}": [int(d[1:]) for d in found if d != "nowhere"] + [-1] * (q == 1) for q, found in enumerate(own.values())
    }
    pairs, queries = training.pairs, list(training.pairs.queries)
    found = mined(training.dataset, pairs, training.recipe)
    assert found is not None
    assert sorted(pairs.pairs[:, 1].tolist()) == [0, 1, 2, 3, 4]
    assert [rows[queries[query]] for query in pairs.pairs[:, 0]] == found.tolist()
    seen: dict[int, None] = {}
    for batch in batches_of(training):
        asked = [queries[number] for number in batch["query_ids"]]
        assert [sorted(rows[query]) for query in asked] == np.sort(batch["negative_ids"].numpy()).tolist()
        seen |= dict.fromkeys(batch["document_ids"].tolist())
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_a_limit_keeps_pairs_and_negatives_together(tmp_path: Path) -> None:
    texts = [f"text {i} {i * i}" for i in range(40)]
    dataset, settings = saved(
        tmp_path, texts, [f"query {i}" for i in range(10)], {q: [2 * q, 2 * q + 1] for q in range(10)}
    )
    mine(dataset, {f"q{q}": [f"d{20 + q}"] for q in range(10)})
    training = planned(tmp_path, settings, **{"data.negatives": "negatives", "data.limit": 7})
    found = mined(training.dataset, training.pairs, training.recipe)
    assert found is not None
    assert len(training.pairs.pairs) == 7
    assert found[:, 0].tolist() == (20 + training.pairs.pairs[:, 0]).tolist()


@pytest.mark.parametrize("wanted", [True, False])
def test_what_an_equal_query_finds_right_is_no_negative(wanted: bool, tmp_path: Path) -> None:
    """Three ask the same. The others' documents, mined as negatives, are masked: nothing is left to tell apart."""
    documents = ["a cat", "the cat", "one cat", "a dog", "the dog"]
    dataset, settings = saved(tmp_path, documents, ["cats"] * 3, {q: [q] for q in range(3)})
    others = {f"q{q}": [f"d{d}" for d in range(3) if d != q] for q in range(3)}
    mine(dataset, others if wanted else {query: ["d3", "d4"] for query in others})
    settings |= {"stages.0.batch_size": 1, "stages.1.batch_size": 1, "data.negatives": "negatives"}
    happened = planned(tmp_path, settings).events()
    losses = [e.terms["infonce"] for e in happened if isinstance(e, events.Step) and e.stage == "contrast"]
    assert losses
    assert [loss == 0 for loss in losses] == [wanted] * len(losses)


def test_pairs_of_texts_without_words_are_left_out(tmp_path: Path) -> None:
    documents = ["a cat", "...", "a dog", "an owl", ""]
    queries = ["cat", "dog", "?!", "owl"]
    dataset, settings = saved(tmp_path, documents, queries, {0: [0, 1], 1: [2, 4], 2: [0], 3: [3, 1]})
    mine(dataset, {"q0": ["d1", "d4", "d2"], "q1": ["d1"], "q3": ["d0"]})
    training = planned(tmp_path, settings, **{"data.negatives": "negatives", "data.negatives_each": 2})
    asked: list[tuple[int, int]] = []
    for batch in batches_of(training):
        asked += zip(batch["query_ids"].tolist(), batch["document_ids"].tolist(), strict=True)
        assert (batch["documents"]["offsets"].diff() > 0).all()
        own = {0: [2], 1: [], 3: [0]}
        negatives = [[d for d in row if d >= 0] for row in batch.get("negative_ids", np.zeros((0, 0))).tolist()]
        assert negatives == [own[query] for query in batch["query_ids"].tolist()]
    assert sorted(asked) == [(0, 0), (1, 2), (3, 3)]
    assert list(training.events())[-1].step == 2  # a stage is a batch of three
    bare = saved(tmp_path / "bare", ["...", ""], ["cat", "?"], {0: [0, 1], 1: [0]})[1]
    with pytest.raises(InputError, match="no training pair has words on both sides"):
        batches_of(planned(tmp_path / "bare", bare))


def test_each_side_is_read_as_long_as_its_own_tower_reads(tmp_path: Path) -> None:
    long = " ".join("abcdefghij")
    documents, queries = [f"{long} {i}" for i in range(4)], [f"{i} {long}" for i in range(4)]
    _, settings = saved(tmp_path, documents, queries, {q: [q] for q in range(4)})
    own = {"use": "bag", "dimension": 8, "max_length": 3}
    training = planned(tmp_path, settings, document_encoder=own, **{"encoder.max_length": 5})
    (batch,) = batches_of(training)
    assert batch["queries"]["offsets"].diff().tolist() == [5] * 4
    assert batch["documents"]["offsets"].diff().tolist() == [3] * 4


def test_a_document_of_many_queries_fills_its_batches(tmp_path: Path) -> None:
    """Five documents, forty queries and more of each: 13 batches of 16 an epoch, not 41 of one query a document."""
    documents, queries = [f"thing {i}" for i in range(5)], [f"question {i} of {i % 5}" for i in range(203)]
    _, settings = saved(tmp_path, documents, queries, {q: [q % 5] for q in range(203)})
    settings |= {"stages.0.batch_size": 8, "stages.1.batch_size": 16, "stages.1.epochs": 3}
    training = planned(tmp_path, settings)
    assert forecast(training)["steps"] == {"triplet": 26, "contrast": 39}
    batches = batches_of(training)
    for _ in range(2):
        sizes = sorted(len(batch["query_ids"]) for batch in batches)
        assert (len(batches), sizes[0], set(sizes[1:])) == (13, 11, {16})
    happened = list(training.events())
    assert {e.stage: e.steps for e in happened if isinstance(e, events.Step)} == {"triplet": 26, "contrast": 65}
    assert happened[-1].step == 65
