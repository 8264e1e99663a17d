"""A whole training of a late-interaction model over a tiny base: what is saved, resume to the bit, evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_runs
from small_runs import equal, killed_is_whole

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError
from lodesmith.encoders.tokens import LateInteractionEncoder
from lodesmith.recipes.learners import way
from lodesmith.recipes.recipe import Component
from lodesmith.recipes.systems import Resolver
from lodesmith.recipes.train import Training, forecast, plan
from lodesmith.similarity.maxsim import maxsim_rows
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def trained(dataset: Path, model: Path, out: Path, **more: object) -> tuple[Training, list[events.Event]]:
    small = {"encoder.dimension": 8, "stages.0.optim.lr": 1e-3, **more}
    planned = plan("late", small_runs.overrides(dataset, model, **small), out=out, reported=False)
    assert isinstance(planned, Training)
    return planned, list(planned.events())


def test_what_is_saved_gives_the_vectors_that_training_ended_with(
    dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    training, happened = trained(
        dataset, tiny_model, tmp_path / "run", **{"data.validation": None, "stages.0.epochs": 8}
    )
    losses = [e.total for e in happened if isinstance(e, events.Step)]
    assert losses[-1] < 0.8 * losses[0]
    texts = [document.content for document in lode.Dataset.load(dataset).documents.values()]
    saved = lode.load(tmp_path / "run")
    assert isinstance(saved, LateInteractionEncoder)
    np.testing.assert_allclose(saved.encode(texts).values, training.learner.documents().values, atol=5e-4)
    before = LateInteractionEncoder(tmp_path / "run" / "untrained")
    assert before.fingerprint == json.loads((tmp_path / "run" / "manifest.json").read_text())["begun"]
    assert before.fingerprint != saved.fingerprint


def test_the_same_bits_again_and_after_a_kill(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        trained(dataset, tiny_model, tmp_path / name, **{"stages.0.epochs": 1})
    assert equal(tmp_path / "one", tmp_path / "two")
    script = """
import sys, torch
torch.set_num_threads(1)
from lodesmith.recipes.train import plan
data, base, out = sys.argv[1:]
settings = {"data": data, "base": base, "encoder.dimension": 8, "stages.0.batch_size": 16, "stages.0.epochs": 3}
for event in plan("late", settings, out=__import__("pathlib").Path(out), resume="auto", reported=False).events():
    print(type(event).__name__, flush=True)
print("end")
"""
    killed_is_whole(script, (str(dataset), str(tiny_model)), tmp_path, 1)


def test_validation_and_evaluation_score_as_the_exact_index_does(
    dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    _, happened = trained(dataset, tiny_model, tmp_path / "run", **{"stages.0.epochs": 2})
    measured = [e for e in happened if isinstance(e, events.Validation)]
    assert len(measured) == 3
    assert all("loss" in e.measures and 0 <= e.measures["nDCG@10"] <= 1 for e in measured)
    data = lode.Dataset.load(dataset)
    system = Resolver(data).resolve(str(tmp_path / "run"))
    assert system.vectors is not None
    assert system.vectors.values.dtype == np.float16
    queries = {key: query.content for key, query in list(data.queries_of("test").items())[:3]}
    run, encoder = system.retriever.search(queries, 5), lode.load(tmp_path / "run")
    for key, text in queries.items():
        asked = encoder.encode([text] * len(system.vectors), "query")
        scores = dict(zip(system.vectors.ids, maxsim_rows(asked, system.vectors).tolist(), strict=True))
        assert list(run[key]) == sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:5]
    evaluation = lode.evaluate(str(tmp_path / "run"), data)
    assert evaluation.cost["index_bytes"] == system.vectors.values.nbytes


def test_mined_negatives_and_expansion(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = lode.Dataset.load(dataset)
    keys = list(data.documents)
    with ColumnWriter(dataset, "negatives", "query", {}) as column:
        for query in column.missing(list(data.split("train"))):
            column.add(query, [{"ids": keys[-3:], "scores": [1, 1, 1]}])
        column.finish()
    more = {"data.negatives": "negatives", "encoder.expansion": 12, "stages.0.objective.negatives": "own"}
    _, happened = trained(
        dataset,
        tiny_model,
        tmp_path / "run",
        **more,
        **{"stages.0.chunk": 4, "stages.0.epochs": 9, "data.validation": None},
    )
    losses = [e.total for e in happened if isinstance(e, events.Step)]
    assert losses[-1] < losses[0]


def test_it_is_trained_in_a_way_of_its_own_and_forecast(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert way(Component(use="tokens")) == "late"
    overrides = small_runs.overrides(dataset, tiny_model, **{"encoder.dimension": 8})
    told = forecast(plan("late", overrides, out=tmp_path / "run"))
    assert told["trainable_parameters"] > 0
    assert told["training_seconds"] >= 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "change", "said"),
    [
        ("late", {"stages.0.objective": {"use": "contrast"}}, "contrast by cosine is of one vector"),
        ("late", {"stages.0.objective": {"use": "contrast", "similarity": "maxsim"}}, "contrast by maxsim is of one"),
        ("isotropic", {"encoder.metric": "maxsim"}, "gives one a text"),
        ("isotropic", {"encoder.metric": "aligned"}, "aligned compares vectors of tokens, and projected gives one"),
        ("isotropic", {"stages.0.objective.similarity": "aligned"}, "aligned compares vectors of tokens"),
        ("late", {"encoder.precision": "float32"}, "precision"),
        ("isotropic_full", {"stages.0.objective": {"use": "interact"}}, "projected gives one a text"),
        (
            "late",
            {"stages.0.objective": {"use": "mimic", "similarity": "maxsim", "mse": 1.0}, "teacher": "minilm"},
            "objective.mse: it is of one vector a text",
        ),
        ("late", {"encoder.size": 3}, "size"),
        ("late", {"stages.0.objective.infonce": None}, "no term"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    dataset: Path, tiny_model: Path, tmp_path: Path, recipe: str, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(recipe, {"data": str(dataset), "base": str(tiny_model), **change}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teachers_scores_of_the_candidates_are_mimicked(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    more = {
        "teacher": str(tiny_model),
        "stages.0.objective": {"use": "mimic", "similarity": "maxsim", "kl": {"weight": 1.0, "temperature": 0.5}},
        "stages.0.epochs": 6,
        "data.validation": None,
    }
    _, happened = trained(dataset, tiny_model, tmp_path / "run", **more)
    losses = [e.terms["kl"] for e in happened if isinstance(e, events.Step)]
    assert losses[-1] < losses[0]
