"""What systems do with an encoder whose items are compared as one long vector: the same as a search, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.protocols import SEVERAL, Encoder, Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.recipes._hybrid_folder import check_space
from lodesmith.recipes._scores import Scores
from lodesmith.recipes.mteb import wrap
from lodesmith.recipes.scoring import vector_scores
from lodesmith.recipes.systems import dense

T, D = 3, 5


class Memory:
    """T vectors a text, drawn from its hash."""

    def __init__(self, metric: Metric = "aligned") -> None:
        self.metric: Metric = metric
        self.dimension, self.fingerprint = D, "memory"

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        drawn = [np.random.default_rng(list(text.encode())).standard_normal((T, D)) for text in texts]
        names = tuple(str(i) for i in range(len(texts))) if ids is None else tuple(ids)
        return Vectors(np.concatenate(drawn).astype(np.float32), np.arange(len(texts) + 1) * T, names)


@pytest.fixture
def documents() -> Vectors:
    names = [f"d{i}" for i in range(20)]
    return Memory().encode([f"text {name}" for name in names], "document", names)


@pytest.mark.parametrize("metric", SEVERAL)
def test_scores_of_pairs_are_those_of_a_search_to_the_bit(metric: Metric, documents: Vectors) -> None:
    encoder, queries = Memory(metric), {"q1": "one", "q2": "two", "q3": "three"}
    assert isinstance(encoder, Encoder)
    run = dense("memory", encoder, documents).retriever.search(queries, 20)
    lists = {"q1": ["d3", "d7"], "q2": [], "q3": [f"d{i}" for i in range(20)]}
    found = vector_scores(encoder, documents)(queries, lists)
    assert {query: list(scores) for query, scores in found.items()} == lists
    for query, scores in found.items():
        held = dict(run[query])
        assert scores == {key: held[key] for key in scores}


@pytest.mark.parametrize("metric", SEVERAL)
def test_what_is_of_one_vector_a_text_refuses_it(metric: Metric, documents: Vectors) -> None:
    encoder = Memory(metric)
    assert Scores.of(dense("memory", encoder, documents), {"q": "one"}) is None
    with pytest.raises(InputError, match="one vector a text"):
        wrap(encoder)
    with pytest.raises(InputError, match="one vector a text"):
        check_space("memory", encoder, Memory("cosine"))
