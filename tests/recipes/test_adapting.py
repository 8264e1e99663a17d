"""The recipe without labels: what it chooses on held-out pseudo-queries, its run directory, and the system it makes."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError, IntegrityError, ResumeError
from lodesmith.core.files import read_json
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.run import Run
from lodesmith.recipes.adapting import AdaptTraining, choose
from lodesmith.recipes.recipe import AdaptationPlan, AdaptRecipe, load, load_any
from lodesmith.recipes.systems import load_encoder, resolve
from lodesmith.recipes.train import finished, forecast, plan
from lodesmith.retrieval.fuse import reciprocal_rank, standardised

pytestmark = pytest.mark.usefixtures("cache")

ANIMALS, FOODS, PLACES = (
    ("cat", "dog", "owl", "bee", "whale"),
    ("apples", "rivers", "music"),
    ("moon", "barn", "rivers"),
)


def text(animal: str, food: str, place: str) -> str:
    return (
        f"The {animal} likes {food} and fears the {place}. A {animal} sleeps in the {place} far in the {food}. "
        f"The {food} of the {animal} and the {place} eats thunder. The {place} likes the {animal} and {food}."
    )


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder with documents alone."""
    worlds = list(itertools.product(ANIMALS, FOODS, PLACES))
    own = [Document(f"d{n}", f"About {' and '.join(world)}", text(*world)) for n, world in enumerate(worlds)]
    folder = Dataset.of(own, name="documents").save(tmp_path / "documents")
    (folder / "queries.jsonl").unlink()
    return folder


def overrides(data: Path, model: Path, **more: object) -> dict[str, object]:
    return {"data": str(data), "base": str(model), "stages.0.batch_size": 16, "stages.0.optim.lr": 3e-3} | more


