"""The bag of words: its mean, its weights, what never moves, and the folder that sentence-transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import embedding_bag
from tower_worlds import TEXTS, VOCABULARY, flip, packed, sentence_vectors, word_lists

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.encoders import (
    Bag,
    Recurrent,
    TowerPair,
    TransformerEncoder,
    VectorCache,
    Vocabulary,
    encode_to,
    load_tower,
    teacher_rows,
)
from lodesmith.encoders._gather import gather_sum
from lodesmith.encoders.bag import Weights
from lodesmith.encoders.word_vectors import WordVectors

KINDS: list[Weights] = ["uniform", "idf", "learned"]


def bag(weights: Weights = "uniform", projection: int | None = None, **others: Any) -> Bag:
    """A bag whose learned weights are no longer what they began as."""
    torch.manual_seed(0)
    made = Bag(VOCABULARY, 8, weights=weights, projection=projection, **others)
    if made.log_weights is not None:
        with torch.no_grad():
            made.log_weights.normal_()
    return made


def by_hand(tower: Bag, words: list[int]) -> np.ndarray:
    """The definition: Σ w(t)·e(t) / n."""
    rows = tower.embedding.weight.detach().numpy().astype(np.float64)
    weight = np.ones(len(rows))
    if tower.weights == "idf":
        weight = VOCABULARY.idf().astype(np.float64)
    if tower.log_weights is not None:
        weight = np.exp(tower.log_weights.detach().numpy().astype(np.float64))
    real = [word for word in words if word != 0]
    total = sum((weight[word] * rows[word] for word in real if word > 1), np.zeros(rows.shape[1]))
    mean = total / max(1, len(real))
    return mean if tower.projection is None else tower.projection.weight.detach().numpy().astype(np.float64) @ mean


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("projection", [None, 5])
def test_it_is_the_weighted_mean(weights: Weights, projection: int | None) -> None:
    tower = bag(weights, projection).eval()
    texts = [[2, 3, 3], [], [1, 1], [4], [0, 5, 1, 0], [0, 0]]
    found = tower(packed(texts)).detach().numpy()
    np.testing.assert_allclose(found, [by_hand(tower, text) for text in texts], atol=1e-6)
    assert tower.dimension == (projection or 8)
    assert (found[[1, 2, 5]] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(word_lists, min_size=1, max_size=6), st.data())
def test_a_vector_depends_on_its_text_alone(texts: list[list[int]], data: st.DataObject) -> None:
    tower = bag("learned").eval()
    alone = [tower(packed([text])).detach().numpy()[0] for text in texts]
    order = data.draw(st.permutations(range(len(texts))))
    filled = [texts[at] + [0] * data.draw(st.integers(0, 4)) for at in order]
    together = tower(packed(filled)).detach().numpy()
    np.testing.assert_array_equal(together, [alone[at] for at in order])


def test_padding_and_unknown_words_never_move() -> None:
    tower = bag("learned", 4)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.1, weight_decay=0.1)
    before = tower.embedding.weight.detach().clone()
    for _ in range(5):
        optimiser.zero_grad()
        tower(packed([[2, 0, 1], [1], [3, 4, 1]])).square().sum().backward()
        assert (tower.embedding.weight.grad[:2] == 0).all()  # type: ignore[index]
        optimiser.step()
    assert (tower.embedding.weight[:2] == 0).all()
    assert (tower.embedding.weight[2] != before[2]).all()
    assert tower(packed([[1, 0], []])).abs().sum() == 0


def test_gradients_are_those_of_the_definition() -> None:
    tower = bag("learned", 3).double()
    names = dict(tower.named_parameters())
    assert set(names) == {"embedding.weight", "log_weights", "projection.weight"}
    batch = packed([[2, 3, 1, 3], [4], []])
    torch.autograd.gradcheck(
        lambda *_: tower(batch), [p for n, p in names.items() if n != "log_weights"], atol=1e-6, fast_mode=True
    )
    assert names["embedding.weight"].grad is None
    tower(batch).square().sum().backward()
    step, at = 1e-5, (3,)
    with torch.no_grad():
        names["log_weights"][at] += step
        more = tower(batch).square().sum()
        names["log_weights"][at] -= 2 * step
        less = tower(batch).square().sum()
    assert names["log_weights"].grad is not None
    assert names["log_weights"].grad[at] == pytest.approx(float((more - less) / (2 * step)), rel=1e-5)


@pytest.mark.parametrize("rows", [50, 70_000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_gather_has_the_gradient_of_torchs(rows: int, weighted: bool, sparse: bool) -> None:
    torch.manual_seed(0)
    offsets = torch.tensor([0, 4, 4, 30, 31, 60, 60])
    ids = torch.randint(0, rows, (60,))
    ids[40:45] = ids[35]
    push = torch.randn(6, 3, dtype=torch.float64)
    results = []
    for ours in (True, False):
        torch.manual_seed(1)
        table = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        weights = torch.rand(rows, dtype=torch.float64, requires_grad=True) if weighted else None
        if ours:
            sums = gather_sum(table, ids, offsets, weights, sparse=sparse)
        else:
            of_ids = None if weights is None else weights[ids]
            sums = embedding_bag(ids, table, offsets[:-1], mode="sum", per_sample_weights=of_ids)
        (sums * push).sum().backward()
        assert table.grad is not None
        assert table.grad.is_sparse is (ours and sparse)
        results.append([sums.detach(), table.grad.to_dense(), None if weights is None else weights.grad])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_dropout_leaves_words_out_while_training_alone() -> None:
    tower = bag(dropout=0.5)
    batch = packed([[2] * 400])
    assert torch.equal(tower.eval()(batch), tower(batch))
    torch.manual_seed(0)
    ratio = (tower.train()(batch) / tower.eval()(batch)).detach()
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio))
    assert ratio[0, 0] != 1
    assert abs(float(ratio[0, 0]) - 1) < 0.2


def test_a_batch_that_is_not_packed_is_refused() -> None:
    with pytest.raises(InputError, match="takes packed texts"):
        bag()({"input_ids": torch.zeros(1, 2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "tf"}, "choose uniform, idf or learned"),
        ({"dimension": 0}, "out of range"),
        ({"projection": 0}, "out of range"),
        ({"dropout": 1.0}, "out of range"),
        ({"metric": "cos"}, "no metric is called 'cos'"),
        ({"scale": 0.0}, "scale must be above 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bag(VOCABULARY, **arguments)


# --------------------------------------------------------------------- first rows


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_random_rows_have_the_length_of_the_scale(init: str) -> None:
    vocabulary = Vocabulary.build([" ".join(f"w{at}" for at in range(3000))], min_count=1)
    torch.manual_seed(0)
    rows = Bag(vocabulary, 64, init=init, scale=3.0).embedding.weight.detach()
    assert (rows[:2] == 0).all()
    assert float(rows[2:].norm(dim=1).mean()) == pytest.approx(3, rel=0.02)
    assert float(rows.abs().max()) < 3 * 3**0.5 / 8 * (1.001 if init == "uniform" else 10)


def test_rows_from_word_vectors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given_ = WordVectors(("cat", "zebra", "Dog"), np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    for init in (given_, given_.save(tmp_path / "words")):
        with caplog.at_level("INFO"):
            rows = Bag(VOCABULARY, 2, init=init, scale=2.0).embedding.weight.detach()
        assert rows[VOCABULARY.ids["cat"]].tolist() == [2, 4]
        assert (rows[:2] == 0).all()
        assert float(rows[VOCABULARY.ids["the"]].abs().sum()) > 0
        assert f"word vectors for 1 of {len(VOCABULARY) - 2} words" in caplog.text
    with pytest.raises(InputError, match="2 dimensions, the embedding 3"):
        Bag(VOCABULARY, 3, init=given_)
    with pytest.raises(InputError, match="none of the vocabulary's words"):
        Bag(VOCABULARY, 2, init=WordVectors(("zebra",), np.ones((1, 2), np.float32)))
    with pytest.raises(InputError, match="no such file"):
        Bag(VOCABULARY, 2, init=tmp_path / "missing.txt")


def test_rows_distilled_from_a_transformer(tiny_encoder: TransformerEncoder) -> None:
    vocabulary = Vocabulary.build(["cat dog owl bee whale the likes fears moon"], min_count=1)
    rows = Bag(vocabulary, 4, init=tiny_encoder).embedding.weight.detach().numpy()
    vectors = tiny_encoder.encode(list(vocabulary.words[2:])).values
    centred = vectors - vectors.mean(0)
    axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)[2][:4]
    expected = centred @ axes.T
    expected /= np.sqrt((expected**2).sum(1).mean())
    np.testing.assert_allclose(rows[2:] @ rows[2:].T, expected @ expected.T, atol=1e-4)
    assert (rows[:2] == 0).all()
    named = Bag(vocabulary, 4, init=f"distil:{tiny_encoder.source}").embedding.weight.detach().numpy()
    np.testing.assert_allclose(named, rows, atol=1e-6)
    with pytest.raises(InputError, match="span no 10 dimensions"):
        Bag(vocabulary, 10, init=tiny_encoder)
    with pytest.raises(InputError, match="gives no 64"):
        Bag(vocabulary, 64, init=tiny_encoder)


def test_rows_from_a_teacher(tiny_encoder: TransformerEncoder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary.build(["cat dog owl bee whale the likes fears moon zebra"], min_count=1)
    rows = teacher_rows(tiny_encoder, vocabulary.words[2:])
    assert rows.values.shape == (10, 32)
    assert rows.info["model"] == tiny_encoder.fingerprint
    tower = Bag(vocabulary, 32, init=rows)
    assert (tower.embedding.weight[:2] == 0).all()
    words = list(vocabulary.words[2:])
    np.testing.assert_allclose(tower.encode(words).values, tiny_encoder.encode(words).values, atol=1e-6)
    mean = tiny_encoder.encode(["cat", "moon"]).values.mean(0)
    np.testing.assert_allclose(tower.encode(["cat moon"]).values[0], mean, atol=1e-6)
    # A folder and the name in a recipe begin with the same rows, and no word is encoded twice.
    folder = rows.save(cache / "rows")
    monkeypatch.setattr(TransformerEncoder, "encode", None)
    for init in (folder, f"teacher:{tiny_encoder.source}"):
        assert torch.equal(Bag(vocabulary, 32, init=init).embedding.weight, tower.embedding.weight)
    words_of = Recurrent(vocabulary, words=32, hidden=4, init=rows).embedding.weight
    assert torch.equal(words_of[2:], tower.embedding.weight[2:])
    with pytest.raises(InputError, match="32 dimensions, the embedding 16"):
        Bag(vocabulary, 16, init=f"teacher:{tiny_encoder.source}")


# ----------------------------------------------------------------------- encoding


def test_encoding_reports_what_was_cut_unknown_or_empty() -> None:
    tower = bag(max_length=20)
    vectors = tower.train().encode(TEXTS, ids=list("abcdefg"))
    assert tower.training
    assert vectors.info["cut"] == ["e"]
    assert vectors.info["truncated"] == pytest.approx(1 / 7)
    assert vectors.info["empty"] == ["c", "d"]
    assert (vectors.values[2:4] == 0).all()
    assert vectors.info["tokens"] == 5 + 4 + 0 + 3 + 20 + 3 + 1
    assert vectors.info["unknown"] == pytest.approx(3 / 36)
    assert vectors.info["model"] == tower.fingerprint
    with pytest.raises(InputError, match="1 != 2"):
        tower.encode(["a", "b"], ids=["x"])
    with torch.no_grad():
        tower.embedding.weight[3] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity"):
        tower.encode(TEXTS)


def test_the_fingerprint_follows_weights_and_settings() -> None:
    one, other = bag("learned"), bag("learned")
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != bag("learned", max_length=9).fingerprint != bag("learned", metric="dot").fingerprint
    first = one.eval().fingerprint
    assert one.fingerprint == first
    one.train()
    with torch.no_grad():
        one.embedding.weight[3] += 1
    changed = one.fingerprint
    assert changed != first
    assert one.eval().fingerprint == changed
    one.load_state_dict(other.state_dict())
    assert one.fingerprint == first


def test_a_fused_optimiser_does_not_pass_unnoticed() -> None:
    tower = bag()
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.1, fused=True)
    before = tower.fingerprint
    tower(packed([[2, 3]])).sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    assert tower.fingerprint != before


def test_the_store_and_the_cache_take_it(tmp_path: Path) -> None:
    tower = bag("idf").eval()
    items = [(f"t{at}", text) for at, text in enumerate(TEXTS)]
    stored = encode_to(tower, items, tmp_path / "vectors", chunk=2)
    cached = VectorCache(tmp_path / "cache").vectors(tower, items)
    np.testing.assert_array_equal(stored.values, tower.encode(TEXTS).values)
    np.testing.assert_array_equal(cached.values, stored.values)
    assert stored.info["tokens"] == tower.encode(TEXTS).info["tokens"]


# --------------------------------------------------------------------- the folder


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("projection", [None, 5])
def test_sentence_transformers_gives_the_same_vectors(tmp_path: Path, weights: Weights, projection: int | None) -> None:
    tower = bag(weights, projection, max_length=20, metric="euclidean").eval()
    folder = tower.save(tmp_path / "model")
    expected = tower.encode(TEXTS).values
    for found in sentence_vectors(folder, TEXTS):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    loaded = Bag.load(folder)
    np.testing.assert_allclose(loaded.encode(TEXTS).values, expected, rtol=1e-6, atol=1e-6)
    assert loaded.fingerprint == tower.fingerprint
    assert (loaded.metric, loaded.tokenizer.max_length, loaded.weights) == ("euclidean", 20, "uniform")
    assert loaded.vocabulary.fingerprint == VOCABULARY.fingerprint
    assert not loaded.training
    modules = json.loads((folder / "modules.json").read_text())
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    assert "no code of its own" in (folder / "README.md").read_text()


def test_a_loaded_tower_trains_on(tmp_path: Path) -> None:
    loaded = Bag.load(bag("idf").save(tmp_path / "model")).train()
    loaded(packed([[2, 3]])).sum().backward()
    assert loaded.embedding.weight.grad is not None


def test_separate_towers_share_a_folder(tmp_path: Path) -> None:
    pair = TowerPair(bag("idf", 5, max_length=9).eval(), bag("learned", 5).eval())
    folder = pair.save(tmp_path / "model")
    default, queries, documents = sentence_vectors(folder, TEXTS)
    np.testing.assert_allclose(queries, pair.query.encode(TEXTS).values, atol=1e-6)
    np.testing.assert_allclose(documents, pair.document.encode(TEXTS).values, atol=1e-6)
    np.testing.assert_allclose(default, documents)
    loaded = load_tower(folder)
    assert isinstance(loaded, TowerPair)
    assert loaded.fingerprint == pair.fingerprint
    assert loaded.encode(TEXTS, "query").info["model"] == pair.fingerprint
    np.testing.assert_allclose(loaded.encode(TEXTS, "query").values, queries, atol=1e-6)
    np.testing.assert_allclose(loaded.encode(TEXTS, "document").values, documents, atol=1e-6)
    assert loaded.parameters_total == pair.query.parameters_total + pair.document.parameters_total - len(VOCABULARY)
    with pytest.raises(InputError, match="no bag for both sides"):
        Bag.load(folder)
    with pytest.raises(ConfigError, match="cannot be compared: 5 dimensions by cosine, 8 by cosine"):
        TowerPair(pair.query, bag())


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "vocabulary.safetensors", "lodesmith.json", "1_Dense/config.json"]
)
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    folder = bag("idf", 5).save(tmp_path / "model")
    flip(folder / name)
    with pytest.raises(IntegrityError, match="the manifest says"):
        Bag.load(folder)


def test_folders_that_are_no_towers_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="holds no towers"):
        load_tower(tiny_model)
    folder = bag().save(tmp_path / "model")
    (folder / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"manifest.json is missing"):
        load_tower(folder)


def test_saving_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    bag("idf", 5).save(tmp_path / "model")
    folder = bag().save(tmp_path / "model")
    assert not (folder / "1_Dense").exists()
    assert load_tower(folder).dimension == 8
    assert not list(folder.rglob("*.bin"))


def test_learned_weights_begin_at_idf() -> None:
    words = Vocabulary.build(["the cat", "the dog", "the old owl"], min_count=1)
    tower = Bag(words, 4, weights="learned")
    assert tower.log_weights is not None
    np.testing.assert_allclose(tower.log_weights.detach().exp().numpy(), words.idf(), rtol=1e-6)
    weight = dict(zip(words.words, tower.log_weights.tolist(), strict=True))
    assert weight["the"] < 0 < weight["owl"]
