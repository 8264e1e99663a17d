"""The recurrent tower: its cells against torch's, pooling over valid steps, and the folder."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tower_worlds import TEXTS, VOCABULARY, flip, packed, sentence_vectors, word_lists

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.encoders import Recurrent, TowerPair, VectorCache, encode_to, load_tower
from lodesmith.encoders._cells import layout, run_layers
from lodesmith.encoders.rnn import Cell, Pooling
from lodesmith.encoders.word_vectors import WordVectors

CELLS: list[Cell] = ["rnn", "gru", "lstm"]
POOLINGS: list[Pooling] = ["last", "mean", "max"]


def tower(cell: Cell = "gru", pooling: Pooling = "mean", dimension: int | None = None, **others: Any) -> Recurrent:
    """A small tower with two layers."""
    torch.manual_seed(0)
    arguments = {"words": 6, "hidden": 4, "layers": 2} | others
    return Recurrent(VOCABULARY, dimension, cell=cell, pooling=pooling, **arguments)


def by_hand(model: Recurrent, words: list[int]) -> np.ndarray:
    """One text through torch's own cell, without packing or padding."""
    real = [word for word in words if word != 0]
    if not any(word > 1 for word in real):
        return np.zeros(model.dimension, np.float32)
    with torch.no_grad():
        states = model.cell(model.embedding.weight[real][:, None])[0][:, 0]
        hidden = model.cell.hidden_size
        if model.pooling == "last":
            pooled = torch.cat([states[-1, :hidden], states[0, hidden:]])
        else:
            pooled = states.mean(0) if model.pooling == "mean" else states.max(0).values
        return (pooled if model.projection is None else model.projection(pooled)).numpy()


# ------------------------------------------------------------------------ cells


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_states_and_gradients_are_those_of_torch(kind: Any, bidirectional: bool, layers: int) -> None:
    torch.manual_seed(0)
    offsets = torch.tensor([0, 3, 4, 9, 9 + 3, 19])
    cell = kind(5, 4, layers, bidirectional=bidirectional).double()
    place = layout(offsets)
    words = torch.randn(19, 5, dtype=torch.float64)
    push = torch.randn(19, 4 * (1 + bidirectional), dtype=torch.float64)
    results = []
    for ours in (True, False):
        x = words.clone().requires_grad_()
        if ours:
            with torch.autocast("cpu", enabled=False):
                states = run_layers(cell, x[place.rows], place)
        else:
            sequences = [x[offsets[at] : offsets[at + 1]] for at in place.order.tolist()]
            states = cell(nn.utils.rnn.pack_sequence(sequences))[0].data
        (states * push).sum().backward()
        results.append([states.detach(), x.grad, *(p.grad for p in cell.parameters())])
        cell.zero_grad()
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_the_layout_puts_every_word_in_its_step() -> None:
    lengths = [2, 5, 1, 5, 3]
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    place = layout(offsets)
    assert place.order.tolist() == [1, 3, 4, 0, 2]
    assert place.sizes == [5, 4, 3, 2, 2]
    assert sorted(place.rows.tolist()) == list(range(16))
    assert place.rows[:5].tolist() == offsets[:-1][place.order].tolist()
    assert place.rows[place.last].tolist() == (offsets[1:][place.order] - 1).tolist()
    assert place.backwards[place.backwards].tolist() == list(range(16))
    text_of = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))
    assert place.order[place.owner].tolist() == text_of[place.rows].tolist()
    mirrored = offsets[text_of[place.rows]] + offsets[text_of[place.rows] + 1] - 1 - place.rows
    assert place.rows[place.backwards].tolist() == mirrored.tolist()


