"""A dataset of beasts with questions and answers, and the recipe `clara` at its smallest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.recipes.train import Training, plan

OBJECTS = ("apples", "rivers", "thunder", "moon", "music", "barn")
ADAPTERS = ("encoder", "decoder", "query_reasoner")
FACTS = [(who, does) for does in ("eats", "likes", "fears") for who in ("cat", "dog", "owl", "bee", "whale")]
"""Of each document one: who does what."""
SPLITS = {"train": range(9), "dev": range(9, 12), "test": range(12, 15)}
SMALL: Mapping[str, Any] = {
    "encoder.rate": 4,
    "encoder.document_length": 16,
    "encoder.lora": {"rank": 2, "alpha": 4, "dropout": 0.1},
    "stages.1.objective.documents": 2,
    "stages.2.objective.documents": 2,
    "stages.2.objective.candidates": 4,
    **{f"stages.{stage}.batch_size": 4 for stage in range(3)},
    **{f"stages.{stage}.optim.lr": 0.01 for stage in range(3)},
    **{f"stages.{stage}.epochs": 2 for stage in range(3)},
}


def answer(number: int) -> str:
    return OBJECTS[number * 5 % len(OBJECTS)]


def columns(folder: Path, skip: Sequence[int] = ()) -> None:
    """Write the column of questions: on each training document two."""
    with ColumnWriter(folder, "questions", "document", {}) as made:
        numbers = [number for number in SPLITS["train"] if number not in skip]
        rows = {f"d{number}": _questions(number) for number in numbers}
        for key in made.missing(rows):
            made.add(key, rows[key])
        made.finish()


def _questions(number: int) -> list[dict[str, Any]]:
    who, does = FACTS[number]
    told = f"{answer(number)} and the {who}"
    return [
        {"question": f"what does the {who} {does} ?", "answers": [answer(number)], "kind": "simple"},
        {"question": "", "answers": [told], "kind": "paraphrase"},
    ]


def write(folder: Path, splits: Sequence[str] = ("train", "dev", "test"), *, answered: bool = True) -> Path:
    """Write the dataset, with the judgements of some splits."""
    documents, queries, judged = [], [], dict[str, dict[str, dict[str, int]]]()
    for split, numbers in SPLITS.items():
        for number in numbers:
            who, does = FACTS[number]
            documents.append(Document(f"d{number}", "", f"the {who} {does} {answer(number)} in the barn ."))
            if split in splits:
                gold = (answer(number),) if answered else ()
                queries.append(Query(f"q{number}", f"what does the {who} {does} ?", gold))
                judged.setdefault(split, {})[f"q{number}"] = {f"d{number}": 1}
    Dataset.of(documents, queries, judged, name=folder.name).save(folder)
    return folder


def training(dataset: Path, reader: Path, out: Path, *, reported: bool = False, **more: Any) -> Training:
    """The recipe at its smallest; a run that is there is gone on with."""
    settings = {"data": str(dataset), "base": str(reader), **SMALL, **more}
    found = plan("clara", settings, out=out, resume="auto", reported=reported)
    assert isinstance(found, Training)
    return found


def tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Of a model folder: adapter → its weights, and `own`: memory and mark."""
    found = {name: load_file(folder / f"adapters/{name}/adapter_model.safetensors") for name in ADAPTERS}
    return found | {"own": load_file(folder / "memory.safetensors")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    assert a
    return all(torch.equal(a[name], b[name]) for name in a)
