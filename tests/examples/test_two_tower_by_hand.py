"""The page that newcomers read first gives the figures of the recipe, to the last bit."""

from __future__ import annotations

import json
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lodesmith as lode
from lodesmith import training
from lodesmith.core import events
from lodesmith.recipes.recipe import Recipe, load

pytestmark = pytest.mark.usefixtures("cache")

RECIPE = "two_tower_bag"


@pytest.fixture
def page(examples: Path) -> dict[str, Any]:
    """The names of the script, which `main` reads."""
    return runpy.run_path(str(examples / f"{RECIPE.removesuffix('_bag')}_by_hand.py"))


@pytest.fixture
def dataset(foreign: Path, tmp_path: Path) -> Path:
    """Some of its documents answer several queries, so that a batch holds more positives than its rows say."""
    made = lode.Dataset.load(foreign)
    for number, grades in enumerate(made.judgements["train"].values()):
        grades[f"d{number % 3}"] = 1
    return made.save(tmp_path / "dataset")


def described(page: dict[str, Any]) -> Recipe:
    """The constants of the script as a recipe."""
    stages = [
        {
            "name": name,
            "objective": {"use": name, "similarity": "cosine"} | loss,
            "optim": optim,
            "batch_size": size,
            "epochs": epochs,
            "patience": patience,
            "monitor": page["MONITOR"],
        }
        for name, loss, optim, size, epochs, patience in page["STAGES"]
    ]
    settings = {"seed": page["SEED"], "encoder": {"use": "bag"} | page["TOWER"], "vocabulary": page["VOCABULARY"]}
    return Recipe.model_validate({"name": RECIPE, "stages": stages} | settings)


def flat(tree: Any, place: str = "") -> dict[str, Any]:
    """Every setting of a recipe by its place, as overrides spell it."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if parts is None:
        return {place: tree}
    found: dict[str, Any] = {}
    for key, value in parts:
        found |= flat(value, f"{place}.{key}" if place else str(key))
    return found


def differences(page: dict[str, Any], recipe: Recipe) -> list[str]:
    """What the script and a recipe set differently."""
    ours, theirs = (flat(made.model_dump(mode="json")) for made in (described(page), recipe))
    missing = "not set"
    return [
        f"{name}: {ours.get(name, missing)} in the script, {theirs.get(name, missing)} in the recipe"
        for name in dict.fromkeys([*theirs, *ours])
        if ours.get(name, missing) != theirs.get(name, missing)
    ]


def test_the_settings_are_those_of_the_recipe(page: dict[str, Any]) -> None:
    wrong = differences(page, load(RECIPE))
    assert not wrong, f"examples/two_tower_by_hand.py and recipes/{RECIPE}.yaml differ:\n" + "\n".join(wrong)


def test_a_setting_that_differs_is_named(page: dict[str, Any]) -> None:
    tree = described(page).model_dump(mode="json")
    tree["stages"][1]["optim"]["lr"] = 1.5
    tree |= {"seed": 3, "encoder": tree["encoder"] | {"dropout": 0.25}}
    assert differences(page, Recipe.model_validate(tree)) == [
        "seed: 0 in the script, 3 in the recipe",
        "encoder.dropout: not set in the script, 0.25 in the recipe",
        f"stages.1.optim.lr: {page['STAGES'][1][2]['lr']} in the script, 1.5 in the recipe",
    ]


def figures(recipe: str | Path, out: Path, monkeypatch: pytest.MonkeyPatch, **overrides: Any) -> dict[str, Any]:
    """What a recipe tells, every step of it, in the script's words."""
    monkeypatch.setattr(training, "fit", partial(training.fit, log_every=1))
    happened = list(lode.train(recipe, out=out, **overrides))
    test = lode.Evaluation.load(out / "evaluations" / f"{RECIPE}.json").measures
    return {
        "losses": [event.total for event in happened if isinstance(event, events.Step)],
        "validations": [measured(event) for event in happened if isinstance(event, events.Validation)],
        "test": {name: estimate.mean for name, estimate in test.items()},
    }


def measured(event: events.Validation) -> dict[str, float]:
    """What the script measures too: all but the loss on the validation pairs."""
    return {name: value for name, value in event.measures.items() if name != "loss"}


def check_same(hand: Path, run: Path, told: dict[str, Any]) -> None:
    """Losses, validations, test figures and weights, without any tolerance."""
    history = json.loads((hand / "history.json").read_text())
    assert history["losses"] == told["losses"]
    assert history["validations"] == told["validations"]
    assert history["test"] == {name: told["test"][name] for name in history["test"]}
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (hand, run))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_command_gives_the_recipe_s_figures(
    examples: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hand"
    monkeypatch.setattr(sys, "argv", ["two_tower_by_hand.py", str(dataset), str(out)])
    runpy.run_path(str(examples / "two_tower_by_hand.py"), run_name="__main__")
    assert "test: nDCG@10 " in capsys.readouterr().out
    told = figures(RECIPE, tmp_path / "run", monkeypatch, data=str(dataset))
    check_same(out, tmp_path / "run", told)
    reached = [measures["nDCG@10"] for measures in told["validations"]]
    assert max(reached) > reached[0] + 0.1


def test_so_it_does_with_many_batches_an_epoch_dropout_and_an_early_stop(
    page: dict[str, Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triplet, contrast = page["STAGES"]
    page["STAGES"][:] = [(*triplet[:3], 16, 2, None), (*contrast[:2], page["STEADY"], 13, 30, 1)]
    page["TOWER"] |= {"dimension": 16, "dropout": 0.2}
    page["main"](dataset, tmp_path / "hand")
    recipe = tmp_path / f"{RECIPE}.yaml"
    recipe.write_text(described(page).to_yaml())
    told = figures(recipe, tmp_path / "run", monkeypatch, data=str(dataset))
    assert len(told["losses"]) > 10
    assert len(told["validations"]) < 2 + 2 + 30, "it did not stop early: the test shows less than it should"
    check_same(tmp_path / "hand", tmp_path / "run", told)


def test_without_a_dataset_it_says_how_it_is_used(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["two_tower_by_hand.py"])
    with pytest.raises(SystemExit, match=r"two_tower_by_hand\.py DATASET \[OUT\]"):
        runpy.run_path(str(examples / "two_tower_by_hand.py"), run_name="__main__")


def test_it_stays_a_page(examples: Path) -> None:
    assert len((examples / "two_tower_by_hand.py").read_text().splitlines()) <= 130


@pytest.mark.slow
@pytest.mark.data
def test_so_it_does_on_a_real_collection(
    page: dict[str, Any], collections: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page["STAGES"][:] = [(*stage[:4], 1, stage[5]) for stage in page["STAGES"]]
    page["main"](collections / "medquad", tmp_path / "hand")
    settings = {"data": str(collections / "medquad"), "stages.0.epochs": 1, "stages.1.epochs": 1}
    check_same(tmp_path / "hand", tmp_path / "run", figures(RECIPE, tmp_path / "run", monkeypatch, **settings))
