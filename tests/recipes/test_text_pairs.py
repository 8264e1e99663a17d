"""Pairs without judgements for a stage of a recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import InputError
from lodesmith.core.joined import load_several
from lodesmith.core.records import Dataset, Document
from lodesmith.data.pairs import make_pairs
from lodesmith.recipes.recipe import load
from lodesmith.recipes.text_pairs import text_pairs
from lodesmith.recipes.train import forecast, plan
from lodesmith.testing import tiny_dataset

BODY = (
    "Rivers carry water from the mountains to the sea. Salmon swim against the current every autumn. "
    "Engineers build dams to hold the floods of spring. Farmers lead canals into their dry fields."
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    documents = [
        Document(f"d{at}", f"All about topic number {word}", f"{BODY} Finally there is {word}.")
        for at, word in enumerate(("salt", "iron", "glass", "paper"))
    ]
    return Dataset.of(documents, name="world").save(tmp_path / "world")


def test_they_are_made_where_there_is_no_column_and_read_where_there_is(dataset: Path) -> None:
    made = text_pairs(Dataset.load(dataset), seed=3)
    assert len(made.pairs) > 0
    assert made.pairs.max(0).tolist() == [len(made.queries) - 1, len(made.passages) - 1]
    make_pairs(dataset, seed=3)
    read = text_pairs(Dataset.load(dataset), seed=99)
    assert (read.queries, read.passages) == (made.queries, made.passages)
    assert np.array_equal(read.pairs, made.pairs)


def column(dataset: Path, *rows: dict[str, str]) -> Dataset:
    (dataset / "columns").mkdir(exist_ok=True)
    (dataset / "columns" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Dataset.load(dataset)


def test_equal_texts_share_a_row_and_equal_pairs_count_once(dataset: Path) -> None:
    found = text_pairs(
        column(
            dataset,
            {"document": "d0", "text": "salt", "kind": "title", "passage": "one"},
            {"document": "d1", "text": "salt", "kind": "title"},
            {"document": "d2", "text": "salt", "kind": "heading", "passage": "one"},
            {"document": "d2", "text": "iron", "kind": "heading", "passage": "one"},
        )
    )
    assert found.queries == ("salt", "iron")
    assert found.passages == ("one", Dataset.load(dataset).documents["d1"].content)
    assert found.pairs.tolist() == [[0, 0], [0, 1], [1, 0]]


def test_a_limit_draws_by_the_seed(dataset: Path) -> None:
    rows = [{"document": "d0", "text": f"text {at}", "kind": "title", "passage": f"p{at}"} for at in range(50)]
    whole = column(dataset, *rows)
    first, again, other = (text_pairs(whole, limit=9, seed=seed) for seed in (0, 0, 1))
    assert len(first.pairs) == 9
    assert first.queries == again.queries != other.queries


def test_what_gives_no_pairs_is_an_error(dataset: Path) -> None:
    with pytest.raises(InputError, match="'d9' is none of the dataset's"):
        text_pairs(column(dataset, {"document": "d9", "text": "a", "kind": "title"}))
    with pytest.raises(InputError, match="no pairs of texts"):
        text_pairs(column(dataset, {"document": "d0", "kind": "title"}))
    with pytest.raises(InputError, match="no document of short gives a pair"):
        text_pairs(Dataset.of([Document("a", "", "x")], name="short"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("isotropic_pretrain", {}),
        ("isotropic_pretrain", {"stages.0.objective.negatives": "corpus"}),
        ("isotropic_pretrain", {"encoder.freeze_base": False}),
        ("two_tower_bag", {"stages.0.pairs": "text", "encoder.dimension": 8}),
    ],
)
def test_a_first_stage_learns_from_the_documents_alone(
    recipe: str, settings: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    tiny = tiny_dataset(60).save(tmp_path / "tiny")
    column(tiny, *({"document": f"d{at}", "text": f"asks for {at}", "kind": "title"} for at in range(40)))
    short = {"stages.0.epochs": 2, "stages.1.epochs": 1, "stages.0.batch_size": 8, "base": str(tiny_model)}
    happened = list(lode.train(recipe, out=tmp_path / "run", data=str(tiny), **short, **settings))
    first = load(recipe).stages[0].name
    steps = [event for event in happened if isinstance(event, events.Checkpoint) and event.stage == first]
    assert steps[0].step == 5
    totals = {event.stage: event.total for event in happened if isinstance(event, events.Step)}
    assert len(totals) == 2


SUBJECTS = ("Herons", "Smiths", "Bakers", "Comets", "Lizards", "Violins")


def distinct(*subjects: str) -> list[Document]:
    """Documents that have no sentence in common."""
    said = "{0} sleep under old {1} roofs. Most {1} folk greet {0} at dawn. Never has a {1} winter stopped {0}."
    return [
        Document(f"d{n}", f"{word} of the north {word}", " ".join(said.format(word, word[::-1]) for _ in range(2)))
        for n, word in enumerate(subjects)
    ]


def joined(tmp_path: Path, *columns: bool) -> Dataset:
    """Datasets of documents alone, some with a column."""
    folders = []
    for number, has in enumerate(columns):
        documents = distinct(*SUBJECTS[3 * number : 3 * number + 3])
        folders.append(Dataset.of(documents, name=f"part{number}").save(tmp_path / f"part{number}"))
        if has:
            column(folders[-1], {"document": "d1", "text": f"asks {number}", "kind": "title"})
    return load_several(",".join(map(str, folders)))


def test_joined_datasets_give_the_pairs_of_their_own_columns(tmp_path: Path) -> None:
    both = joined(tmp_path / "a", True, True)
    found = text_pairs(both)
    assert found.queries == ("asks 0", "asks 1")
    assert found.passages == (both.documents["part0/d1"].content, both.documents["part1/d1"].content)
    mixed = joined(tmp_path / "b", True, False)
    alone = text_pairs(Dataset.load(tmp_path / "b" / "part1"))
    assert text_pairs(mixed).queries == ("asks 0", *alone.queries)
    none = text_pairs(joined(tmp_path / "c", False, False))
    assert len(none.pairs) > len(alone.pairs) > 1


def test_documents_that_other_splits_judge_are_left_out_even_without_a_train_split() -> None:
    judged = replace(Dataset.of(distinct(*SUBJECTS)), judgements={"test": {"q": {"d0": 1}}})
    texts = " ".join(text_pairs(judged).queries + text_pairs(judged).passages)
    assert "Smiths" in texts
    assert "Herons" not in texts
    with pytest.raises(InputError, match=r"no split 'dev' \(it has: test\)\nset data\.train"):
        text_pairs(judged, split="dev")


TEXTS = {"stages.1.pairs": "text", "stages.0.epochs": 2, "stages.1.epochs": 1, "stages.0.batch_size": 8}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("recipe", ["isotropic_pretrain", "two_tower_bag"])
def test_documents_alone_are_enough_where_no_stage_needs_judgements(
    dataset: Path, recipe: str, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (dataset / "queries.jsonl").unlink()
    assert not Dataset.load(dataset).judgements
    settings = TEXTS | {"data": str(dataset), "base": str(tiny_model), "stages.0.pairs": "text"}
    happened = list(lode.train(recipe, out=tmp_path / "run", **settings))
    assert isinstance(happened[-1], events.Done)
    assert not any(isinstance(event, events.Validation) for event in happened)
    assert "no judgements to validate on" in caplog.text
    vectors = lode.load(tmp_path / "run").encode(["salt"]).values
    assert vectors.shape[0] == 1
    with pytest.raises(InputError, match=r"has no split 'train'.*\nset data\.train; or set pairs of the stage"):
        list(lode.train(recipe, out=tmp_path / "x", **(settings | {"stages.1.pairs": "judged"})))


@pytest.mark.usefixtures("cache")
def test_a_forecast_counts_the_pairs_that_each_stage_learns(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    number = len(text_pairs(Dataset.load(dataset)).pairs)
    settings = TEXTS | {"data": str(dataset), "base": str(tiny_model), "stages.1.batch_size": 3}
    report = forecast(plan("isotropic_pretrain", settings, out=tmp_path / "run"))
    assert (report["pairs"], report["text_pairs"]) == (0, number)
    assert report["steps"] == {"pretrain": 2 * -(-number // 8), "contrast": -(-number // 3)}
    assert report["validation_queries"] == 0
    assert report["vectors_bytes"] > 4 * 32 * number
