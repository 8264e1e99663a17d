"""Packed attention with dropout: values and gradients are those of attention written out, with the same mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from lodesmith.encoders import _packed_training
from lodesmith.encoders._dropout import kept
from lodesmith.encoders._finetuning import PackedEncoder
from lodesmith.encoders._packed_training import dropped_attention
from lodesmith.encoders._packing import packed_attention
from lodesmith.encoders.projected import IsotropicGaussianEncoder
from lodesmith.encoders.transformer import TransformerEncoder

LENGTHS = [1, 3, 3, 5, 5, 5, 9]
RUNS = [(0, 1, 1), (1, 2, 3), (7, 3, 5), (22, 1, 9)]
HEADS, WIDTH, SCALE = 4, 9, 0.3
"""Width: as many components as the longest text has tokens, so that values can be an identity."""


@pytest.fixture
def states() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    made = torch.randn(3, 31, HEADS, WIDTH).unbind()
    return tuple(each.clone().requires_grad_() for each in made)  # type: ignore[return-value]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def attention(states: tuple[Tensor, ...], share: float, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return dropped_attention((states[0], states[1], states[2]), RUNS, SCALE, share)


def factors(share: float, seed: int = 0) -> Tensor:
    """[tokens, heads, 9]: 0 where a weight is dropped, else 1 / share kept, found out with even weights."""
    zeros = torch.zeros(31, HEADS, WIDTH)
    values = torch.cat([torch.eye(WIDTH)[:length] for length in LENGTHS])[:, None].expand(-1, HEADS, -1)
    return torch.cat(
        [
            part * length
            for part, length in zip(attention((zeros, zeros, values), share, seed).split(LENGTHS), LENGTHS, strict=True)
        ]
    )


def written_out(states: tuple[Tensor, ...], factor: Tensor) -> Tensor:
    done, start = [], 0
    for length in LENGTHS:
        q, k, v = (each[start : start + length].transpose(0, 1) for each in states)
        weights = torch.softmax(q @ k.transpose(1, 2) * SCALE, -1)
        weights = weights * factor[start : start + length, :, :length].transpose(0, 1)
        done.append((weights @ v).transpose(0, 1))
        start += length
    return torch.cat(done)


@pytest.mark.parametrize("scores", [1, 100, 1 << 20], ids=["a text at a time", "some", "all of a length"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_values_and_gradients_with_the_same_mask(
    states: tuple[Tensor, ...], share: float, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_packed_training, "_SCORES", scores)
    factor = factors(share)
    found, expected = attention(states, share), written_out(states, factor)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    towards = torch.randn(found.shape)
    for a, b in zip(*(torch.autograd.grad((out * towards).sum(), states) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_as_many_weights_are_dropped_as_asked_for() -> None:
    length, heads, texts, share = 60, 4, 8, 0.1
    zeros = torch.zeros(texts * length, heads, length)
    values = torch.eye(length).repeat(texts, 1)[:, None].expand(-1, heads, -1)
    torch.manual_seed(0)
    weights = dropped_attention((zeros, zeros, values), [(0, texts, length)], 1.0, share) * length
    count = weights.numel()
    assert abs(float((weights == 0).double().mean()) - share) < 2**-15 + 5 * (share * (1 - share) / count) ** 0.5
    assert weights.unique().tolist() == pytest.approx([0, 1 / kept(share)])
    tables = (weights.view(texts, length, heads, length) == 0).transpose(1, 2).flatten(0, 1)
    assert len(tables.flatten(1).unique(dim=0)) == texts * heads  # each head of each text by itself


def test_torch_s_random_state_says_what_is_dropped() -> None:
    assert torch.equal(factors(0.5, seed=1), factors(0.5, seed=1))
    assert not torch.equal(factors(0.5, seed=1), factors(0.5, seed=2))


@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing(states: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packed_training, "_SCORES", 1)
    found = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        out = attention(states, 0.3)
        found.append([out, *torch.autograd.grad(out.square().sum(), states)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_it_is_taken_in_training_alone(states: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(
        "lodesmith.encoders._packing.dropped_attention", lambda given, *runs: taken.extend([1]) or given[2].clone()
    )
    given: Any = [each.transpose(0, 1)[None] for each in states]
    bounds = torch.tensor([0, 1, 4, 7, 12, 17, 22, 31], dtype=torch.int32)
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "causal": {"is_causal": True},
        "window": {"sliding_window": 4},
        "wide": {"sliding_window": 9},
    }
    layer = torch.nn.Module()
    found = {}
    for name, settings in cases.items():
        taken.clear()
        options: dict[str, Any] = {"is_causal": False, "dropout": 0.1, "cu_seq_lens_q": bounds, **settings}
        packed_attention(layer, *given, **options)
        found[name] = len(taken)
        with torch.no_grad():
            packed_attention(layer, *given, **options)
        packed_attention(layer, *(each.bfloat16() for each in given), **options)
        packed_attention(layer, *given, **(options | {"dropout": 0.0}))
        assert len(taken) == found[name]
    assert found == {"plain": 1, "causal": 0, "window": 0, "wide": 1}


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_gradients_are_those_of_the_model_of_the_library(tiny: Callable[..., Path], kind: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder, texts = tiny(kind), tiny_models.TEXTS[1:]
    base = TransformerEncoder(folder, precision="float32")
    encoder = IsotropicGaussianEncoder(None, base, False, kind="linear", base_dropout=1e-9).train()  # drops nothing
    ids = [torch.from_numpy(each).long() for each in base.reader.read(texts, "document").ids]
    offsets = torch.tensor([0, *(len(each) for each in ids)]).cumsum(0)
    vectors = PackedEncoder(encoder)({"ids": torch.cat(ids), "offsets": offsets})
    library = SentenceTransformer(str(folder), device="cpu").eval()
    expected = encoder.projection(library(library.preprocess(texts))["sentence_embedding"])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)
    towards = torch.randn(vectors.shape)
    (vectors * towards).sum().backward()
    (expected * towards).sum().backward()
    theirs = dict(library.named_parameters())
    compared = [(p.grad, theirs[name].grad) for name, p in base.model.named_parameters() if p.grad is not None]
    assert len(compared) > 10
    largest = max(float(a.abs().max()) for a, _ in compared)  # that of a key's bias is 0 but for rounding
    for a, b in compared:
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6 * largest)


def test_no_more_scores_are_made_at_a_time_than_fit(
    states: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []
    monkeypatch.setattr(_packed_training, "_SCORES", 100)
    monkeypatch.setattr(_packed_training, "seeds", lambda count: blocks.append(count) or [1] * count)
    attention(states, 0.1)
    assert blocks == [6]  # of four heads: one text of 9 or 5 tokens, two of 3


def test_texts_of_one_length_drop_different_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packed_training, "_SCORES", 1)  # a block each
    first, second, _ = factors(0.5)[7:22].split(5)
    assert not torch.equal(first, second)
