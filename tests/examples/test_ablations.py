"""The four ablations: each differs from the one before in what its header says, and all stand in one table."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lodesmith as lode
from lodesmith.recipes import sweep
from lodesmith.recipes.recipe import load

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def recipes(examples: Path) -> list[str]:
    return [str(path) for path in sorted((examples / "ablations").glob("*.yaml"))]


def changed(a: Any, b: Any, place: str = "") -> set[str]:
    """The places where two recipes differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {found for key in {*a, *b} for found in changed(a.get(key), b.get(key), f"{place}.{key}")}
    return set() if a == b else {place.lstrip(".")}


def test_each_changes_one_thing(recipes: list[str]) -> None:
    found = []
    for path in recipes:
        recipe = load(path).model_dump(mode="json")
        (stage,) = recipe.pop("stages")
        found.append({"encoder": recipe["encoder"], **{key: stage[key] for key in stage if key != "name"}})
    assert len(found) == 4
    steps = [changed(a, b) for a, b in pairwise(found)]
    objective = {f"objective.{name}" for name in ("use", "margin", "negatives", "temperature")}
    assert steps == [objective, {"optim.groups"}, {"encoder.bidirectional"}]


@pytest.mark.slow
def test_one_command_makes_their_table(recipes: list[str], foreign: Path, tmp_path: Path) -> None:
    words = {"data": str(foreign), "dimension": 8, "min_count": 1, "epochs": 1}
    list(lode.train("word_vectors", out=tmp_path / "words", **words))
    settings = {"encoder.init": str(tmp_path / "words"), "encoder.words": 8, "encoder.hidden": 4}
    settings |= {"data": str(foreign), "stages.0.batch_size": 16, "vocabulary.min_count": 1, "stages.0.epochs": 1}
    report = sweep.run(recipes, settings, out=tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["settings"]
    assert [row["name"] for row in rows] == [Path(path).stem for path in recipes]
    assert all(len(outcome.curve.points) == 2 for result in report.results for outcome in result.outcomes)
    picture = (tmp_path / "out" / "curves.svg").read_text()
    assert all(row["name"] in picture for row in rows)
    assert "loss" not in (tmp_path / "out" / "sweep.md").read_text(), "losses of different objectives are no column"
