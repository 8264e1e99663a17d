"""examples/distil: what a student is held against, each by what its header says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodesmith.recipes._checks import check_components
from lodesmith.recipes.recipe import Recipe, load


def stages(recipe: Recipe) -> list[dict[str, object]]:
    return [stage.model_dump(mode="json") for stage in recipe.stages]


def test_aligned_is_the_first_stage(examples: Path) -> None:
    whole, first = load("distil_static"), load(examples / "distil" / "aligned.yaml")
    assert stages(first) == stages(whole)[:1]
    assert (first.encoder, first.teacher) == (whole.encoder, whole.teacher)


def test_alone_has_the_same_vectors_and_no_teacher(examples: Path) -> None:
    whole, alone = load("distil_static"), load(examples / "distil" / "alone.yaml")
    assert alone.teacher is None
    assert [stage.pairs for stage in alone.stages] == ["judged"]
    assert alone.encoder.settings == {"dimension": 384, "weights": whole.encoder.settings["weights"]}


@pytest.mark.parametrize("name", ["aligned", "alone", "three_alone"])
def test_they_are_recipes(name: str, examples: Path) -> None:
    check_components(load(examples / "distil" / f"{name}.yaml"))


def test_three_alone_has_the_same_layers_and_no_teacher(examples: Path) -> None:
    whole, alone = load("distil"), load(examples / "distil" / "three_alone.yaml")
    assert alone.teacher is None
    assert [stage.pairs for stage in alone.stages] == ["judged"]
    assert alone.encoder.settings == {**whole.encoder.settings, "freeze_base": False}
