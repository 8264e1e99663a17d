"""A whole training over a tiny frozen base: files, resume, refusals, and that it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import small_runs
import yaml
from small_runs import equal, killed_is_whole

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError, IntegrityError, ResumeError
from lodesmith.core.files import read_json, write_json
from lodesmith.recipes.pairs import make_pairs
from lodesmith.recipes.recipe import load
from lodesmith.recipes.train import finished, forecast, plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def overrides(dataset: Path, model: Path, **more: object) -> dict[str, object]:
    return small_runs.overrides(dataset, model, **{"stages.0.epochs": 6, "stages.0.optim.lr": 3e-3, **more})


def test_a_training_learns_and_leaves_the_contract_s_files(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    long = {"stages.0.epochs": 30, "stages.0.optim.lr": 1e-2, "data.validation": None}
    happened = list(lode.train("isotropic", out=out, **overrides(dataset, tiny_model, **long)))
    losses = [e.total for e in happened if isinstance(e, events.Step)]
    assert losses[-1] < 0.7 * losses[0]
    assert isinstance(happened[-1], events.Done)
    assert finished(out)
    for name in ("recipe.yaml", "manifest.json", "metrics.jsonl", "checkpoints", "model/modules.json", "report.html"):
        assert (out / name).exists(), name
    assert not list(out.rglob("*.bin")) + list(out.rglob("*.pkl")) + list(out.rglob("*.pt"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"event", "step", "epoch", "stage", "terms", "total", "lr", "grad_norm", "throughput", "measures"} <= set(
        lines[0]
    )
    assert load(out / "recipe.yaml").fingerprint == read_json(out / "manifest.json")["recipe"]
    systems = {e.system for e in map(lode.Evaluation.load, sorted((out / "evaluations").glob("*.json")))}
    assert systems == {"random", "bm25", tiny_model.name, "isotropic"}


def test_stored_vectors_equal_encoded_texts(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    from lodesmith.recipes.systems import document_vectors, load_encoder

    out = tmp_path / "run"
    list(lode.train("isotropic", out=out, **overrides(dataset, tiny_model)))
    documents = lode.Dataset.load(dataset).documents
    encoder = load_encoder(str(out))
    stored = document_vectors(str(out), encoder, documents)
    fresh = encoder.encode([d.content for d in documents.values()])
    np.testing.assert_allclose(stored.values, fresh.values, atol=2e-6)


def test_same_recipe_same_bits_and_a_second_call_does_nothing(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(dataset, tiny_model)
    for name in ("a", "b"):
        list(lode.train("isotropic", out=tmp_path / name, **settings))
    assert equal(tmp_path / "a", tmp_path / "b")
    again = list(plan("isotropic", settings, out=tmp_path / "a", resume=True).events())
    assert [type(e) for e in again] == [events.Done]
    other = overrides(dataset, tiny_model, seed=1)
    list(lode.train("isotropic", out=tmp_path / "c", **other))
    assert not equal(tmp_path / "a", tmp_path / "c")


def test_a_run_of_a_version_with_fewer_settings_counts_where_it_is_finished(
    dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings, out = overrides(dataset, tiny_model), tmp_path / "run"
    list(lode.train("isotropic", out=out, **settings))
    saved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    del saved["stages"][0]["optim"]["lazy"]
    (out / "recipe.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
    manifest = read_json(out / "manifest.json") | {"recipe": "of a recipe without it"}
    write_json(out / "manifest.json", manifest)
    assert [type(e) for e in plan("isotropic", settings, out=out, resume=True).events()] == [events.Done]
    del manifest["model_files"]
    write_json(out / "manifest.json", manifest)
    with pytest.raises(ResumeError, match=r"begun by lodesmith \d.*fewer settings"):
        plan("isotropic", settings, out=out, resume=True)


_SCRIPT = """
import sys
import lodesmith as lode
from lodesmith.recipes.train import plan

settings = {"data": sys.argv[1], "base": sys.argv[2], "stages.0.epochs": 60, "stages.0.batch_size": 16,
            "stages.0.checkpoint_every": 3, "data.validation": None}
