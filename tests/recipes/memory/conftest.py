"""What the trainings of a memory model begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import memory_worlds
import pytest

import causal_models
from lodesmith.recipes.learners import _answers


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    """Memory is kept in a folder of the test's own."""


@pytest.fixture(autouse=True, scope="module")
def _short_answers() -> Iterator[None]:
    """Random weights never end one, and each token takes its time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_answers, "MOST", 4)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights."""
    return causal_models.build(tmp_path_factory.mktemp("base") / "reader", "llama", bos=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Documents, questions, and columns about them."""
    place = memory_worlds.write(tmp_path / "beasts")
    memory_worlds.columns(place)
    return place
