"""The page of a training: the trained model beside random, BM25 and its own base, on held-out queries."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object, sha256_folder, write_json, write_text
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.data.traced import MODES
from lodesmith.evaluation.compare import compare
from lodesmith.recipes._run_folder import STUDENT, UNTRAINED
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.geometry import geometry_of
from lodesmith.recipes.learners import way
from lodesmith.recipes.overlap import measured, notes_of, overlap
from lodesmith.recipes.recipe import AdaptRecipe, Recipe, WordVectorsRecipe
from lodesmith.recipes.systems import Resolver, System, renamed

if TYPE_CHECKING:
    from lodesmith.recipes.train import Training
    from lodesmith.recipes.word_vectors import WordVectorsTraining

__all__ = ["OVERLAP", "report"]

_log = logging.getLogger(__name__)

OVERLAP = "overlap.json"
"""The systems on queries that share a document with training, and on the others; only where both kinds exist."""

LEAST = 2
"""Judged queries without which nothing can be compared."""
PICTURED = 4096
"""Documents whose geometry is drawn: some of its measures compare all pairs."""


def report(training: Training | WordVectorsTraining) -> list[Evaluation]:
    """Evaluate a finished run and its baselines, and write `evaluations/` and `report.html` into the run directory.

    Nothing is written where the dataset judges fewer than two queries of the recipe's evaluation split.
    """
    recipe, out, dataset = training.recipe, training.out, getattr(training, "source", training.dataset)
    split = recipe.evaluation.split
    if len(dataset.judgements.get(split, {})) < LEAST:
        return []
    resolver = Resolver(dataset)
    from_scratch = (out / UNTRAINED).is_dir()
    before = recipe.base if isinstance(recipe, Recipe) and not from_scratch else str(out / UNTRAINED)
    base = Path(before).name
    beside = {**_taught(recipe, out), **_single(recipe)}
    spellings = {"random": "random", "bm25": "bm25", **beside, base: before, recipe.name: str(out)}
    resolved = {name: resolver.resolve(spelling) for name, spelling in spellings.items()}
    results = []
    lacking: list[str] = []
    asked = {**resolved, **_traced(recipe, resolved[recipe.name], dataset, lacking)}
    for name, found in {**asked, **_teachers(recipe, dataset, out, set(resolved))}.items():
        system = renamed(found, name)
        evaluation, _ = evaluate_system(system, dataset, split, recipe.evaluation.measures)
        evaluation.save(out / "evaluations" / f"{name}.json")
        results.append(evaluation)
    comparison = compare(results, baseline="bm25" if from_scratch else base)
    comparison.save(out / "comparison.json")
    from lodesmith.reports.page import render

    notes = [f"{dataset!r}", f"recipe {recipe.name}, fingerprint {recipe.fingerprint[:12]}, seed {recipe.seed}"]
    notes += [*_worth(recipe, comparison), *lacking]
    if told := _shared(training, results, base):
        write_json(out / OVERLAP, told)
        notes += notes_of(told)
    geometry = None
    vectors = resolved[recipe.name].vectors
    drawn = vectors is not None and vectors.is_dense and len(dataset.documents) > 1
    drawn = drawn and not (isinstance(recipe, Recipe) and way(recipe.encoder) == "memory")  # of one token, at times
    if isinstance(recipe, Recipe) and recipe.evaluation.geometry and drawn:
        geometry = geometry_of(str(out), dataset, split=split, limit=PICTURED).geometry
        notes.append(f"Spectrum, cosines and map are of {recipe.name}'s vectors of {geometry.items:,} documents.")
    title = f"{recipe.name} on {dataset.name}"
    write_text(out / "report.html", render(title, results, comparison, notes=notes, geometry=geometry))
    return results


def _traced(
    recipe: Recipe | WordVectorsRecipe, system: System, dataset: Dataset, lacking: list[str]
) -> dict[str, System]:
    """What learned with traces: under its own name with those it was trained with, and with each of their controls.

    How many queries have no trace is added to `lacking`.
    """
    from lodesmith.recipes.tracing import control, use_of

    if not isinstance(recipe, Recipe) or recipe.traces is None:
        return {}
    plan, split = recipe.traces, recipe.evaluation.split
    try:
        found = {mode: control(system, dataset, mode, use_of(recipe), split) for mode in MODES}
    except InputError:
        if plan.mode != "none":
            raise
        lacking.append("There are no traces, so the model has no controls.")  # it learned without
        return {}
    missing, total = found["use"][1], len(dataset.split(split))
    if missing:
        lacking.append(f"{missing:,} of {total:,} queries have no trace and are asked as they are.")
    others = {f"{recipe.name}, {mode}": found[mode][0] for mode in MODES if mode != plan.mode}
    return {recipe.name: found[plan.mode][0], **others}


def _worth(recipe: Recipe | WordVectorsRecipe, comparison: Comparison) -> list[str]:
    """What a model has with the traces that it learned with before what it has with each control."""
    from lodesmith.recipes.tracing import told

    controls = {f"{recipe.name}, {mode}" for mode in MODES}
    pairs = [pair for pair in comparison.pairs if {pair.a, pair.b} - controls == {recipe.name}]
    return [told(pair, recipe.name) for pair in pairs if len({pair.a, pair.b} & controls) == 1]


def _taught(recipe: Recipe | WordVectorsRecipe, out: Path) -> dict[str, str]:
    """The student in its own dimension where its projection gives another."""
    if not isinstance(recipe, Recipe) or not recipe.teachers:
        return {}
    same = sha256_folder(out / STUDENT) == sha256_folder(out / "model")
    return {} if same else {f"{recipe.name}-student": str(out / STUDENT)}


def _single(recipe: Recipe | WordVectorsRecipe) -> dict[str, str]:
    """Under late interaction, the base with its one vector a text, where it is such a model."""
    from lodesmith.encoders._loading import find_model, is_late

    if not isinstance(recipe, Recipe) or way(recipe.encoder) != "late" or is_late(find_model(recipe.base)):
        return {}
    return {Path(recipe.base).name: recipe.base}


def _teachers(
    recipe: Recipe | WordVectorsRecipe, dataset: Dataset, out: Path, taken: Collection[str]
) -> dict[str, System]:
    """The teachers over the documents' vectors that the student learned from; without those that are gone."""
    found = {}
    resolver = Resolver(dataset, dtype="float16")
    prints = str(read_object(out / "manifest.json").get("teacher", "")).split(",")
    for spelling in recipe.teachers if isinstance(recipe, Recipe) else ():
        name = Path(spelling).name
        name = spelling if name in taken or name in found else name
        try:
            system = resolver.resolve(spelling)
        except InputError as error:
            _log.warning("the teacher %s is not there to be measured: %s", spelling, error.what)
            continue
        if system.fingerprints.get("model") in prints:
            found[name] = system
        else:
            _log.warning("the teacher %s is another one than the student learned from: it is not measured", spelling)
    return found


def _shared(training: Training | WordVectorsTraining, results: list[Evaluation], base: str) -> dict[str, Any]:
    """The systems on queries that share a document with the training pairs, and on the others; empty for none."""
    recipe = training.recipe
    if isinstance(recipe, AdaptRecipe):
        return {}  # it read no judged pair
    if not isinstance(recipe, Recipe) or all(stage.pairs != "judged" for stage in recipe.stages):
        return {}
    found = overlap(training.dataset, cast("Training", training).pairs, recipe.evaluation.split)
    return measured(results, found, base, recipe.name)
