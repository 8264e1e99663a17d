"""Every name and setting of a recipe against what they name, before any model, text or vector is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import SEVERAL
from lodesmith.core.registry import check_arguments, check_types, find, parameters
from lodesmith.evaluation.measures import parse
from lodesmith.recipes.learners import way
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.learners._taught import taught
from lodesmith.recipes.recipe import TEACHER, AdaptRecipe, Component, Recipe, StagePlan
from lodesmith.training import tracking

__all__ = ["check_components"]

_ON_MLX = ("memory", "bag", "rnn", "projected")
"""Encoders that MLX trains."""


def check_components(recipe: Recipe) -> None:
    """Every name and setting of the recipe, before any model, text or vector is loaded."""
    tracking.check(recipe.tracking)
    if isinstance(recipe, AdaptRecipe) and recipe.encoder.settings.get("kind") != "residual_linear":
        raise ConfigError("encoder.kind: without labels only a residual may be trained", "set it to residual_linear")
    if isinstance(recipe, AdaptRecipe):
        _check_unlabelled(recipe)
    _check_component("encoders", recipe.encoder, "encoder", ("base_model", "vocabulary", "precision"))
    if recipe.document_encoder is not None:
        _check_pair(recipe.encoder, recipe.document_encoder)
        _check_component("encoders", recipe.document_encoder, "document_encoder", ("vocabulary",))
    _check_teacher(recipe)
    _check_elsewhere(recipe)
    if recipe.engine.arrays == "mlx":
        _check_mlx(recipe)
    for number, stage in enumerate(recipe.stages):
        supplied = ("encoder", "document_encoder", "known", "predictor")
        _check_component("objectives", stage.objective, f"stages.{number}.objective", supplied)
        _check_measured(recipe, stage, f"stages.{number}")
        if stage.pool and way(recipe.encoder) != "vectors":
            raise ConfigError(f"stages.{number}.pool: only a recipe over a frozen base can have one", "set it to 0")
        if stage.objective.settings.get("negatives") == "corpus":
            _check_corpus(recipe, stage, f"stages.{number}")
        if stage.objective.settings.get("negatives") in ("own", "mined"):
            _check_mined(recipe, stage, f"stages.{number}")
        _check_late(recipe, stage, f"stages.{number}")
        if stage.pairs != "judged" and way(recipe.encoder) == "pages":
            raise ConfigError(f"stages.{number}.pairs: {stage.pairs} is of texts", "set it to judged")
        _check_taught(recipe, stage, f"stages.{number}")
        prediction = stage.objective.settings.get("prediction") or {}
        if prediction.get("weight") or prediction.get("begin"):
            _check_predictor(recipe.encoder, f"stages.{number}")
        _build(stage, f"stages.{number}.objective")


def _check_mlx(recipe: Recipe) -> None:
    """MLX trains some of the families, in one process and in float32."""
    engine, torch = recipe.engine, "or set engine.arrays to torch"
    for component in filter(None, (recipe.encoder, recipe.document_encoder)):
        if component.use not in _ON_MLX or way(component) == "texts":
            raise ConfigError(
                f"engine.arrays: MLX trains no {component.use}{' whose base trains' * (component.use in _ON_MLX)} here",
                f"choose memory, bag, rnn, or projected over a frozen base, {torch}",
            )
        if component.settings.get("activation_checkpointing"):
            raise ConfigError(
                "encoder.activation_checkpointing: MLX keeps what the backward pass needs", f"set it to false, {torch}"
            )
    if engine.precision != "float32":
        raise ConfigError(f"engine.precision: MLX trains in float32, not in {engine.precision}", f"set it so, {torch}")
    if (processes := engine.processes or ranks()[1]) > 1:
        raise ConfigError(f"engine.processes: MLX trains in one process, not in {processes}", f"set it to 1, {torch}")
    import_module("lodesmith.encoders._mlx_through")  # which says how to install what is missing


def _check_measured(recipe: Recipe, stage: StagePlan, place: str) -> None:
    """What a stage learns from, and what decides which of its weights are best."""
    if way(recipe.encoder) == "memory":
        _check_memory(recipe, stage, place)
    elif stage.pairs == "answers":
        raise ConfigError(f"{place}.pairs: answers are for the encoder memory", "set it to judged")
    elif stage.monitor != TEACHER:
        parse(stage.monitor)
    elif not recipe.teachers:
        raise ConfigError(f"{place}.monitor: teacher, and the recipe has none", "add teacher=MODEL, or name a measure")


def _check_memory(recipe: Recipe, stage: StagePlan, place: str) -> None:
    """A memory model learns from answers, and is measured by them."""
    from lodesmith.recipes.learners._answers import MEASURES

    kind = find("objectives", stage.objective.use)
    if getattr(kind, "reads", "") != "answers":
        raise ConfigError(
            f"{place}.objective: {stage.objective.use} reads no answers, and memory tokens are learned from them",
            "use compress or end_to_end",
        )
    if stage.pairs != "answers":
        raise ConfigError(
            f"{place}.pairs: {stage.pairs}, and memory tokens are learned from answers", "set it to answers"
        )
    if stage.monitor not in MEASURES:
        raise ConfigError(
            f"{place}.monitor: a memory model is not measured by {stage.monitor}",
            f"choose one of {', '.join(MEASURES)}",
        )
    names = [own.name for own in recipe.stages]
    if names.count(stage.name) > 1 or not re.fullmatch(r"\w[\w. -]*", stage.name):
        raise ConfigError(
            f"{place}.name: {stage.name!r}, and the model is kept in a folder of that name",
            "give each stage a name of its own, of letters and digits",
        )
    if stage.chunk or stage.pool:
        raise ConfigError(
            f"{place}: chunk and pool are of pairs", "leave them out; engine.accumulate bounds the memory"
        )
    if recipe.document_encoder is not None or recipe.traces is not None:
        raise ConfigError("document_encoder, traces: a memory model has neither", "leave them out")
    if recipe.data.negatives is not None:
        raise ConfigError("data.negatives: a memory model finds the column itself", "leave it out")


def _check_elsewhere(recipe: Recipe) -> None:
    """Other datasets are validated on as texts, and their queries as they are."""
    if not recipe.evaluation.validate_on:
        return
    if recipe.traces is not None and recipe.traces.mode != "none":
        raise ConfigError("evaluation.validate_on: other datasets are asked without traces", "leave it or traces out")
    if way(recipe.encoder) == "pages":
        raise ConfigError("evaluation.validate_on: pages are validated on the training data alone", "leave it out")
    if way(recipe.encoder) == "memory":
        raise ConfigError("evaluation.validate_on: answers are validated on the training data alone", "leave it out")


def _build(stage: StagePlan, place: str) -> None:
    """Make an objective of ours over nothing, for what it refuses."""
    from torch import nn

    if "." in stage.objective.use:
        return
    kind = find("objectives", stage.objective.use)
    beside = {"predictor": nn.Identity()} if "predictor" in parameters(kind) else {}
    try:
        kind(nn.Identity(), **beside, **stage.objective.settings)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.what}", error.do) from None


def _check_unlabelled(recipe: Recipe) -> None:
    """Pseudo-queries have splits of their own, and what is held out chooses strength and weight."""
    if recipe.encoder.settings.get("freeze_base", True) is not True:
        raise ConfigError("encoder.freeze_base: without labels only a frozen base is adapted", "set it to true")
    for name, only in (("train", "train"), ("validation", "dev"), ("negatives", None)):
        if getattr(recipe.data, name) != only:
            raise ConfigError(
                f"data.{name}: the pseudo-queries of adapt are split by themselves", f"leave it at {only or 'null'}"
            )


def _check_corpus(recipe: Recipe, stage: StagePlan, place: str) -> None:
    """All documents as negatives: only where none has to be encoded again at each step."""
    if way(recipe.encoder) != "vectors":
        raise ConfigError(
            f"{place}.objective.negatives: corpus compares each query with every document at each step, which only "
            "stored vectors of a frozen base allow; this recipe would encode every text again",
            "set it to batch, or train over a frozen base",
        )
    if stage.pool:
        raise ConfigError(f"{place}.pool: {stage.pool} documents of the pool are in the corpus anyway", "set it to 0")


def _check_mined(recipe: Recipe, stage: StagePlan, place: str) -> None:
    """An objective over mined negatives alone learns nothing from batches that hold none."""
    kind = stage.objective.settings["negatives"]
    if kind == "own" and stage.pool:
        return
    if stage.pairs == "text":
        raise ConfigError(
            f"{place}.objective.negatives: {kind} needs mined negatives, and pairs of texts have none",
            "leave it out, or set pairs to judged",
        )
    if recipe.data.negatives is None:
        raise ConfigError(
            f"{place}.objective.negatives: {kind} needs mined negatives, and data.negatives names none",
            "mine them (`lode data mine DIR --with bm25`) and set data.negatives=negatives",
        )


def _check_teacher(recipe: Recipe) -> None:
    """A teacher is mimicked, by something that can; and what names the teacher has one."""
    towers = [own for own in (recipe.encoder, recipe.document_encoder) if own is not None]
    begins = any(own.settings.get("init") == TEACHER for own in towers)
    if not recipe.teachers:
        if begins or recipe.base == TEACHER:
            place = "encoder.init" if begins else "base"
            raise ConfigError(f"{place}: teacher, and the recipe has none", "add teacher=MODEL")
        return
    if len(set(recipe.teachers)) < len(recipe.teachers):
        raise ConfigError(f"teacher: {recipe.teacher} has one name twice", "name each model once")
    if way(recipe.encoder) == "pages" and any(taught(stage) == "vectors" for stage in recipe.stages):
        raise ConfigError(
            "teacher: models of page images mimic a teacher's interactions alone", "use the objective mid"
        )
    if way(recipe.encoder) == "memory":
        raise ConfigError("teacher: a memory model mimics nobody", "leave it out")
    if way(recipe.encoder) == "vectors":
        raise ConfigError(
            "teacher: a base that is frozen mimics nobody: only recipes whose encoder trains from texts have one",
            "set encoder.freeze_base to false, or choose student, bag or rnn",
        )
    if len(recipe.teachers) > 1 and any(taught(stage) == "interactions" for stage in recipe.stages):
        raise ConfigError("teacher: the interactions of several teachers do not go together", "name one")
    if len({kind for stage in recipe.stages if (kind := taught(stage))}) > 1:
        raise ConfigError("teacher: its vectors and its interactions are of two kinds of model", "make two trainings")
    if not begins and not any(_mimics(stage) for stage in recipe.stages):
        raise ConfigError("teacher: no stage mimics it", "leave it out, or use the recipe distil or mid")


def _mimics(stage: StagePlan) -> bool:
    return taught(stage) is not None


def _check_late(recipe: Recipe, stage: StagePlan, place: str) -> None:
    """Vectors of tokens are compared by MaxSim, and they alone."""
    if "." in stage.objective.use or "." in recipe.encoder.use:
        return
    if way(recipe.encoder) == "memory":
        return
    kind, late = find("objectives", stage.objective.use), way(recipe.encoder) in ("late", "pages")
    if getattr(kind, "reads", "") == "answers":
        raise ConfigError(f"{place}.objective: {stage.objective.use} is for the encoder memory", "choose another")
    settings = stage.objective.settings
    similarity = settings.get("similarity", getattr(kind, "similarity", "cosine"))
    if late and (similarity != "maxsim" or stage.objective.use not in ("interact", "mimic", "mid")):
        raise ConfigError(
            f"{place}.objective: {stage.objective.use} by {similarity} is of one vector a text, and "
            f"{recipe.encoder.use} gives one a token",
            "use interact, mid, or mimic with similarity: maxsim",
        )
    if late and settings.get("dimensions"):
        raise ConfigError(f"{place}.objective.dimensions: vectors of tokens are compared whole", "leave them out")
    several = [name for name in (similarity, recipe.encoder.settings.get("metric")) if name in SEVERAL]
    if not late and several:
        raise ConfigError(
            f"{place}.objective: {several[0]} compares vectors of tokens, and {recipe.encoder.use} gives one a text",
            "choose the encoder tokens, or another similarity",
        )
    single = set(getattr(kind, "terms", ())) - set(getattr(kind, "comparing", ()))
    if late and (weighed := [name for name in sorted(single) if _weighs(stage.objective.settings.get(name))]):
        raise ConfigError(
            f"{place}.objective.{weighed[0]}: it is of one vector a text, and {recipe.encoder.use} gives one a token",
            "leave it out: infonce, kl and margin_mse compare scores",
        )


def _check_taught(recipe: Recipe, stage: StagePlan, place: str) -> None:
    """What mimics a teacher needs one, and something to mimic; single texts teach nothing else."""
    kind, settings = find("objectives", stage.objective.use), stage.objective.settings
    if not _mimics(stage):
        if stage.pairs == "none":
            raise ConfigError(
                f"{place}.pairs: none is for an objective that mimics a teacher, not for {stage.objective.use}",
                "set pairs to judged or text",
            )
        return
    if not recipe.teachers:
        raise ConfigError(f"{place}.objective: {stage.objective.use} mimics a teacher", "add teacher=MODEL")
    terms: tuple[str, ...] = getattr(kind, "terms", ())
    if taught(stage) == "interactions":
        if stage.pairs == "none":
            raise ConfigError(
                f"{place}.pairs: none has no pairs, and {stage.objective.use} learns from them",
                "set pairs to judged or text",
            )
        return
    weighed = [name for name in terms if _weighs(settings.get(name))]
    if not weighed:
        raise ConfigError(f"{place}.objective: no term has a weight", f"give one to some of: {', '.join(terms)}")
    if "margin_mse" in weighed and (stage.pairs == "text" or recipe.data.negatives is None):
        raise ConfigError(
            f"{place}.objective.margin_mse needs mined negatives, which only pairs: judged with data.negatives has",
            "mine them (`lode data mine DIR --with bm25`) and set data.negatives=negatives",
        )
    compares = [name for name in getattr(kind, "comparing", ()) if name in weighed]
    if stage.pairs == "none" and compares:
        raise ConfigError(
            f"{place}.objective.{compares[0]}: it compares queries with documents, and pairs: none has none",
            "leave it out, or set pairs to judged or text",
        )
    if settings.get("dimensions") and not set(weighed) - {"mse", "cosine"}:
        raise ConfigError(
            f"{place}.objective.dimensions: mse and cosine are of whole vectors", "add relational, or leave it out"
        )


def _weighs(term: Any) -> bool:
    """Whether a term, a number or a mapping, has a weight at some time."""
    return bool(term.get("weight") or term.get("begin")) if isinstance(term, Mapping) else bool(term)


def _check_predictor(encoder: Component, place: str) -> None:
    """A prediction needs an encoder that has a predictor."""
    if not encoder.settings.get("predictor"):
        raise ConfigError(f"{place}.objective.prediction: there is no predictor", "set encoder.predictor to true")


def _from_tokens(component: Component) -> bool:
    return getattr(find("encoders", component.use), "trained_on", "vectors") == "tokens"


def _check_pair(query: Component, document: Component) -> None:
    """Separate towers: both have to be trained from token ids."""
    for component in (query, document):
        if not _from_tokens(component):
            raise ConfigError(
                f"document_encoder: {component.use!r} has no tower of its own for each side",
                "choose bag or rnn for both sides, or leave document_encoder out",
            )


def _check_component(family: str, component: Component, label: str, supplied: tuple[str, ...]) -> None:
    found = find(family, component.use)
    check_arguments(found, component.settings, label, supplied)
    check_types(found, component.settings, label, _misfit)


def _misfit(annotation: Any, value: Any) -> str:
    """What pydantic says of a value under an annotation; nothing where it cannot judge."""
    try:
        read = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        return _reread(value, read)  # the component gets it as it stands
    except ValidationError as error:
        return error.errors()[0]["msg"]
    except PydanticUserError:
        return ""
    return ""


def _reread(value: Any, read: Any) -> str:
    """What is wrong with a value that only passes as a number or a switch because it was read as one."""
    if isinstance(value, list | tuple) and isinstance(read, list | tuple):
        return next(filter(None, map(_reread, value, read)), "")
    if not isinstance(read, bool | int | float) or not isinstance(value, str | bool) or type(value) is type(read):
        return ""
    kind = type(read).__name__
    if isinstance(value, str):
        return f"Input should be a {kind}, not a text: write it without quotes"
    return f"Input should be a {kind}, not {str(value).lower()}"
