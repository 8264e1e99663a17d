"""Fixtures of this room."""

from __future__ import annotations

from pathlib import Path

import pytest
from index_samples import some

from lodesmith.indexes import folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder.create(tmp_path / "index", "flat", some(60), metric="cosine", model="fp-one", info={"model": "tiny"})
    return tmp_path / "index"
