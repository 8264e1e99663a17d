"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def collections() -> Path:
    """The folder of real collections; the test is skipped where it is absent."""
    folder = Path(os.environ.get("LODESMITH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no collections at {folder}: set LODESMITH_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of a random two-layer BERT that knows the words of `testing.tiny_dataset`."""
    from tiny_models import build

    return build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vector cache of the test's own."""
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="session")
def in_float32() -> Iterator[None]:
    """`auto` is float32 on every machine: tests compare vectors with those of training. Of bfloat16 a test says so."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lodesmith.encoders._precision.multiplies_bfloat16", lambda device: False)
        yield
