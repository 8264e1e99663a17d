"""A run is resumed only over the data that it was begun with: datasets it validates on and columns it reads too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import overrides

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ResumeError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.records import Dataset
from lodesmith.recipes._data_identity import check_data, data_identity
from lodesmith.recipes.recipe import load
from lodesmith.recipes.train import finished, plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(60).save(tmp_path / "tiny")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return replace(tiny_dataset(70, seed=2), info={"name": "other"}).save(tmp_path / "other")


def column(folder: Path, name: str, *rows: object) -> None:
    (folder / "columns").mkdir(exist_ok=True)
    (folder / "columns" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(folder: Path, word: str) -> None:
    column(folder, "pairs", *({"document": f"d{n}", "text": f"{word} {n}", "kind": "title"} for n in range(40)))


def stopped(recipe: str, out: Path, settings: dict[str, object]) -> None:
    for event in plan(recipe, settings, out=out, reported=False).events():
        if isinstance(event, events.Checkpoint):
            return


def resumed(recipe: str, out: Path, settings: dict[str, object]) -> None:
    list(plan(recipe, settings, out=out, resume=True, reported=False).events())


def test_other_data_to_validate_on_is_refused(dataset: Path, other: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(dataset, tiny_model, **{"evaluation.validate_on": str(other), "stages.0.epochs": 3})
    stopped("isotropic", tmp_path / "run", settings)
    whole = Dataset.load(other)
    replace(whole, documents=dict(list(whole.documents.items())[:-1])).save(other)
    with pytest.raises(ResumeError, match=r"the dataset other of evaluation\.validate_on has changed"):
        resumed("isotropic", tmp_path / "run", settings)
    replace(tiny_dataset(70, seed=2), info={"name": "other"}).save(other)
    resumed("isotropic", tmp_path / "run", settings)
    assert finished(tmp_path / "run")


@pytest.mark.parametrize("before", [True, False])
def test_other_pairs_of_texts_are_refused(dataset: Path, tiny_model: Path, tmp_path: Path, before: bool) -> None:
    """Also those of a column that appears where there was none."""
    short = {"stages.0.epochs": 2, "stages.1.epochs": 1}
    settings, out = overrides(dataset, tiny_model, **short), tmp_path / "run"
    pairs(dataset, "asks for")
    stopped("isotropic_pretrain", out, settings)
    if before:
        pairs(dataset, "knows")
    else:
        (dataset / "columns" / "pairs.jsonl").unlink()
    with pytest.raises(ResumeError, match="the column pairs has changed"):
        resumed("isotropic_pretrain", out, settings)
    pairs(dataset, "asks for")
    resumed("isotropic_pretrain", out, settings)
    pairs(dataset, "knows")
    with pytest.raises(ResumeError, match="the column pairs has changed"):
        resumed("isotropic_pretrain", out, settings)


def test_a_manifest_that_says_nothing_of_columns_still_counts(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings, out = overrides(dataset, tiny_model, **{"stages.0.epochs": 2}), tmp_path / "run"
    stopped("isotropic", out, settings)
    manifest = read_json(out / "manifest.json")
    write_json(out / "manifest.json", {k: v for k, v in manifest.items() if k not in ("columns", "validate_on")})
    resumed("isotropic", out, settings)
    assert finished(out)


def test_only_columns_that_are_read_are_of_the_run(dataset: Path, other: Path) -> None:
    pairs(dataset, "asks for")
    column(dataset, "negatives", {"query": "q1", "ids": ["d1"]})
    data, whole = f"data={dataset},{other}", lode.Dataset.load(dataset)

    def columns(recipe: str, *more: str) -> dict[str, list[str | None]]:
        found: dict[str, list[str | None]] = data_identity(load(recipe, [data, *more]), whole)["columns"]
        return found

    assert columns("isotropic") == {}
    assert [None if own is None else len(own) for own in columns("isotropic_pretrain")["pairs"]] == [64, None]
    assert columns("isotropic", "data.negatives=negatives").keys() == {"negatives"}
    assert columns("isotropic_pretrain", "stages.1.pairs=text", "data.negatives=negatives").keys() == {"pairs"}


@pytest.mark.parametrize("columns", [({}, {"pairs": ["h"]}), ({"pairs": ["h"]}, {})])
def test_a_column_on_one_side_alone_is_a_change(columns: tuple[dict[str, object], ...]) -> None:
    begun, now = ({"dataset": "f", "columns": own, "validate_on": {}} for own in columns)
    with pytest.raises(ResumeError, match="the column pairs has changed"):
        check_data(begun, now, "run")
