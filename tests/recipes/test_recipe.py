"""The plan: YAML, overrides, messages."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.recipes._run_folder import check_processes
from lodesmith.recipes.recipe import Recipe, load, load_any, shipped


def test_every_shipped_recipe_loads_and_its_header_is_its_command() -> None:
    found = shipped()
    assert len(found) == 14
    for name, path in found.items():
        assert load_any(name).name == name
        assert path.read_text(encoding="utf-8").startswith(f"# lode train {name} ")


def test_overrides_reach_their_place() -> None:
    recipe = load("isotropic", ["stages.0.optim.lr=1e-4", "data=some/folder", "seed=3", "data.validation=null"])
    assert recipe.stages[0].optim.lr == 1e-4
    assert recipe.data.path == "some/folder"
    assert recipe.data.validation is None
    assert recipe.seed == 3


def test_engine_schedule_and_groups_are_reached_by_overrides() -> None:
    overrides = ["engine.precision=bfloat16", "engine.accumulate=4", "stages.0.optim.schedule=plateau"]
    group = "{match: 'encoder.*', freeze_epochs: 2}"
    recipe = load("isotropic", [*overrides, "stages.0.optim.plateau.patience=1", f"stages.0.optim.groups=[{group}]"])
    engine = {"arrays": "torch", "precision": "bfloat16", "accumulate": 4, "processes": None}
    assert recipe.engine.model_dump() == engine
    assert recipe.stages[0].optim.plateau.patience == 1
    assert recipe.stages[0].optim.groups[0].freeze_epochs == 2
    with pytest.raises(ConfigError, match=r"engine\.precision"):
        load("isotropic", ["engine.precision=bf16"])


def test_mapping_overrides_equal_spelled_ones() -> None:
    assert load("isotropic", {"seed": 2, "stages.0.epochs": 1}) == load("isotropic", ["seed=2", "stages.0.epochs=1"])


def test_fingerprint_follows_every_setting() -> None:
    assert load("isotropic").fingerprint == load("isotropic").fingerprint
    assert load("isotropic").fingerprint != load("isotropic", ["seed=1"]).fingerprint


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    recipe = load("isotropic", ["seed=7"])
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load(path) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.optim.lrr=1", "did you mean 'lr'"),
        ("sede=1", "did you mean 'seed'"),
        ("stages.4.name=x", "no position in a list of 1"),
        ("stages.0.batch_size=many", "valid integer"),
        ("seed=-1", "greater than or equal to 0"),
        ("base.deep=1", "no settings below it"),
        ("nonsense", "not an override"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("isotropic", [override])


def test_unknown_recipe_and_missing_file() -> None:
    with pytest.raises(ConfigError, match="did you mean 'isotropic'"):
        load("isotropc")
    with pytest.raises(InputError, match="no such recipe file"):
        load("nowhere/x.yaml")


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: minilm\nencoder: {use: projected\nstages: []\n")
    with pytest.raises(InputError, match=r"r\.yaml:3: not valid YAML"):
        load(path)
    path.write_text("- 1\n")
    with pytest.raises(InputError, match="must be a mapping"):
        load(path)


def test_python_objects_in_yaml_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError):
        load(path)


@pytest.mark.parametrize(
    "override", ["stages.0.optim.lr=inf", "stages.0.optim.warmup=1e400", "stages.0.objective.temperature=.nan"]
)
def test_a_number_that_is_not_finite_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"is (inf|nan)\ngive a finite number"):
        load("isotropic", [override])


def test_schema_is_exported_for_editors() -> None:
    schema = Recipe.model_json_schema()
    assert {"base", "stages", "seed"} <= set(schema["properties"])
    assert yaml.safe_dump(schema)


@pytest.mark.parametrize(
    "setting",
    [
        {"stages.0.objective.temperature": "0.05"},
        {"stages.0.objective.temperature": "nan"},
        {"encoder.predictor": "false"},
        {"encoder.dropout": "nan"},
    ],
)
def test_numbers_and_switches_in_quotes_are_refused(setting: dict[str, str]) -> None:
    from lodesmith.recipes.train import plan

    with pytest.raises(ConfigError, match="without quotes"):
        plan("isotropic", {"data": "some", **setting})


def test_epochs_that_are_asked_for_are_meant() -> None:
    shipped_stage = load("isotropic", {"data": "some"}).stages[0]
    assert shipped_stage.min_steps > 0
    assert load("isotropic", ["data=some", "stages.0.epochs=2"]).stages[0].min_steps == 0
    both = load("isotropic", ["data=some", "stages.0.min_steps=7", "stages.0.epochs=2"]).stages[0]
    assert (both.epochs, both.min_steps) == (2, 7)


@pytest.mark.parametrize(("wanted", "fits"), [(None, True), (1, False), (2, True), (3, False)])
def test_a_training_has_as_many_processes_as_its_recipe_says(
    wanted: int | None, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodesmith.recipes._run_folder.ranks", lambda: (0, 2))
    recipe = load("isotropic", {"data": "some", "engine.processes": wanted})
    with nullcontext() if fits else pytest.raises(ConfigError, match=f"is {wanted}, and this training has 2"):
        check_processes(recipe)
