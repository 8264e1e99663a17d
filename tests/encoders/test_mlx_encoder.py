"""Memory and answers from texts by MLX: what torch gives, and over language models that mlx-lm has quantised."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import causal_models

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, MissingExtraError  # noqa: E402 - as above
from lodesmith.encoders import MemoryEncoder, MLXMemoryEncoder  # noqa: E402
from memory_runs import stirred  # noqa: E402

pytestmark = pytest.mark.usefixtures("cache")
SIZES: dict[str, Any] = {"rate": 8, "document_length": 32}
TEXTS = ["the cat eats apples", "", "a dog likes music and the moon . " * 6, "owl", "the whale fears thunder"]
QUESTIONS = ["what does the cat eats ?", "who likes music and the moon in the barn ?", "owl"]


@pytest.fixture(scope="module", params=["plain", "chat"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    chat = causal_models.CHAT if request.param == "chat" else None
    return causal_models.build(tmp_path_factory.mktemp("causal") / "base", "llama", bos=True, chat=chat)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A language model that mlx-lm has quantised."""
    return causal_models.by_mlx(causal_models.build(tmp_path / "packed", "qwen2", bos=True))


def parts(memory: Any, encoder: Any) -> Any:
    """Vectors as [n, t, H]."""
    return memory.values.reshape(len(memory), encoder.count, encoder.dimension)


@pytest.fixture
def both(base: Path, tmp_path: Path) -> tuple[MemoryEncoder, MLXMemoryEncoder]:
    torch.manual_seed(0)
    encoder = stirred(MemoryEncoder(base, lora={"dropout": 0.0}, **SIZES), 0)
    return encoder, MLXMemoryEncoder(encoder.save(tmp_path / "saved"), batch_tokens=64)


def test_it_gives_what_torch_gives(both: tuple[MemoryEncoder, MLXMemoryEncoder]) -> None:
    encoder, ours = both
    assert (ours.count, ours.dimension, ours.settings) == (encoder.count, encoder.dimension, encoder.settings)
    for side in ("document", "query"):
        expected, found = encoder.encode(TEXTS, side, list("abcde")), ours.encode(TEXTS, side, list("abcde"))
        np.testing.assert_allclose(found.values, expected.values, atol=1e-4, rtol=0)
        assert found.ids == expected.ids
        assert found.info.keys() == expected.info.keys()
        for name in ("truncated", "cut", "tokens", "metric", "side"):
            assert found.info[name] == expected.info[name]
    memory = parts(expected, encoder)
    for documents in ([[memory[0], memory[2]], [TEXTS[2], memory[3]], []], [[TEXTS[0]], [TEXTS[2]] * 2, [TEXTS[4]]]):
        for how in ({}, {"adapter": None, "max_new_tokens": 5}, {"text_tokens": 2}):
            expected_texts = encoder.answer(QUESTIONS, documents, **how)
            found_texts = ours.answer(QUESTIONS, documents, **how)
            assert found_texts == expected_texts
            assert [own.finished for own in found_texts] == [own.finished for own in expected_texts]


def test_its_fingerprint_is_of_its_weights_and_settings(both: tuple[MemoryEncoder, MLXMemoryEncoder]) -> None:
    encoder, ours = both
    first = ours.fingerprint
    assert first != encoder.fingerprint
    assert ours.encode(TEXTS[:1]).info["model"] == first
    again = MLXMemoryEncoder(ours.source)
    assert again.fingerprint == first
    assert MLXMemoryEncoder(ours.source, precision="bfloat16").fingerprint != first
    again.model.parameters["decoder"] |= {n: w + 1 for n, w in again.model.parameters["decoder"].items()}
    assert again.fingerprint != first


def test_dropout_is_for_training_alone(base: Path) -> None:
    model = MLXMemoryEncoder(base, **SIZES)
    model.model.parameters["encoder"] = {n: mx.ones_like(w) for n, w in model.model.parameters["encoder"].items()}
    still = model.encode(TEXTS).values
    model.model.training = True
    np.testing.assert_array_equal(model.encode(TEXTS).values, still)
    assert model.model.training


def test_a_quantised_model_is_read_and_saved(packed: Path, tmp_path: Path) -> None:
    model = MLXMemoryEncoder(packed, **SIZES)
    assert model.model.language_model.quantised
    memory = parts(model.encode(TEXTS), model)
    assert memory.shape == (5, 4, 32)
    asked: Any = (QUESTIONS, [[own] for own in memory[:3]])
    answers = model.answer(*asked)
    assert all(isinstance(own, str) for own in answers)
    model.save(tmp_path / "saved")
    again = MLXMemoryEncoder(tmp_path / "saved")
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(parts(again.encode(TEXTS), again), memory)
    assert again.answer(*asked) == answers
    for folder in (packed, tmp_path / "saved"):
        with pytest.raises(InputError, match=r"quantised by mlx-lm(.|\n)*MLXMemoryEncoder"):
            MemoryEncoder(folder)


def test_the_lines_of_the_documentation_run(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "recipes" / "clara.md"
    section = page.read_text(encoding="utf-8").partition("\n## MLX\n")[2]
    shown = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(shown) == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shown.py").write_text(shown[0].replace("FOLDER", str(packed)), encoding="utf-8")
    runpy.run_path(str(tmp_path / "shown.py"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("[") for line in lines)
    assert MLXMemoryEncoder("SAVED").settings.document_length == 128


def test_what_cannot_be(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16"):
        MLXMemoryEncoder(base, precision="float16", **SIZES)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_tokens 0"):
        MLXMemoryEncoder(base, batch_tokens=0, **SIZES)
    with pytest.raises(ConfigError, match="with 16 memory tokens and 3 others is more than the 256"):
        MLXMemoryEncoder(base)
    with pytest.raises(InputError, match="only for llama and qwen2"):
        MLXMemoryEncoder(causal_models.build(tmp_path / "gpt2", "gpt2"), **SIZES)
    model = MLXMemoryEncoder(base, **SIZES)
    for documents, how, said in (
        ([[]], {"adapter": "coder"}, "'coder'"),
        ([[]], {"max_new_tokens": 0}, "max_new_tokens 0"),
        ([[], []], {}, "not the same number: 1 != 2"),
        ([[np.zeros((3, 32))]], {}, r"\[3, 32\], and memory of this model \[4, 32\]"),
        ([["the moon . " * 40] * 3], {"text_tokens": 100}, "more than the model's 256"),
    ):
        with pytest.raises((ConfigError, InputError), match=said):
            model.answer(["who ?"], documents, **how)
    kept = model.save(tmp_path / "kept")
    with pytest.raises(ConfigError, match="made with rate 8, not 4"):
        MLXMemoryEncoder(kept, rate=4)
    file = next((kept / "base").glob("tokenizer.json"))
    file.write_text(file.read_text() + " ")
    with pytest.raises(IntegrityError, match="SHA-256"):
        MLXMemoryEncoder(kept)
    wordless = shutil.copytree(base, tmp_path / "wordless", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match="no tokenizer"):
        MLXMemoryEncoder(wordless, **SIZES)


def test_without_mlx_the_extra_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_mlx_memory", "_mlx_language", "_mlx_folder"):
        monkeypatch.delitem(sys.modules, f"lodesmith.encoders.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(MissingExtraError, match=r"lodesmith\[mlx\]"):
        MLXMemoryEncoder(base, **SIZES)
