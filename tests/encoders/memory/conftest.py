"""A memory model over a tiny language model, new for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory_models import SIZES, stir

import causal_models
from lodesmith.encoders import MemoryEncoder

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_models.build(tmp_path_factory.mktemp("causal") / "model", "llama", bos=True)


@pytest.fixture
def encoder(folder: Path) -> MemoryEncoder:
    torch.manual_seed(0)
    return stir(MemoryEncoder(folder, **SIZES))


@pytest.fixture
def saved(encoder: MemoryEncoder, tmp_path: Path) -> Path:
    return encoder.save(tmp_path / "saved")
