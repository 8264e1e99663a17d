"""Datasets of their own are measured while training, by their names, and their mean decides which weights are best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import InputError
from lodesmith.recipes.recipe import load
from lodesmith.recipes.sweep_results import _retrieval
from lodesmith.recipes.train import plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")

FROZEN = {"stages.0.epochs": 2, "stages.0.batch_size": 16}


def named(folder: Path, name: str, documents: int, seed: int) -> Path:
    data = tiny_dataset(documents, seed)
    return replace(data, info={"name": name}).save(folder)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        named(tmp_path / "train", "train", 60, 0),
        named(tmp_path / "a", "beir/a", 80, 1),
        named(tmp_path / "b", "b", 100, 2),
    ]


def validations(recipe: str, out: Path, **settings: object) -> list[events.Validation]:
    return [event for event in lode.train(recipe, out=out, **settings) if isinstance(event, events.Validation)]


@pytest.mark.parametrize("own", ["dev", None])
def test_the_mean_over_the_datasets_decides(folders: list[Path], tiny_model: Path, tmp_path: Path, own: object) -> None:
    data, a, b = map(str, folders)
    settings = {"data": data, "base": str(tiny_model), "evaluation.validate_on": [a, b], "data.validation": own}
    found = validations("isotropic", tmp_path / "run", **FROZEN, **settings)
    assert len(found) == 3
    best = -1.0
    for event in found:
        mean = (event.measures["beir/a/nDCG@10"] + event.measures["b/nDCG@10"]) / 2
        assert event.measures["mean/nDCG@10"] == pytest.approx(mean)
        assert event.best == (mean > best)
        best = max(best, mean)
        assert ("nDCG@10" in event.measures) == (own is not None)


def test_before_training_the_figures_are_those_of_the_untouched_base(
    folders: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    """A residual projection begins as the identity."""
    data, a, _ = map(str, folders)
    settings = {"data": data, "base": str(tiny_model), "evaluation.validate_on": a}
    first = validations("isotropic", tmp_path / "run", **FROZEN, **settings)[0]
    base = lode.evaluate(str(tiny_model), a, split="dev").measures["nDCG@10"].mean
    assert first.measures["beir/a/nDCG@10"] == pytest.approx(base, abs=1e-3)


def test_what_is_trained_from_texts_is_measured_with_its_own_encoder(folders: list[Path], tmp_path: Path) -> None:
    data, a, _ = map(str, folders)
    settings = {"data": data, "encoder.dimension": 16, "evaluation.validate_on": a, "stages.1.epochs": 2}
    found = validations("two_tower_bag", tmp_path / "run", **settings)
    trained = lode.evaluate(str(tmp_path / "run"), a, split="dev").measures["nDCG@10"].mean
    best = [event for event in found if event.best and event.stage == "contrast"]
    assert best[-1].measures["beir/a/nDCG@10"] == pytest.approx(trained, abs=1e-6)


def test_what_cannot_be_validated_on_is_refused_before_anything_is_written(
    folders: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    data, a, b = map(str, folders)
    settings = {"data": data, "base": str(tiny_model)}
    out = tmp_path / "run"
    for value, more, told in (
        (str(tmp_path / "none"), {}, "no such dataset folder"),
        ("beir/scidocs", {}, "lode data pull beir/scidocs"),
        ([a, b], {"evaluation.validate_split": "val"}, r"beir/a has no judgements of the split 'val'.*it has: dev"),
    ):
        with pytest.raises(InputError, match=told):
            plan("isotropic", {**settings, "evaluation.validate_on": value, **more}, out=out)
    assert not out.exists()


def test_names_with_commas_are_several() -> None:
    assert load("isotropic", ["evaluation.validate_on=a, b"]).evaluation.validate_on == ("a", "b")
    assert load("isotropic", {"evaluation.validate_on": ["a,b"]}).evaluation.validate_on == ("a,b",)


def test_sweeps_know_them_for_measures_of_retrieval() -> None:
    assert _retrieval("beir/a/nDCG@10")
    assert _retrieval("nDCG@10")
    assert not _retrieval("geometry/uniformity")


@pytest.mark.slow
def test_a_base_that_is_trained_is_measured_with_its_weights_and_learns_as_without_it(
    folders: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    data, a, _ = map(str, folders)
    settings = {"data": data, "base": str(tiny_model), "data.validation": None, "stages.0.checkpoint_every": 2}
    settings |= {"stages.0.epochs": 3, "stages.0.batch_size": 16, "stages.0.patience": None}
    settings |= {"stages.0.optim.lr": 1e-2, "stages.0.optim.groups": [{"match": "*.base.*", "lr": 1e-3}]}
    alone = list(lode.train("isotropic_full", out=tmp_path / "alone", **settings))
    run = tmp_path / "run"
    beside = list(lode.train("isotropic_full", out=run, **settings, **{"evaluation.validate_on": a}))
    losses = [[event.total for event in part if isinstance(event, events.Step)] for part in (alone, beside)]
    assert losses[0] == losses[1], "measuring draws no random number and leaves dropout on"
    found = [event for event in beside if isinstance(event, events.Validation)]
    assert len({event.measures["mean/nDCG@10"] for event in found}) > 2
    best = [event for event in found if event.best][-1]
    trained = lode.evaluate(str(run), a, split="dev").measures["nDCG@10"].mean
    assert best.measures["beir/a/nDCG@10"] == pytest.approx(trained, abs=1e-3)
