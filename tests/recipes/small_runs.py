"""Short trainings of recipes, and the weights that they end with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def overrides(dataset: Path, model: Path, **more: object) -> dict[str, object]:
    return {"data": str(dataset), "base": str(model), "stages.0.batch_size": 16} | more


def weights(run: Path) -> dict[str, np.ndarray]:
    files = sorted((run / "model").rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": value for file in files for name, value in load_file(file).items()}


def equal(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return bool(left) and left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
