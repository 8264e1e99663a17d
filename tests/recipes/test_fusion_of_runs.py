"""What a run without labels says of its fusion is read in one place, and nothing else passes for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import write_json
from lodesmith.recipes._fusion import fusion_of
from lodesmith.recipes.recipe import load, load_any


def run(folder: Path, recipe: str, fusion: Any) -> Path:
    tree = load_any(recipe, {"data": "some"}).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    write_json(folder / "manifest.json", {} if fusion is None else {"fusion": fusion})
    return folder


def test_a_fusion_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = {"weight": 0.6, "depth": 2000, "reference": 0.4, "strength": 1.0}
    found = fusion_of(run(tmp_path, "adapt", saved))
    assert found is not None
    assert (found.weight, found.depth, found.reference, found.told) == (0.6, 2000, 0.4, saved)


def test_runs_of_before_have_no_reference(tmp_path: Path) -> None:
    found = fusion_of(run(tmp_path, "adapt", {"weight": 0.6, "depth": 200}))
    assert found is not None
    assert found.reference == 0


def test_recipes_that_fuse_nothing_have_none(tmp_path: Path) -> None:
    assert fusion_of(run(tmp_path, "isotropic", None)) is None


@pytest.mark.parametrize(
    "fusion",
    [
        None,
        "x",
        3,
        {"weight": True, "depth": 3},
        {"weight": 0.5, "depth": float("inf")},
        {"weight": 0.5},
        {"weight": 0.5, "depth": 0},
        {"weight": 2, "depth": 3},
        {"weight": 0.5, "depth": 3, "reference": "much"},
        {"weight": 0.5, "depth": 3, "reference": -1},
    ],
)
def test_a_lost_or_damaged_fusion_is_no_other_system(fusion: Any, tmp_path: Path) -> None:
    folder = run(tmp_path, "adapt", None)
    text = "{}" if fusion is None else f'{{"fusion": {_json(fusion)}}}'
    (folder / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"manifest\.json says no fusion"):
        fusion_of(folder)


def _json(value: Any) -> str:
    import json

    return json.dumps(value).replace("Infinity", "1e400")


def test_a_retired_setting_is_read_over(tmp_path: Path) -> None:
    tree = load_any("adapt", {"data": "some"}).model_dump(mode="json")
    tree["adaptation"]["pull"] = 1.0
    del tree["adaptation"]["evidence"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert load(tmp_path / "recipe.yaml").fingerprint == load("adapt", {"data": "some"}).fingerprint
