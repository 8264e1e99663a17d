"""Fixtures of the reports' tests."""

from __future__ import annotations

import pytest
from report_world import World, compared, example, ladder

from lodesmith.reports.page import Answer, Example, extremes


@pytest.fixture(scope="session")
def world() -> World:
    """Six systems, one dataset, 400 queries."""
    evaluations = tuple(ladder())
    return World(evaluations, compared(evaluations, "bm25"))


@pytest.fixture(scope="session")
def two_worlds() -> World:
    """The same systems on two datasets; the second lacks `random`."""
    evaluations = (*ladder(), *(e for e in ladder("notes", 60, seed=1) if e.system != "random"))
    return World(evaluations, compared(evaluations, "bm25"))


@pytest.fixture(scope="session")
def examples(world: World) -> tuple[Example, ...]:
    """The queries won and lost most between the last system and the baseline."""
    a, b = world.of("bm25+projected minilm"), world.of("bm25")
    won, lost = extremes(a, b, "nDCG@10", 3)
    return tuple(example(query, a, b, place) for place, query in enumerate((*won, *lost)))


@pytest.fixture(scope="session")
def answers(examples: tuple[Example, ...]) -> tuple[Answer, ...]:
    """Three sample questions."""
    return tuple(Answer(example.query, example.a_top) for example in examples[:3])
