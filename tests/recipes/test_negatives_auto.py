"""`negatives: auto` becomes what the recipe and its data allow, and the run's recipe says which."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lodesmith.recipes import _negatives
from lodesmith.recipes.recipe import Recipe
from lodesmith.recipes.train import plan
from lodesmith.testing import tiny_dataset

KEY = "stages.0.objective"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(40).save(tmp_path / "tiny")


def chosen(dataset: Path, out: Path, **overrides: object) -> str:
    settings = {"data": str(dataset), **{key.replace("__", "."): value for key, value in overrides.items()}}
    recipe = plan("isotropic", settings, out=out).recipe
    assert isinstance(recipe, Recipe)
    return str(recipe.stages[0].objective.settings["negatives"])


@pytest.mark.parametrize(
    ("overrides", "negatives"),
    [
        ({}, "corpus"),
        ({"encoder__freeze_base": False}, "batch"),
        ({"data__negatives": "negatives"}, "batch"),
        ({"stages__0__pool": 5}, "batch"),
        ({"stages__0__objective__symmetric": True}, "batch"),
        ({"stages__0__objective__dimensions": [4]}, "batch"),
        ({"stages__0__objective__negatives": "batch"}, "batch"),
    ],
)
def test_all_documents_serve_where_they_can(
    dataset: Path, tmp_path: Path, overrides: dict[str, object], negatives: str
) -> None:
    assert chosen(dataset, tmp_path / "run", **overrides) == negatives


def test_too_many_documents_do_not(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_negatives, "MOST", 39)
    assert chosen(dataset, tmp_path / "run") == "batch"
    monkeypatch.setattr(_negatives, "MOST", 40)
    assert chosen(dataset, tmp_path / "run") == "corpus"


def test_the_run_says_which_and_is_resumed_by_the_same_words(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = {"data": str(dataset), "base": str(tiny_model), "stages.0.epochs": 1, "stages.0.min_steps": 0}
    list(plan("isotropic", settings, out=tmp_path / "run").events())
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["stages"][0]["objective"]["negatives"] == "corpus"
    assert plan("isotropic", settings, out=tmp_path / "run", resume=True).resume