def test_autocast_leaves_the_states_in_float32() -> None:
    model = tower().eval()
    batch = packed([[2, 3, 4], [5]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(batch), model(batch).float())
        found = model(batch)
    torch.testing.assert_close(found.float(), model(batch), atol=0.02, rtol=0.02)


# ---------------------------------------------------------------------- vectors


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("bidirectional", "dimension"), [(True, None), (False, None), (True, 3)])
def test_it_is_torchs_cell_over_the_words(
    cell: Cell, pooling: Pooling, bidirectional: bool, dimension: int | None
) -> None:
    model = tower(cell, pooling, dimension, bidirectional=bidirectional).eval()
    texts = [[2, 3, 4], [], [5], [1], [2, 1, 3, 4, 5], [0, 2, 0, 6, 0], [0], [4, 4]]
    if bidirectional or pooling != "last":
        expected = [by_hand(model, text) for text in texts]
        np.testing.assert_allclose(model(packed(texts)).detach().numpy(), expected, atol=1e-6)
    else:
        found = model(packed([[2, 3, 4]])).detach()
        last = model.cell(model.embedding.weight[[2, 3, 4]][:, None])[0][-1]
        torch.testing.assert_close(found, last)
    assert model.dimension == (dimension or 4 * (1 + bidirectional))


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(word_lists, min_size=1, max_size=6), data=st.data())
def test_padding_batch_and_order_never_change_a_vector(
    pooling: Pooling, texts: list[list[int]], data: st.DataObject
) -> None:
    model = tower("gru", pooling, 3).eval()
    alone = [model(packed([text])).detach().numpy()[0] for text in texts]
    order = data.draw(st.permutations(range(len(texts))))
    filled = [texts[at] + [0] * data.draw(st.integers(0, 4)) for at in order]
    together = model(packed(filled)).detach().numpy()
    np.testing.assert_allclose(together, [alone[at] for at in order], atol=1e-6)


def test_with_and_without_gradients_it_is_the_same() -> None:
    for cell in CELLS:
        model = tower(cell, "last").eval()
        batch = packed([[2, 3, 4], [5], [2, 2]])
        with torch.no_grad():
            plain = model(batch)
        torch.testing.assert_close(model(batch), plain, atol=1e-6, rtol=0)


def test_a_longer_text_beside_it_changes_nothing() -> None:
    """The fault of facts: a last state that is read after the padding follows the longest text of the batch."""
    model = tower("gru", "last").eval()
    short = model(packed([[2, 3]]))
    torch.testing.assert_close(model(packed([[2, 3], [4] * 200]))[:1], short, atol=1e-6, rtol=0)
    assert not torch.allclose(model(packed([[2, 3, 4]])), short)


def test_the_row_of_padding_never_moves_and_every_other_part_does() -> None:
    model = tower("lstm", "max", 3, bidirectional=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert {name.partition(".")[0] for name in before} == {"embedding", "cell", "projection"}
    for _ in range(3):
        optimiser.zero_grad()
        model(packed([[2, 0, 3, 1], [4], [0]])).square().sum().backward()
        optimiser.step()
    assert (model.embedding.weight[0] == 0).all()
    assert (model.embedding.weight[1] != before["embedding.weight"][1]).any()
    moved = [name for name, p in model.named_parameters() if (p != before[name]).any()]
    assert moved == list(before)


def test_a_batch_without_words_has_a_gradient_of_zero() -> None:
    model = tower()
    found = model(packed([[], [1], [0, 0]]))
    assert (found == 0).all()
    found.sum().backward()
    assert (model.embedding.weight.grad == 0).all()  # type: ignore[union-attr]


def test_a_batch_that_is_not_packed_is_refused() -> None:
    with pytest.raises(InputError, match="takes packed texts"):
        tower()({"input_ids": torch.zeros(1, 2)})


def test_dropout_works_while_training_alone() -> None:
    model = tower(dropout=0.5)
    batch = packed([[2, 3, 4, 5]])
    assert torch.equal(model.eval()(batch), model(batch))
    assert not torch.equal(model.train()(batch), model(batch))


def test_it_begins_able_to_remember() -> None:
    model = tower("lstm", hidden=4)
    recurrent = model.cell.weight_hh_l0.detach()
    for gate in torch.split(recurrent, 4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), atol=1e-5, rtol=0)
    forget = (model.cell.bias_ih_l0 + model.cell.bias_hh_l0).detach()
    assert forget.tolist() == [0] * 4 + [1] * 4 + [0] * 8


