"""The fingerprints of all data that a training reads: a run is resumed only over the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lodesmith.core.errors import ResumeError
from lodesmith.core.files import sha256_file
from lodesmith.core.hashing import fingerprint_texts
from lodesmith.core.joined import folders_of
from lodesmith.core.records import Dataset
from lodesmith.recipes._document_vectors import page_image
from lodesmith.recipes.learners import way
from lodesmith.recipes.recipe import Recipe
from lodesmith.recipes.text_pairs import COLUMN
from lodesmith.recipes.validating_elsewhere import datasets_of

__all__ = ["check_data", "data_identity"]

_SAID = {
    "columns": "the column {}",
    "images": "the page images of {}",
    "validate_on": "the dataset {} of evaluation.validate_on",
}


def data_identity(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What a manifest says of the data.

    Args:
        recipe: names columns, and datasets to validate on.
        dataset: trained on.

    Returns:
        `dataset`, a fingerprint; `columns`, name → SHA-256 of each dataset's file (null where there is none), of those
        that the training reads; `images`, dataset → fingerprint of what is on its pages, where they are read; and
        `validate_on`, name → fingerprint.
    """
    folders = folders_of(recipe.data.path or "")
    files = {name: [folder / "columns" / f"{name}.jsonl" for folder in folders] for name in _columns(recipe)}
    return {
        "dataset": dataset.fingerprint,
        "columns": {name: [sha256_file(p) if p.exists() else None for p in paths] for name, paths in files.items()},
        "images": _images(recipe, dataset),
        "validate_on": {name: found.fingerprint for name, found in datasets_of(recipe).items()},
    }


def _images(recipe: Recipe, dataset: Dataset) -> dict[str, str]:
    if way(recipe.encoder) != "pages":
        return {}
    documents = dataset.documents.values()
    return {dataset.name: fingerprint_texts(page_image(document, dataset.folder) for document in documents)}


def _columns(recipe: Recipe) -> list[str]:
    kinds = {stage.pairs for stage in recipe.stages}
    named = [recipe.data.negatives] if recipe.data.negatives and "judged" in kinds else []
    traces = recipe.traces
    with_traces = traces is not None and traces.mode != "none"
    answers = ["questions", "candidates", "negatives"] if "answers" in kinds else []
    return [
        *named,
        *answers,
        *([COLUMN] if "text" in kinds else []),
        *([traces.column] if traces and with_traces else []),
    ]


def check_data(begun: Mapping[str, Any], now: Mapping[str, Any], out: object) -> None:
    """Refuse to go on over other data.

    Args:
        begun: the manifest of the run; what one of an earlier version does not say is not compared.
        now: by `data_identity`.
        out: the run directory, for the message.

    Raises:
        ResumeError: naming what has changed.
    """
    changed = [] if begun.get("dataset") == now["dataset"] else ["the dataset"]
    for part, said in _SAID.items():
        own = now.get(part, {})
        was = begun.get(part, own)
        changed += [said.format(name) for name in {**was, **own} if was.get(name) != own.get(name)]
    if changed:
        has = "has" if len(changed) == 1 else "have"
        raise ResumeError(f"{out}: {', '.join(changed)} {has} changed since", "start a new run in another folder")
