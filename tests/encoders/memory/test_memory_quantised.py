"""Memory models over a language model whose weights are 4 or 8 bits, by bitsandbytes on a CPU."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_models import QUESTIONS, SIZES, TEXTS, packed

import causal_models
from lodesmith.encoders import MemoryEncoder, MemoryTower
from lodesmith.recipes.doctoring import examine_model

pytest.importorskip("bitsandbytes", "0.50", reason="bitsandbytes has no wheel here: lodesmith[quantised]")
pytestmark = pytest.mark.usefixtures("cache")

BITS = ("8", "4")
NEAR = {"8": 0.998, "4": 0.8}
"""Cosine of memory to that of the weights before, at least. Weights at random are rounded worse than learned ones."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of width 128, which blocks of 64 weights divide, as it is and quantised."""
    return causal_models.quantised(tmp_path_factory.mktemp("quantised"))


def opened(folder: Path) -> MemoryEncoder:
    torch.manual_seed(1)
    return MemoryEncoder(folder, **{**SIZES, "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}})


@pytest.mark.parametrize("bits", BITS)
def test_memory_is_near_that_of_the_weights_before(folders: dict[str, Path], bits: str) -> None:
    wanted, own = (opened(folders[name]).encode(TEXTS).values for name in ("plain", bits))
    cosines = (wanted * own).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(own, axis=1)
    assert NEAR[bits] < cosines.min()
    assert cosines.max() < 1 - 1e-5  # they are other weights


@pytest.mark.parametrize("bits", BITS)
def test_neither_memory_nor_an_answer_depends_on_the_batch(folders: dict[str, Path], bits: str) -> None:
    """LLM.int8 takes the columns with a large value out of the 8 bits, those of the whole batch."""
    encoder, threads = opened(folders[bits]), torch.get_num_threads()
    alone = [encoder.encode([text]).values for text in TEXTS]
    torch.set_num_threads(2)
    try:
        together = encoder.encode(TEXTS * 40).values
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(together, np.concatenate(alone * 40), atol=2e-5)
    memory = [list(own.reshape(1, encoder.count, -1)) for own in alone]
    questions = [QUESTIONS[at % len(QUESTIONS)] for at in range(len(TEXTS))]
    answers = encoder.answer(questions, memory, max_new_tokens=6)
    each = [encoder.answer([q], [own], max_new_tokens=6)[0] for q, own in zip(questions, memory, strict=True)]
    assert answers == each


@pytest.mark.parametrize("bits", BITS)
def test_adapters_learn_on_it_and_are_saved(folders: dict[str, Path], bits: str, tmp_path: Path) -> None:
    encoder = opened(folders[bits])
    base = encoder.base_fingerprint
    tower = MemoryTower(encoder).train()
    optimizer = torch.optim.Adam([p for p in encoder.model.parameters() if p.requires_grad], lr=1e-2)
    texts, asked = packed([encoder.text_ids(text) for text in TEXTS]), [encoder.question_ids(q) for q in QUESTIONS]
    answers = packed([encoder.answer_ids(text) for text in ("red", "a bird", "two")][: len(asked)])
    of = torch.arange(len(asked))[:, None] % len(TEXTS)
    losses = []
    for _ in range(8):
        loss = tower.losses(tower.compress(texts).memory, of, packed(asked), answers).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert encoder.base_fingerprint == base
    encoder.eval()
    encoder.save(tmp_path / "saved")
    again = MemoryEncoder(tmp_path / "saved")
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode(TEXTS).values, encoder.encode(TEXTS).values)


@pytest.mark.parametrize("bits", BITS)
def test_the_doctor_says_that_it_loads(folders: dict[str, Path], bits: str) -> None:
    found = examine_model(str(folders[bits])).found
    assert found.healthy
    assert found.facts["quantisation"] == "bitsandbytes"


def test_it_does_not_warn_at_every_product(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        opened(folders["8"]).encode(TEXTS)
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]


def test_8_bit_weights_are_in_place_before_threads_read_them(folders: dict[str, Path]) -> None:
    """bitsandbytes moves them at the first product; two at once would quantise what is quantised."""
    layers = [layer for layer in opened(folders["8"]).model.modules() if hasattr(layer, "init_8bit_state")]
    assert len(layers) > 4
    assert all(layer.weight.CB is None and layer.state.CB is not None for layer in layers)