def trained(out: Path) -> dict[str, np.ndarray]:
    files = sorted((out / "model").rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": value for file in files for name, value in load_file(file).items()}


# ------------------------------------------------------------------------ what is chosen

NAMES = [f"d{n}" for n in range(12)]


def ranked(right: int, queries: int = 8) -> Run:
    """Every document for each query; the wanted one first for so many queries and last for the rest."""
    found = {}
    for number in range(queries):
        scores = {name: float(place) for place, name in enumerate(NAMES)}
        wanted = NAMES[number]
        scores[wanted] = 20.0 if number < right else -20.0
        found[f"q{number}"] = scores
    return Run.of(found)


JUDGED = {f"q{number}": {NAMES[number]: 1} for number in range(8)}


COVERED = dict.fromkeys(JUDGED, 0.4)


def test_where_both_are_alike_the_weight_stays_and_no_residual_is_kept() -> None:
    same = ranked(6)
    chosen = choose(same, {0.0: same, 0.5: same, 1.0: same}, COVERED, JUDGED, AdaptationPlan())  # type: ignore[call-arg]
    assert (chosen.weight, chosen.strength) == (0.5, 0.0)
    assert chosen.held_out["bm25"] == chosen.held_out["fused"] == 0.75


@pytest.mark.parametrize(("lexical", "dense"), [(8, 2), (2, 8), (8, 0), (0, 8)])
@pytest.mark.parametrize("evidence", [1.5, 0.5])
def test_the_weight_follows_the_ratio_of_the_two(lexical: int, dense: int, evidence: float) -> None:
    plan = AdaptationPlan(weight=0.6, evidence=evidence, shares=(0.0,))  # type: ignore[call-arg]
    weight = choose(ranked(lexical), {0.0: ranked(dense)}, COVERED, JUDGED, plan).weight
    moved = evidence * math.log((dense / 8 + 0.02) / (lexical / 8 + 0.02))
    assert math.log(weight / (1 - weight)) == pytest.approx(math.log(0.6 / 0.4) + moved)
    assert (weight < 0.6) == (lexical > dense)


def test_evidence_of_nothing_leaves_the_weight() -> None:
    plan = AdaptationPlan(evidence=0, shares=(0.0,))  # type: ignore[call-arg]
    assert choose(ranked(8), {0.0: ranked(0)}, COVERED, JUDGED, plan).weight == 0.5


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_of_one_side_alone_stays(weight: float) -> None:
    plan = AdaptationPlan(weight=weight, evidence=100, shares=(0.0,))  # type: ignore[call-arg]
    for lexical, dense in ((8, 0), (0, 8)):
        assert choose(ranked(lexical), {0.0: ranked(dense)}, COVERED, JUDGED, plan).weight == weight


def test_the_weight_is_by_the_base_whatever_share_stays() -> None:
    encoded = {0.0: ranked(2), 1.0: ranked(8)}
    of_base, of_trained = (
        choose(ranked(4), encoded, COVERED, JUDGED, AdaptationPlan(shares=(share,)))  # type: ignore[call-arg]
        for share in (0.0, 1.0)
    )
    assert of_base.weight == of_trained.weight < 0.5


def test_the_reference_is_the_mean_coverage() -> None:
    coverage = {query: 0.1 * place for place, query in enumerate(JUDGED)}
    chosen = choose(ranked(4), {0.0: ranked(4)}, coverage, JUDGED, AdaptationPlan(shares=(0.0,)))  # type: ignore[call-arg]
    assert chosen.reference == pytest.approx(0.35)


def test_the_fusion_that_chooses_weighs_by_coverage() -> None:
    uncovered = dict.fromkeys(JUDGED, 0.0)
    plan = AdaptationPlan(weight=0.05, evidence=0, shares=(0.0, 1.0))  # type: ignore[call-arg]
    encoded = {0.0: ranked(2), 1.0: ranked(3)}
    found, lost = (choose(ranked(0), encoded, own, JUDGED, plan) for own in (COVERED, uncovered))
    assert found.held_out["fused"] == 0.0
    assert lost.held_out["fused"] == lost.held_out["encoder"] == 0.375


def test_the_strength_is_that_of_the_better_encoder() -> None:
    encoded = {0.0: ranked(2), 0.5: ranked(7), 1.0: ranked(4)}
    chosen = choose(ranked(3), encoded, COVERED, JUDGED, AdaptationPlan())  # type: ignore[call-arg]
    assert chosen.strength == 0.5
    assert chosen.held_out["base"] < chosen.held_out["encoder"]


def test_only_a_share_of_the_plan_is_chosen_though_the_base_is_measured_too() -> None:
    encoded = {0.0: ranked(8), 1.0: ranked(2)}
    chosen = choose(ranked(3), encoded, COVERED, JUDGED, AdaptationPlan(shares=(1.0,)))  # type: ignore[call-arg]
    assert chosen.strength == 1.0
    assert (chosen.held_out["base"], chosen.held_out["encoder"]) == (1.0, 0.25)


# ------------------------------------------------------------------------ the run


def test_documents_alone_make_a_run_and_a_fused_system(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    happened = list(lode.train("adapt", out=out, **overrides(documents, tiny_model)))
    assert finished(out)
    assert not (out / "report.html").exists()
    validations = [event for event in happened if isinstance(event, events.Validation)]
    assert validations
    fusion = read_json(out / "manifest.json")["fusion"]
    assert 0 < fusion["weight"] < 1
    assert 0 < fusion["reference"] < 1
    assert fusion["depth"] == 2000
    assert fusion["strength"] in (0.0, 0.5, 1.0)
    assert set(fusion["held_out"]) == {"bm25", "base", "encoder", "fused"}
    assert fusion["queries"]["dev"]["sentence"] > 0

    dataset = Dataset.load(documents)
    system = resolve(str(out), dataset)
    asked = {"q": "the owl fears the barn"}
    found = [key for key, _ in system.retriever.search(asked, 5)["q"]]
    assert len(found) == 5
    assert set(system.fingerprints) == {"bm25.system", "run.model", "fusion"}
    assert lode.load(out).dimension == 32


def test_the_system_is_bm25_and_the_encoder_by_the_weight(adapted: Path, documents: Path) -> None:
    dataset, asked = Dataset.load(documents), {"q": "whale music"}
    for weight, alone in ((0.0, "bm25"), (1.0, str(adapted / "model"))):
        edit_fusion(adapted, weight=weight)
        fused = resolve(str(adapted), dataset).retriever.search(asked, 3)["q"]
        single = resolve(alone, dataset).retriever.search(asked, 3)["q"]
        assert [key for key, _ in fused] == [key for key, _ in single]


@pytest.fixture
def adapted(documents: Path, tiny_model: Path, tmp_path: Path) -> Path:
    list(lode.train("adapt", out=tmp_path / "run", **overrides(documents, tiny_model, **{"stages.0.epochs": 1})))
    return tmp_path / "run"


def edit_fusion(run: Path, **changed: float | str | None) -> None:
    """Change numbers of a run's fusion; None takes one out."""
    manifest = read_json(run / "manifest.json")
    fusion = manifest["fusion"] | changed
    manifest["fusion"] = {name: value for name, value in fusion.items() if value is not None}
    (run / "manifest.json").write_text(json.dumps(manifest))


ASKED = {
    "known": "the owl fears the barn",
    "half": "whale submarines torpedo",
    "strange": "zebra xylophone",
    "empty": "",
    "stop": "the of and",
}


def test_a_run_reopened_finds_the_same_and_a_query_alone_what_it_finds_among_others(
    adapted: Path, documents: Path
) -> None:
    dataset = Dataset.load(documents)
    system = resolve(str(adapted), dataset).retriever
    together = system.search(ASKED, 20)
    assert resolve(str(adapted), dataset).retriever.search(ASKED, 20) == together
    for query, words in ASKED.items():
        alone = dict(system.search({query: words}, 20)[query])
        assert alone == pytest.approx(dict(together[query]), rel=1e-5)  # the encoder rounds by what it batches


def test_a_query_in_other_words_is_the_encoders(adapted: Path, documents: Path) -> None:
    edit_fusion(adapted, weight=0.01)
    dataset = Dataset.load(documents)
    found = resolve(str(adapted), dataset).retriever.search(ASKED, 5)
    dense = resolve(str(adapted / "model"), dataset).retriever.search(ASKED, 5)
    for query in ("strange", "empty", "stop"):
        assert [key for key, _ in found[query]] == [key for key, _ in dense[query]]
    assert [key for key, _ in found["half"]] != [key for key, _ in dense["half"]]


def test_without_a_reference_bm25_has_its_weight_wherever_it_finds_something(adapted: Path, documents: Path) -> None:
    edit_fusion(adapted, reference=None, weight=0.3)
    dataset = Dataset.load(documents)
    parts = [resolve(own, dataset).retriever.search(ASKED, 2000) for own in ("bm25", str(adapted / "model"))]
    found = resolve(str(adapted), dataset).retriever.search(ASKED, 20)
    assert dict(found["half"]) == pytest.approx(dict(standardised(parts, (0.7, 0.3)).top(20)["half"]))
    edit_fusion(adapted, reference=1.0)
    assert resolve(str(adapted), dataset).retriever.search(ASKED, 20)["half"] != found["half"]


@pytest.mark.parametrize("reference", [-0.1, 2.0, float("nan"), "much"])
def test_a_reference_that_no_training_wrote_is_refused(reference: float | str, adapted: Path, documents: Path) -> None:
    edit_fusion(adapted, reference=reference)
    with pytest.raises(IntegrityError, match="no fusion that can be used"):
        resolve(str(adapted), Dataset.load(documents))


def test_a_run_is_the_same_again_and_resumes_to_the_same(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(documents, tiny_model, **{"stages.0.epochs": 4})
    for name in ("a", "b"):
        list(lode.train("adapt", out=tmp_path / name, **settings))
    stopped = tmp_path / "c"
    for event in plan("adapt", settings, out=stopped).events():
        if isinstance(event, events.Checkpoint) and event.epoch == 2:
            break
    list(plan("adapt", settings, out=stopped, resume=True).events())
    first = trained(tmp_path / "a")
    for other in (tmp_path / "b", stopped):
        assert all(np.array_equal(first[name], value) for name, value in trained(other).items())
        assert read_json(other / "manifest.json")["fusion"] == read_json(tmp_path / "a" / "manifest.json")["fusion"]


def test_labels_change_nothing_but_the_report(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled"
    shutil.copytree(documents, labelled)
    own = Dataset.load(labelled)
    queries = [Query(f"q{n}", f"{animal} music") for n, animal in enumerate(ANIMALS)]
    split = {query.id: {f"d{9 * n}": 1} for n, query in enumerate(queries)}
    Dataset.of(own.documents.values(), queries, {"test": split, "train": split}, name="documents").save(labelled)
    for folder in (documents, labelled):
        list(lode.train("adapt", out=tmp_path / f"run-{folder.name}", **overrides(folder, tiny_model)))
    plain, with_labels = (tmp_path / f"run-{folder.name}" for folder in (documents, labelled))
    first = trained(plain)
    assert all(np.array_equal(first[name], value) for name, value in trained(with_labels).items())
    measured = {lode.Evaluation.load(file).system for file in (with_labels / "evaluations").glob("*.json")}
    assert measured == {"random", "bm25", tiny_model.name, "adapt"}
    assert not (with_labels / "overlap.json").exists()  # no judged pair was trained on


def test_labels_to_measure_by_are_enough_for_the_report(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    queries, split = [Query("q0", "cat music"), Query("q1", "owl moon")], {"q0": {"d0": 1}, "q1": {"d18": 1}}
    own = Dataset.of(Dataset.load(documents).documents.values(), queries, {"test": split}, name="labelled")
    labelled = own.save(tmp_path / "labelled")
    list(lode.train("adapt", out=tmp_path / "run", **overrides(labelled, tiny_model, **{"stages.0.epochs": 1})))
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_share_of_the_residual_that_is_kept_is_saved(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    training = plan("adapt", overrides(documents, tiny_model), out=tmp_path / "run")
    assert isinstance(training, AdaptTraining)
    residual, projection = training._residual, training.learner.encoder.projection  # type: ignore[attr-defined]
    layer = projection.layers[0]
    layer.weight.data.fill_(2.0)
    del training._residual
    residual = training._residual
    for share, value in ((0.5, 1.0), (0.0, 0.0), (1.0, 2.0)):
        residual.keep(share)
        assert float(layer.weight.detach().unique()) == value


def test_its_page_says_what_was_chosen(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    training = plan("adapt", overrides(documents, tiny_model, **{"stages.0.epochs": 1}), out=tmp_path / "run")
    assert training.summary == {}
    list(training.events())
    assert 0 < training.summary["fusion"]["weight"] < 1
    with pytest.raises(ResumeError, match="another recipe"):
        plan("adapt", overrides(documents, tiny_model, seed=1), out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_is_given_is_kept(share: float, documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = overrides(documents, tiny_model, **{"stages.0.epochs": 1, "adaptation.shares": [share]})
    list(lode.train("adapt", out=tmp_path / "run", **settings))
    assert read_json(tmp_path / "run" / "manifest.json")["fusion"]["strength"] == share
    if share == 0:
        adapted, base = (lode.load(own).encode(["the owl"], "query").values for own in (tmp_path / "run", tiny_model))
        np.testing.assert_allclose(adapted, base, atol=1e-6)


def test_plain_inverse_cloze_is_a_setting_of_it(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    more = {"adaptation.queries": ["sentence"], "adaptation.shares": [1.0], "stages.0.objective.negatives": "batch"}
    more |= {"stages.0.optim.weight_decay": 0.0, "stages.0.epochs": 1}
    out = tmp_path / "run"
    list(lode.train("adapt", out=out, **overrides(documents, tiny_model, **more)))
    dataset, asked = Dataset.load(documents), {"q": "the owl fears the barn"}
    fused = resolve(f"bm25+{out / 'model'}", dataset).retriever.search(asked, 3)["q"]
    parts = [resolve(own, dataset).retriever.search(asked, 200) for own in ("bm25", str(out / "model"))]
    assert fused == reciprocal_rank(parts).top(3)["q"]


def test_a_forecast_trains_nothing(documents: Path, tiny_model: Path, tmp_path: Path) -> None:
    told = forecast(plan("adapt", overrides(documents, tiny_model), out=tmp_path / "run"))
    assert told["pairs"] > 0
    assert told["validation_queries"] > 0
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------ what is refused


def test_weights_that_training_did_not_write_are_refused(adapted: Path) -> None:
    file = next((adapted / "model").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(IntegrityError):
        load_encoder(str(adapted))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"encoder.kind": "mlp"}, "only a residual"),
        ({"adaptation.weight": 2}, "adaptation.weight"),
        ({"adaptation.evidence": -1}, "adaptation.evidence"),
        ({"adaptation.pull": 1.0}, "pull"),
        ({"adaptation.queries": ["spam"]}, "adaptation.queries"),
        ({"adaptation.held_outs": 5}, "held_out"),
        ({"adaptation.shares": [1.5]}, "adaptation.shares"),
        ({"adaptation.shares": []}, "adaptation.shares"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    more: dict[str, object], says: str, documents: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        plan("adapt", overrides(documents, tiny_model, **more), out=tmp_path / "run")


def test_documents_too_short_to_ask_for_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Dataset.of([Document(f"d{n}", "", "one two") for n in range(9)]).save(tmp_path / "short")
    with pytest.raises(InputError, match="too few or too short"):
        list(lode.train("adapt", out=tmp_path / "run", **overrides(folder, tiny_model)))


def test_only_a_recipe_with_that_section_is_of_that_kind() -> None:
    assert isinstance(load_any("adapt"), AdaptRecipe)
    assert isinstance(load("adapt"), AdaptRecipe)
    assert type(load("isotropic")) is not AdaptRecipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"encoder.freeze_base": False, "stages.0.objective.negatives": "batch"}, "only a frozen base"),
        ({"data.validation": None}, "split by themselves"),
        ({"data.validation": "foo"}, "split by themselves"),
        ({"data.train": "foo"}, "split by themselves"),
        ({"data.negatives": "negatives"}, "split by themselves"),
    ],
)
def test_settings_that_would_choose_on_something_else_are_refused_at_once(
    setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("adapt", {"data": str(tmp_path), **setting}, out=tmp_path / "run")
