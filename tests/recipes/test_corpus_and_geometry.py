"""Recipes that take every document as a negative, and what validations tell of the vectors' geometry."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ConfigError
from lodesmith.core.records import Dataset
from lodesmith.evaluation.geometry import figures, measure
from lodesmith.recipes._geometry_sample import MOST, GeometrySample
from lodesmith.recipes.pairs import distinct_documents
from lodesmith.recipes.recipe import load
from lodesmith.recipes.train import plan
from lodesmith.testing import tiny_dataset
from lodesmith.training.metrics import to_line
from lodesmith.training.tracking import figures as tracked

pytestmark = pytest.mark.usefixtures("cache")

TOLD = {"sigreg", "sigreg/n", "sigreg_scaled", "sigreg_scaled/n", "isoscore", "effective_rank", "mean_cosine"}
TOLD |= {"uniformity", "hubness", "alignment"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def train(dataset: Path, model: Path, out: Path, **more: object) -> list[Any]:
    short = {"stages.0.epochs": 3, "stages.0.batch_size": 16, "stages.0.optim.lr": 3e-3}
    return list(lode.train("isotropic", out=out, data=str(dataset), base=str(model), **{**short, **more}))


def test_the_whole_corpus_is_learned_against(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    whole = {"stages.0.objective.negatives": "corpus", "stages.0.epochs": 12, "stages.0.optim.lr": 1e-2}
    happened = train(dataset, tiny_model, tmp_path / "run", **whole)
    steps = [event for event in happened if isinstance(event, events.Step)]
    distinct = len(distinct_documents(Dataset.load(dataset)))
    assert steps[0].chance["infonce"] == pytest.approx(math.log(distinct))
    assert steps[-1].total < 0.95 * steps[0].total
    validations = [event for event in happened if isinstance(event, events.Validation)]
    assert 0 < validations[-1].measures["loss"] < validations[0].measures["loss"]


def test_mined_negatives_are_in_the_corpus_already(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    lines = []
    for query in Dataset.load(dataset).split("train"):
        lines.append(json.dumps({"query": query, "ids": list(Dataset.load(dataset).documents)[:3]}))
    (dataset / "columns").mkdir(exist_ok=True)
    (dataset / "columns" / "negatives.jsonl").write_text("\n".join(lines) + "\n")
    whole = {"stages.0.objective.negatives": "corpus", "data.validation": None, "stages.0.epochs": 1}
    totals = [
        [event.total for event in train(dataset, tiny_model, tmp_path / str(name), **whole, **{"data.negatives": name})
         if isinstance(event, events.Step)]
        for name in (None, "negatives")
    ]  # fmt: skip
    assert totals[0] == totals[1]


def test_what_a_corpus_cannot_be_used_with_is_said(dataset: Path, tmp_path: Path) -> None:
    chosen = {"data": str(dataset), "stages.1.objective.negatives": "corpus"}
    with pytest.raises(ConfigError, match=r"stages\.1\.objective\.negatives: .* encode every text again"):
        plan("two_tower_bag", chosen, out=tmp_path / "x")
    chosen = {"data": str(dataset), "stages.0.objective.negatives": "corpus", "stages.0.pool": 5}
    with pytest.raises(ConfigError, match=r"stages\.0\.pool: 5 documents .* in the corpus anyway"):
        plan("isotropic", chosen, out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"stages\.0\.pool"):
        plan("isotropic", {"data": str(dataset), "stages.0.pool": "corpus"}, out=tmp_path / "x")


def test_every_validation_tells_the_geometry_beside_its_measures(
    dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    happened = train(dataset, tiny_model, tmp_path / "on")
    plain = train(dataset, tiny_model, tmp_path / "off", **{"evaluation.geometry": False})
    seen, without = ([e for e in told if isinstance(e, events.Validation)] for told in (happened, plain))
    assert all(event.geometry.keys() == TOLD and all(map(math.isfinite, event.geometry.values())) for event in seen)
    assert [event.measures for event in seen] == [event.measures for event in without]
    assert [event.best for event in seen] == [event.best for event in without]
    assert not any(event.geometry for event in without)
    pages = [(tmp_path / name / "report.html").read_text() for name in ("on", "off")]
    assert ['id="spectrum"' in page and 'id="map"' in page for page in pages] == [True, False]
    rows = [json.loads(line) for line in (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()]
    assert [row["geometry"] for row in rows if row["event"] == "validation"] == [dict(e.geometry) for e in seen]
    assert not any(name.startswith("geometry") for row in rows for name in row["measures"])
    assert tracked(seen[0])["geometry/isoscore"] == seen[0].geometry["isoscore"]
    assert "geometry" not in (to_line(events.Done(1, 1, "s", "complete")) or {})


def test_whether_geometry_is_told_is_no_other_experiment(dataset: Path) -> None:
    given = {"data": str(dataset)}
    assert (
        load("isotropic", given).fingerprint == load("isotropic", {**given, "evaluation.geometry": False}).fingerprint
    )
    assert load("isotropic", given).fingerprint != load("isotropic", {**given, "evaluation.split": "x"}).fingerprint


def test_the_quick_figures_are_those_of_the_whole_measurement() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((900, 12)) * np.linspace(0.5, 2, 12) + 0.3).astype(np.float32)
    pairs = values[:50], values[50:100]
    quick, whole = figures(values, pairs, seed=3), measure(values, pairs, directions=64, seed=3)
    assert quick.keys() == TOLD
    for name, value in whole.measures.items():
        assert quick[name] == pytest.approx(value, rel=1e-6), name
    assert quick["sigreg_scaled/n"] == pytest.approx(whole.sigreg_scaled / 900)
    assert "alignment" not in figures(values)


def test_the_sample_is_bounded_and_the_same_each_time() -> None:
    documents, pairs = np.arange(3 * MOST) * 2, np.stack([np.arange(5), np.arange(5)], 1)
    first, second = (GeometrySample.of(documents, pairs, "cosine", 7) for _ in range(2))
    assert np.array_equal(first.documents, second.documents)
    assert len(first.documents) == MOST == len(set(first.documents.tolist()) & set(documents.tolist()))
    assert not np.array_equal(first.documents, GeometrySample.of(documents, pairs, "cosine", 8).documents)
    vectors = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    assert GeometrySample.of(np.arange(1), pairs, "cosine", 0)(vectors, vectors) == {}
    assert "alignment" not in GeometrySample.of(np.arange(9), pairs[:0], "dot", 0)(vectors, vectors)