def test_word_vectors_begin_its_rows() -> None:
    words = WordVectors(("cat",), np.arange(6, dtype=np.float32)[None] - 2)
    rows = tower(init=words).embedding.weight.detach()
    assert rows[VOCABULARY.ids["cat"]].tolist() == [-2, -1, 0, 1, 2, 3]
    assert (rows[0] == 0).all()
    torch.testing.assert_close(rows[1], rows[2:].mean(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "qrnn"}, "cell 'qrnn' or pooling 'mean' is unknown"),
        ({"pooling": "first"}, "pooling 'first' is unknown"),
        ({"hidden": 0}, "at least 1"),
        ({"dimension": 0}, "at least 1"),
        ({"dropout": 1.0}, "below 1"),
        ({"metric": "cos"}, "no metric is called 'cos'"),
        ({"max_length": 0}, "max_length must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recurrent(VOCABULARY, **arguments)


# ---------------------------------------------------------------------- encoding


def test_encoding_is_the_forward_pass_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tower(dropout=0.5, max_length=20).train()
    monkeypatch.setattr(Recurrent, "budget", 8)
    vectors = model.encode(TEXTS, ids=list("abcdefg"))
    assert model.training
    made = model.tokenizer(TEXTS)
    bounds = np.concatenate([[0], np.cumsum(made.lengths)]).tolist()
    expected = [by_hand(model.eval(), made.ids[a:b].tolist()) for a, b in pairwise(bounds)]
    np.testing.assert_allclose(vectors.values, expected, atol=1e-6)
    assert (vectors.info["cut"], vectors.info["empty"]) == (["e"], ["c", "d"])


def test_the_fingerprint_follows_weights_and_settings() -> None:
    kinds = [tower(), tower("rnn"), tower(pooling="max"), tower(max_length=9), tower(metric="dot"), tower(layers=1)]
    assert len({model.fingerprint for model in kinds}) == len(kinds)
    model = tower().eval()
    first = model.fingerprint
    model.train()
    with torch.no_grad():
        model.cell.weight_hh_l0.add_(0.1)
    assert model.eval().fingerprint != first == tower().fingerprint


def test_the_store_and_the_cache_take_it(tmp_path: Path) -> None:
    model = tower().eval()
    items = [(f"t{at}", text) for at, text in enumerate(TEXTS)]
    stored = encode_to(model, items, tmp_path / "vectors", chunk=2)
    cached = VectorCache(tmp_path / "cache").vectors(model, items)
    np.testing.assert_allclose(stored.values, model.encode(TEXTS).values, atol=1e-6)
    np.testing.assert_allclose(cached.values, stored.values, atol=1e-6)


# --------------------------------------------------------------------- the folder


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dimension", [None, 3])
def test_sentence_transformers_gives_the_same_vectors(tmp_path: Path, cell: Cell, dimension: int | None) -> None:
    model = tower(cell, "last", dimension, max_length=20, metric="dot").eval()
    folder = model.save(tmp_path / "model")
    expected = model.encode(TEXTS).values
    for found in sentence_vectors(folder, TEXTS, trust_remote_code=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    loaded = Recurrent.load(folder)
    assert loaded.settings == model.settings
    assert loaded.fingerprint == model.fingerprint
    np.testing.assert_array_equal(loaded.encode(TEXTS).values, expected)
    assert "trust_remote_code=True" in (folder / "README.md").read_text()
    assert not list(folder.rglob("*.bin"))


def test_a_pair_of_different_kinds(tmp_path: Path) -> None:
    from lodesmith.encoders import Bag

    pair = TowerPair(Bag(VOCABULARY, 3).eval(), tower(dimension=3).eval())
    folder = pair.save(tmp_path / "model")
    _, queries, documents = sentence_vectors(folder, TEXTS, trust_remote_code=True)
    np.testing.assert_allclose(queries, pair.encode(TEXTS, "query").values, atol=1e-6)
    np.testing.assert_allclose(documents, pair.encode(TEXTS, "document").values, atol=1e-6)
    loaded = load_tower(folder)
    assert loaded.fingerprint == pair.fingerprint
    with pytest.raises(InputError, match="no recurrent tower for both sides"):
        Recurrent.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "recurrent.json", "tokenizer.json"])
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    folder = tower().save(tmp_path / "model")
    flip(folder / name)
    with pytest.raises(IntegrityError, match="the manifest says"):
        load_tower(folder)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tower().save(tmp_path / "model")
    with pytest.raises(IntegrityError, match="do not fit the settings"):
        Recurrent.read(tower(hidden=5).settings | {"use": "rnn"}, folder, "cosine")
