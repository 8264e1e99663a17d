"""A text depends on its prompt alone where a model's weights are 4 or 8 bits, by bitsandbytes on a CPU."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import causal_models
from lodesmith.core.protocols import Generated
from lodesmith.generators.hf import CausalLM

pytest.importorskip("bitsandbytes", "0.50", reason="bitsandbytes has no wheel here: lodesmith[quantised]")

BITS = ("8", "4")
DRAW = random.Random(0)
PROMPTS = [" ".join(DRAW.choices(causal_models.WORDS, k=1 + DRAW.randrange(24))) for _ in range(60)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return causal_models.quantised(tmp_path_factory.mktemp("quantised"))


@pytest.fixture
def told() -> Iterator[logging.Logger]:
    """The logger of bitsandbytes as it is where nobody has set it."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.NOTSET)
    yield logger
    logger.setLevel(before)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_text_does_not_depend_on_the_batch(folders: dict[str, Path], bits: str, temperature: float) -> None:
    """LLM.int8 takes the columns with a large value out of the 8 bits, those of the whole batch."""
    model = CausalLM(folders[bits], temperature=temperature, top_p=0.9, seed=3)
    together = model.generate(PROMPTS, max_new_tokens=12)
    assert together == [model.generate([prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    assert len(set(map(str, together))) > 20


@pytest.mark.parametrize(("bits", "batches"), [("8", 4), ("4", 1)])
def test_only_weights_of_8_bits_get_a_prompt_at_a_time(
    folders: dict[str, Path], bits: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CausalLM(folders[bits], temperature=1.0)
    rows: list[int] = []

    def spy(_: CausalLM, tokens: Any, *__: Any) -> list[Generated]:
        rows.append(len(tokens))
        return [Generated("")] * len(tokens)

    monkeypatch.setattr(CausalLM, "_batch", spy)
    for one in (model, model.greedy()):  # the greedy one verifies
        rows.clear()
        one.generate(PROMPTS[:4], max_new_tokens=2)
        assert rows == [4 // batches] * batches
    assert model.batch_tokens == 8192


def test_it_does_not_warn_at_every_product(
    folders: dict[str, Path], told: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        CausalLM(folders["8"]).generate(PROMPTS[:2], max_new_tokens=2)
    assert not [record for record in caplog.records if record.name.startswith(told.name)]


def test_who_wants_to_hear_bitsandbytes_hears_it(
    folders: dict[str, Path], told: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    told.setLevel(logging.WARNING)
    CausalLM(folders["8"]).generate(PROMPTS[:1], max_new_tokens=1)
    assert "inputs will be cast" in caplog.text


def test_8_bit_weights_are_in_place_before_the_first_product(folders: dict[str, Path]) -> None:
    layers = [layer for layer in CausalLM(folders["8"])._loaded[0].modules() if hasattr(layer, "init_8bit_state")]
    assert len(layers) > 4
    assert all(layer.weight.CB is None and layer.state.CB is not None for layer in layers)


def test_4_bit_weights_are_not_packed_anew(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some CPUs would take other kernels, with other sums."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    layers = [
        layer for layer in CausalLM(folders["4"])._loaded[0].modules() if hasattr(layer, "support_avx512bf16_for_cpu")
    ]
    assert len(layers) > 4
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