for event in plan("isotropic", settings, out=__import__("pathlib").Path(sys.argv[3]), resume="auto").events():
    print(type(event).__name__, event.step, flush=True)
"""


def test_kill_in_mid_epoch_then_resume_gives_the_same_bits(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    killed_is_whole(_SCRIPT, (str(dataset), str(tiny_model)), tmp_path, checkpoints=7)


def test_refusals(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(dataset, tiny_model)
    list(lode.train("isotropic", out=tmp_path / "run", **settings))
    with pytest.raises(InputError, match="a run is here already"):
        lode.train("isotropic", out=tmp_path / "run", **settings)
    with pytest.raises(ResumeError, match=r"seed was 0, is 5"):
        lode.train("isotropic", out=tmp_path / "run", resume=True, **(settings | {"seed": 5}))
    with pytest.raises(ResumeError, match="no run to resume"):
        lode.train("isotropic", out=tmp_path / "none", resume=True, **settings)
    with pytest.raises(ConfigError, match="has no data"):
        lode.train("isotropic", out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"stages\.0\.objective: unknown setting"):
        lode.train("isotropic", out=tmp_path / "x", **(settings | {"stages.0.objective.temprature": 1}))
    with pytest.raises(ConfigError, match=r"stages\.0\.objective\.temperature: .*valid number"):
        lode.train("isotropic", out=tmp_path / "x", **(settings | {"stages.0.objective.temperature": "hot"}))
    with pytest.raises(ConfigError, match="the program supplies it"):
        lode.train("isotropic", out=tmp_path / "x", **(settings | {"encoder.base_model": "other"}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"negatives": "own"}, r"needs mined negatives, and data\.negatives names none"),
        ({"use": "triplet", "negatives": "mined"}, r"needs mined negatives, and data\.negatives names none"),
        ({"dimensions": [True]}, r"objective\.dimensions: Input should be a int, not true"),
        ({"temperature": True}, r"objective\.temperature: Input should be a float, not true"),
        ({"symmetric": "true"}, r"objective\.symmetric: .* a bool, not a text"),
        ({"prediction": {"weight": 0, "begin": 1, "steps": 9}}, "there is no predictor"),
        ({"prediction": {"weight": 0, "begin": 1}}, "give both, or neither"),
        ({"sigreg": {"weight": 0.1, "directions": 10**9}}, r"objective\.sigreg: .*1000000000.*16384"),
        ({"sigreg": {"weight": True}}, r"objective\.sigreg: weight"),
    ],
)
def test_objectives_that_cannot_learn_are_refused_before_anything_is_written(
    more: dict[str, object], said: str, dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = overrides(dataset, tiny_model, **{"stages.0.objective": {"use": "contrast"} | more})
    with pytest.raises(ConfigError, match=said):
        plan("isotropic", settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mined_negatives_of_other_queries_are_refused(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    (dataset / "columns").mkdir()
    (dataset / "columns" / "negatives.jsonl").write_text('{"query": "of another split", "ids": ["d1"]}\n')
    settings = overrides(dataset, tiny_model, **{"data.negatives": "negatives", "stages.0.objective.negatives": "own"})
    with pytest.raises(InputError, match="has no usable negative of any training query"):
        list(lode.train("isotropic", out=tmp_path / "run", **settings))
    texts = {"stages.0.pairs": "text"}
    with pytest.raises(ConfigError, match="pairs of texts have none"):
        plan("isotropic", settings | texts, out=tmp_path / "run")


def test_a_pool_is_enough_for_own_negatives(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    pool = {"stages.0.objective.negatives": "own", "stages.0.pool": 4}
    assert plan("isotropic", overrides(dataset, tiny_model, **pool), out=tmp_path / "run")


def test_other_weights_than_training_wrote_are_refused(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    list(lode.train("isotropic", out=out, **overrides(dataset, tiny_model)))
    file = max((out / "model").rglob("*.safetensors"), key=lambda f: f.parent.name)
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        lode.load(out)


def test_a_small_dataset_is_gone_over_more_often(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    few = overrides(dataset, tiny_model, **{"stages.0.epochs": 2, "stages.0.batch_size": 16, "stages.0.min_steps": 9})
    training = plan("isotropic", few, out=tmp_path / "run")
    happened = list(training.events())
    steps = max(e.step for e in happened if isinstance(e, events.Step))
    made = len(training.stage(training.recipe.stages[0]).batches)
    assert made > 1
    assert steps == forecast(training)["steps"]["contrast"] == made * -(-9 // made)
    assert training.recipe.stages[0].passes(9) == 2
    done = [e.step for e in happened if isinstance(e, events.Validation)]
    assert done == [0, *sorted({-(-steps // 2), steps})]
    assert training.recipe.stages[0].passes(9, accumulate=3) == 3


def test_more_passes_are_validated_as_often_as_the_epochs_say(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    given = {"stages.0.epochs": 3, "stages.0.min_steps": 7, "stages.0.batch_size": 24, "engine.accumulate": 2}
    training = plan("isotropic", overrides(dataset, tiny_model, **given), out=tmp_path / "run")
    stage = training.stage(training.recipe.stages[0])
    assert len(stage.batches) == 3  # two steps
    assert (stage.epochs, stage.validate_every, stage.checkpoint_every) == (4, 3, 3)


def test_forecast_trains_nothing(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    report = forecast(plan("isotropic", overrides(dataset, tiny_model), out=tmp_path / "run"))
    assert report["steps"] == {"contrast": 6 * -(-report["pairs"] // 16)}
    assert report["trainable_parameters"] == 32 * 32
    accumulated = {**overrides(dataset, tiny_model), "engine.accumulate": 3}
    fewer = forecast(plan("isotropic", accumulated, out=tmp_path / "run"))
    assert fewer["steps"] == {"contrast": 6 * math.ceil(math.ceil(report["pairs"] / 16) / 3)}
    assert not (tmp_path / "run").exists()


def test_pairs_share_rows_of_equal_texts_and_keep_validation_apart() -> None:
    docs = [lode.Document(f"d{i}", text=f"text {i % 4}") for i in range(8)]
    queries = [lode.Query(f"q{i}", f"query {i}") for i in range(8)]
    data = lode.Dataset.of(docs, queries, {"train": {f"q{i}": {f"d{(i + 1) % 8}": 0, f"d{i}": 1} for i in range(8)}})
    found = make_pairs(data, load("isotropic", ["data.hold_out=0.4"]))
    assert set(found.pairs[:, 1]) <= {0, 1, 2, 3}
    assert found.validation
    assert not set(found.validation) & set(found.queries)
    assert len(found.pairs) == len(found.queries) == 8 - len(found.validation)
    limited = make_pairs(data, load("isotropic", ["data.limit=2", "data.validation=null"]))
    assert len(limited.pairs) == 2
    assert len(limited.known) == 8
    with pytest.raises(InputError, match=r"no split 'trian'.*\nset data\.train"):
        make_pairs(data, load("isotropic", ["data.train=trian"]))


def test_resume_over_another_base_or_dataset_is_refused(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", overrides(dataset, tiny_model)
    for event in lode.train("isotropic", out=out, **settings):
        if isinstance(event, events.Checkpoint):
            break
    manifest = read_json(out / "manifest.json")
    write_json(out / "manifest.json", manifest | {"base": "another"})
    with pytest.raises(ResumeError, match="is not what the run was begun with"):
        list(lode.train("isotropic", out=out, resume=True, **settings))
    with pytest.raises(InputError, match="no model yet"):
        lode.load(out)
    write_json(out / "manifest.json", manifest)
    list(lode.train("isotropic", out=out, resume=True, **settings))
    tiny_dataset(60, seed=1).save(dataset)
    with pytest.raises(ResumeError, match="the dataset has changed"):
        list(lode.train("isotropic", out=out, resume=True, **settings))


def test_everything_is_saved_when_done_is_told(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for event in lode.train("isotropic", out=out, **overrides(dataset, tiny_model)):
        if isinstance(event, events.Done):
            break
    assert finished(out)
    assert (out / "report.html").exists()
