"""Cross-encoders: their scores are those of sentence-transformers, and do not depend on the batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_cross
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.run import Run
from lodesmith.retrieval.rerank import CrossEncoder, Reranked, _batches, is_cross_encoder

TEXTS = {
    "d0": "the cat eats apples",
    "d1": "a dog fears thunder and likes the moon " * 3,
    "d2": "",
    "d3": "bee",
    "d4": "the owl sleeps in a barn " * 30,
    "d5": "zebra 👋 \ud800",
}
PAIRS = [(query, text) for query in ("cat apples", "the owl likes music", "") for text in TEXTS.values()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross.build(tmp_path_factory.mktemp("cross") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder)


class First:
    """Ranks the documents in their order; `asked` says for how many."""

    asked = 0

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        self.asked = k
        return Run.of({query: {key: -float(at) for at, key in enumerate(list(TEXTS)[:k])} for query in queries})


def test_scores_are_those_of_sentence_transformers(encoder: CrossEncoder, folder: Path) -> None:
    from sentence_transformers import CrossEncoder as Theirs

    pairs = [pair for pair in PAIRS if "\ud800" not in pair[1]]
    theirs = Theirs(str(folder), device="cpu")
    np.testing.assert_allclose(encoder.score(pairs, activated=True), theirs.predict(pairs), atol=1e-6)
    raw = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(encoder.score(pairs), raw, atol=5e-6)
    assert np.ptp(raw) > 0.1  # the tiny model does tell pairs apart


@pytest.mark.parametrize("tokens", [1, 60, 100_000])
def test_scores_do_not_depend_on_the_batch(encoder: CrossEncoder, folder: Path, tokens: int) -> None:
    alone = np.concatenate([encoder.score([pair], activated=True) for pair in PAIRS])
    shuffled = np.random.default_rng(0).permutation(len(PAIRS))
    other = CrossEncoder(folder, batch_tokens=tokens)
    np.testing.assert_allclose(other.score([PAIRS[at] for at in shuffled], activated=True), alone[shuffled], atol=1e-6)


def test_batches_keep_to_the_budget_and_lose_nothing() -> None:
    lengths = np.asarray([9, 1, 5, 5, 30, 2], np.int64)
    found = list(_batches(lengths, 12))
    assert sorted(np.concatenate(found).tolist()) == list(range(6))
    assert all(len(batch) == 1 or lengths[batch].max() * len(batch) <= 12 for batch in found)
    assert [lengths[batch].tolist() for batch in found] == [[1, 2], [5, 5], [9], [30]]
    assert list(_batches(np.empty(0, np.int64), 12)) == []


def test_no_pairs(encoder: CrossEncoder) -> None:
    assert encoder.score([]).shape == (0,)
    assert encoder.score_lists({}, {}, TEXTS.__getitem__) == {}


def test_lists_are_scored_as_pairs(encoder: CrossEncoder) -> None:
    lists = {"b": ["d1", "d0"], "a": [], "c": ["d3"]}
    found = encoder.score_lists({"a": "x", "b": "cat", "c": "bee"}, lists, TEXTS.__getitem__)
    assert {query: list(scores) for query, scores in found.items()} == lists
    expected = encoder.score([("cat", TEXTS["d1"]), ("cat", TEXTS["d0"]), ("bee", TEXTS["d3"])])
    np.testing.assert_allclose([found["b"]["d1"], found["b"]["d0"], found["c"]["d3"]], expected, atol=1e-6)


def test_reranked_orders_the_first_results_by_their_scores(encoder: CrossEncoder) -> None:
    first = First()
    retriever = Reranked(first, encoder, TEXTS.__getitem__, depth=4)
    queries = {f"q{at}": text for at, text in enumerate(["cat apples", "the owl", "music of the moon"] * 20)}
    run = retriever.search(queries, k=3)
    assert first.asked == 4
    for query, text in queries.items():
        scores = encoder.score([(text, TEXTS[key]) for key in list(TEXTS)[:4]])
        best = sorted(zip(list(TEXTS)[:4], scores, strict=True), key=lambda hit: -hit[1])[:3]
        assert [key for key, _ in run[query]] == [key for key, _ in best]
        np.testing.assert_allclose([s for _, s in run[query]], [s for _, s in best], atol=1e-5)


def test_it_returns_no_more_than_it_scored(encoder: CrossEncoder) -> None:
    run = Reranked(First(), encoder, TEXTS.__getitem__, depth=2).search({"q": "cat"}, k=100)
    assert len(run["q"]) == 2


def test_given_documents_are_scored_whether_found_or_not(encoder: CrossEncoder) -> None:
    retriever = Reranked(First(), encoder, TEXTS.__getitem__, depth=2)
    found = retriever.score({"q": "cat"}, {"q": ["d5", "d0"]})
    np.testing.assert_allclose(found["q"]["d0"], encoder.score([("cat", TEXTS["d0"])])[0], atol=1e-6)
    assert list(found["q"]) == ["d5", "d0"]


def test_a_document_that_is_not_there_is_named(encoder: CrossEncoder) -> None:
    with pytest.raises(InputError, match="'d0' of query 'q'"):
        Reranked(First(), encoder, {}.__getitem__).search({"q": "cat"})


def test_depth_must_be_positive(encoder: CrossEncoder) -> None:
    with pytest.raises(ConfigError, match="depth of 0"):
        Reranked(First(), encoder, TEXTS.__getitem__, depth=0)


def test_the_fingerprint_follows_the_weights_not_the_place(folder: Path, encoder: CrossEncoder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    (copy / "README.md").write_text("other words")
    assert CrossEncoder(copy).fingerprint == encoder.fingerprint
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    assert CrossEncoder(copy).fingerprint != encoder.fingerprint


def test_parameters(encoder: CrossEncoder) -> None:
    assert encoder.parameters == sum(p.numel() for p in encoder.model.parameters()) > 10_000


def test_an_encoder_of_vectors_is_refused(tiny_model: Path, folder: Path) -> None:
    assert is_cross_encoder(folder)
    assert not is_cross_encoder(tiny_model)
    with pytest.raises(InputError, match="is no cross-encoder"):
        CrossEncoder(tiny_model)


def test_several_scores_a_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives 3 scores a pair"):
        CrossEncoder(tiny_cross.build(tmp_path / "three", labels=3))


def test_damaged_weights_are_a_typed_error(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "broken")
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="does not load"):
        CrossEncoder(copy)


def test_scores_that_are_no_numbers_are_refused(folder: Path) -> None:
    encoder = CrossEncoder(folder)
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN or infinite"):
        encoder.score([("cat", "dog")])
