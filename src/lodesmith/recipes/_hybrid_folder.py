"""A hybrid's folder: a student and a teacher of queries by name, and the router between them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import read_object, sha256_file, verify_files
from lodesmith.core.protocols import SEVERAL, Encoder
from lodesmith.core.records import Dataset

if TYPE_CHECKING:
    from lodesmith.recipes.systems import Resolver, System
    from lodesmith.retrieval.dense import Dense
    from lodesmith.retrieval.routed import Router

__all__ = ["ROUTER", "Pair", "hybrid_of", "hybrid_system", "pair_of", "written"]

ROUTER = "router.json"
"""The file by which a hybrid's folder is known."""
_THRESHOLD = re.compile(r"(.+)@([^@/]*)")


@dataclass(frozen=True)
class Pair:
    """Student and teacher over one index of the teacher's vectors.

    Args:
        student: its queries are looked up in the teacher's index.
        teacher: a system of one model.
        fingerprints: of both encoders.
        parameters: of both together.
    """

    student: Dense
    teacher: System
    fingerprints: Mapping[str, str]
    parameters: float


def hybrid_of(spelling: str) -> tuple[Path, float | None] | None:
    """The folder and the threshold of `FOLDER` or `FOLDER@0.3`; None for what is no hybrid."""
    if (Path(spelling) / ROUTER).is_file():
        return Path(spelling), None
    found = _THRESHOLD.fullmatch(spelling)
    if found is None or Path(spelling).exists() or not (Path(found[1]) / ROUTER).is_file():
        return None
    try:
        threshold = float(found[2])
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise ConfigError(f"the threshold is {found[2]!r}", f"choose a probability, 0 to 1: {found[1]}@0.5")
    return Path(found[1]), threshold


def pair_of(resolver: Resolver, student: str, teacher: str) -> Pair:
    """Set both up over the resolver's dataset.

    Raises:
        InputError: the teacher is no single model with vectors, or the student's vectors are not of its space.
    """
    from lodesmith.recipes.systems import load_encoder, parameters_of
    from lodesmith.retrieval.dense import Dense

    system = resolver.resolve(teacher)
    if not isinstance(system.retriever, Dense) or system.vectors is None:
        raise InputError(f"the teacher {teacher!r} is not one model with vectors of its own", "name a model or a run")
    encoder, whole = load_encoder(student), system.retriever.encoder
    check_space(student, encoder, whole)
    prints = {"student": encoder.fingerprint, "teacher": whole.fingerprint}
    parameters = parameters_of(encoder) + parameters_of(whole)
    return Pair(Dense(encoder, system.retriever.index), system, prints, parameters)


def check_space(name: str, student: Encoder, teacher: Encoder) -> None:
    """Refuse a student whose vectors cannot be looked up among the teacher's.

    Raises:
        InputError: the dimensions differ, or one of them has a vector a token.
    """
    if {student.metric, teacher.metric} & set(SEVERAL):
        raise InputError(f"{name} or its teacher has a vector a token", "a hybrid is of models with one vector a text")
    if student.dimension == teacher.dimension:
        return
    do = "name a student that was trained into the teacher's space"
    if Path(name).name == "model_student":
        do = f"name the run's projected model instead: {Path(name).with_name('model')}"
    elif (Path(name).parent / "model" / "modules.json").is_file():
        do += f", such as the run's projected model, {Path(name).with_name('model')}"
    else:
        do += ": a run of distil, or its model/ folder, which has the projection"
    raise InputError(
        f"{name} gives vectors of {student.dimension} dimensions, and the teacher's index has {teacher.dimension}", do
    )


def written(folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a folder whose router is there."""
    return {"kind": "hybrid", **told, "files": {ROUTER: sha256_file(folder / ROUTER)}}


def hybrid_system(resolver: Resolver, folder: Path, threshold: float | None = None) -> System:
    """The system of a folder over the resolver's dataset.

    Args:
        resolver: whose documents the teacher has encoded, or encodes now.
        folder: what `lode hybrid` wrote.
        threshold: the probability from which on the teacher is asked; None for the folder's own.

    Raises:
        IntegrityError: the router is damaged, or a model is not the one that it was made with.
        InputError: a model is not there.
    """
    from lodesmith.retrieval.routed import Routed, Router

    manifest = read_object(folder / "manifest.json")
    verify_files(folder, manifest.get("files"))
    router = Router.load(folder / ROUTER)
    try:
        student, teacher, prints = manifest["student"], manifest["teacher"], dict(manifest["fingerprints"])
        threshold = float(manifest["threshold"]) if threshold is None else threshold
        if not isinstance(student, str) or not isinstance(teacher, str) or not 0 <= threshold <= 1:
            raise ValueError(f"{student!r}, {teacher!r} at {threshold}")
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{folder / 'manifest.json'}: damaged: {error!r}", "make it again: lode hybrid") from None
    if resolver.passages != (made := manifest.get("passages")):
        do = f"add --passages {made}" if made else "leave --passages out"
        raise InputError(
            f"the router was made over {_passages(made)}, not {_passages(resolver.passages)}", do, path=folder
        )
    pair = pair_of(resolver, _place(folder, student), _place(folder, teacher))
    _check(folder, prints, pair.fingerprints)
    routed = Routed(pair.student, pair.teacher.retriever, router, rarity_of(resolver.dataset), threshold)
    return _named(pair, routed, f"{folder.resolve().name}@{threshold:g}", router)


def _passages(tokens: int | None) -> str:
    return f"passages of {tokens} tokens" if tokens else "whole documents"


def rarity_of(dataset: Dataset) -> Any:
    """Of the words of a dataset's documents."""
    from lodesmith.retrieval.rarity import Rarity

    return Rarity.of(document.content for document in dataset.documents.values())


def _place(folder: Path, model: str) -> str:
    """A model is found from where the folder lies, as well as from here."""
    beside = folder / model
    return str(beside) if beside.exists() else model


def _check(folder: Path, wanted: Mapping[str, Any], found: Mapping[str, str]) -> None:
    for name, fingerprint in found.items():
        if wanted.get(name) != fingerprint:
            raise IntegrityError(
                f"{folder}: the {name} is not the one that the router was made with", "make it again: lode hybrid"
            )


def _named(pair: Pair, retriever: Any, name: str, router: Router) -> System:
    from lodesmith.core.hashing import fingerprint

    cost = dict(pair.teacher.cost) | {"parameters": pair.parameters}
    prints = dict(pair.fingerprints) | {"router": fingerprint({"weights": [*router.weights, *router.platt]})}
    return replace(pair.teacher, name=name, retriever=retriever, cost=cost, fingerprints=prints, vectors=None)
