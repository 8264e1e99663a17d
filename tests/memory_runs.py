"""Run directories of memory models with random weights, and a small dataset that has questions with answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

import causal_models
from lodesmith.core.files import sha256_folder, write_json
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.encoders import MemoryEncoder
from lodesmith.encoders._memory_model import ADAPTERS

TEXTS = [
    "the cat eats apples",
    "a dog likes music",
    "the owl fears thunder in the barn",
    "the whale sleeps",
    "the bee likes rivers and the moon . " * 4,
    "the dog eats in the barn far , far",
    "a cat fears the whale",
    "music and thunder",
]
ASKED = {
    "q0": ("what does the cat eats ?", ("apples",), {"d0": 1}),
    "q1": ("what does the dog likes ?", ("music", "the music"), {"d1": 1, "d3": 0}),
    "q2": ("what does the owl fears in the barn ?", ("thunder",), {"d2": 1, "d7": 1}),
    "q3": ("who sleeps ?", (), {"d3": 1}),
    "q4": ("who likes rivers ?", ("bee",), {"d4": 1}),
}
"""Query → text, gold answers, grades."""


def dataset(folder: Path, candidates: dict[str, Sequence[str]] | None = None, **negatives: Sequence[str]) -> Path:
    """Write the dataset, with the columns `candidates` and `negatives` where they are given."""
    made = Dataset.of(
        [Document(f"d{at}", "", text) for at, text in enumerate(TEXTS)],
        [Query(key, text, answers) for key, (text, answers, _) in ASKED.items()],
        {"test": {key: grades for key, (_, _, grades) in ASKED.items()}},
        name="beasts",
    )
    made.save(folder)
    for name, rows in {"candidates": candidates, "negatives": negatives}.items():
        if rows:
            (folder / "columns").mkdir(exist_ok=True)
            lines = [json.dumps({"query": key, "ids": list(ids)}) for key, ids in rows.items()]
            (folder / "columns" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def stirred(encoder: MemoryEncoder, seed: int) -> MemoryEncoder:
    """As if every adapter had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in ADAPTERS:
            for weight in encoder.model.weights(adapter).values():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return encoder


def run(folder: Path, stages: Sequence[str] = ("compress", "instruct")) -> Path:
    """A finished run of the kept stages and one more; the weights of each are its own."""
    base = causal_models.build(folder.with_name(f"{folder.name}-base"), "llama", bos=True)
    torch.manual_seed(0)
    encoder = MemoryEncoder(base, rate=4, document_length=16)
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: clara\n")
    places = [*(folder / "stages" / name for name in stages), folder / "model"]
    for seed, place in enumerate(places):
        place.parent.mkdir(exist_ok=True)
        stirred(encoder, seed).save(place)
    files = {place.name: sha256_folder(place) for place in places}
    model = files.pop("model")
    write_json(folder / "manifest.json", {"model_files": model, **({"stage_files": files} if files else {})})
    return folder
