"""What the tests of the examples share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lodesmith.testing import tiny_dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def examples() -> Path:
    """The folder of the examples."""
    return EXAMPLES


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A dataset whose queries are in words that no document has: untrained, nothing is found but by chance."""
    dataset = tiny_dataset(120)
    for key, query in dataset.queries.items():
        dataset.queries[key] = replace(query, text=" ".join(word[::-1] for word in query.text.split()))
    return dataset.save(tmp_path / "foreign")
