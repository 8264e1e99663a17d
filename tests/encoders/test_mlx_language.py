"""Language models in MLX: what transformers computes in torch, from the same files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_models import by_mlx as quantise

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")

from lodesmith.core.errors import InputError  # noqa: E402 - skipped above where mlx is not there
from lodesmith.encoders._mlx_language import Cache, MLXLanguageModel, padded  # noqa: E402

SHAPE: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama, heads of their own": ("llama", {"num_key_value_heads": 4}),
    "llama3": ("llama", {"rope_parameters": LLAMA3 | {"rope_theta": 500.0, "original_max_position_embeddings": 16}}),
    "qwen2": ("qwen2", {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, linear": ("qwen2", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
}
LENGTHS = (9, 1, 14, 5)


def build(folder: Path, kind: str = "llama", seed: int = 0, **more: Any) -> Any:
    """A random model, biases and norms too, written as a folder."""
    import transformers as t

    torch.manual_seed(seed)
    made: Any = {"llama": t.LlamaConfig, "qwen2": t.Qwen2Config}[kind](**SHAPE | more)
    model: Any = {"llama": t.LlamaForCausalLM, "qwen2": t.Qwen2ForCausalLM}[kind](made).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(weight.shape) * 0.3)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(tmp_path / "model")
    return tmp_path / "model"


def rows(seed: int = 1) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, SHAPE["vocab_size"], length) for length in LENGTHS]


def logits(model: MLXLanguageModel, ids: list[Any], *, left: bool) -> list[Any]:
    inputs, mask = padded([model.embed(mx.array(own)) for own in ids], left=left)
    found = np.array(model.logits(model.states(inputs, mask)))
    assert np.isfinite(found).all()
    return [own[np.array(here)] for own, here in zip(found, mask, strict=True)]


def edited(folder: Path, **changes: Any) -> None:
    told = json.loads((folder / "config.json").read_text())
    told = {name: value for name, value in (told | changes).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(told))


# -------------------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_torch(name: str, left: bool, tmp_path: Path) -> None:
    kind, more = MODELS[name]
    theirs = build(tmp_path / "model", kind, **more)
    ours = MLXLanguageModel.load(tmp_path / "model")
    assert ("lm_head" in ours.maps) != bool(more.get("tie_word_embeddings"))
    for ids, found in zip(rows(), logits(ours, rows(), left=left), strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(found, theirs(torch.from_numpy(ids)[None]).logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_batch_with_padding_is_as_that_of_torch(name: str, tmp_path: Path) -> None:
    theirs = build(tmp_path / "model", name)
    ours = MLXLanguageModel.load(tmp_path / "model")
    ids, width = rows(), max(LENGTHS)
    for left in (False, True):
        sides = [(width - len(own), 0) if left else (0, width - len(own)) for own in ids]
        batch = torch.from_numpy(np.stack([np.pad(own, side) for own, side in zip(ids, sides, strict=True)]))
        mask = torch.from_numpy(np.stack([np.pad(np.ones_like(own), s) for own, s in zip(ids, sides, strict=True)]))
        with torch.no_grad():
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            expected = theirs(batch, attention_mask=mask, position_ids=positions).logits
        for own, here, found in zip(expected, mask.bool(), logits(ours, ids, left=left), strict=True):
            np.testing.assert_allclose(found, own[here], atol=1e-4, rtol=0)


def test_a_cache_changes_nothing(folder: Path) -> None:
    model, ids = MLXLanguageModel.load(folder), rows()
    inputs, mask = padded([model.embed(mx.array(own)) for own in ids], left=True)
    whole, cache = model.states(inputs, mask), Cache()
    parts = [model.states(inputs[:, a:b], mask[:, a:b], cache=cache) for a, b in ((0, 6), (6, 7), (7, 13), (13, 14))]
    assert cache.length == 14
    here = np.array(mask)
    np.testing.assert_allclose(np.array(mx.concatenate(parts, 1))[here], np.array(whole)[here], atol=1e-5)


def test_bfloat16_is_near(folder: Path) -> None:
    rounded = MLXLanguageModel.load(folder, "bfloat16")
    assert rounded.dtype == mx.bfloat16
    inputs, mask = padded([rounded.embed(mx.array(own)) for own in rows()], left=False)
    found = rounded.logits(rounded.states(inputs, mask))
    assert found.dtype == mx.bfloat16
    whole = logits(MLXLanguageModel.load(folder), rows(), left=False)
    cut = [np.array(own.astype(mx.float32))[: len(ids)] for own, ids in zip(found, rows(), strict=True)]
    assert np.corrcoef(np.concatenate(cut).ravel(), np.concatenate(whole).ravel())[0, 1] > 0.999


# ------------------------------------------------------------------------------------------------------------ quantised


def unpacked(folder: Path, name: str, bits: int) -> Tensor:
    """The numbers of a quantised map, by hand: integers packed from the lowest bits on, each · scale + offset."""
    state = {part: np.array(own.astype(mx.float32) if own.dtype != mx.uint32 else own) for part, own in tensors(folder)}
    packed, scales, offsets = (state[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
    numbers = packed[..., None] >> np.arange(0, 32, bits, dtype=np.uint32) & np.uint32(2**bits - 1)
    groups = numbers.reshape(*scales.shape, -1) * scales[..., None] + offsets[..., None]
    return torch.from_numpy(groups.reshape(len(packed), -1).astype(np.float32))


def tensors(folder: Path) -> Any:
    return mx.load(str(folder / "model.safetensors")).items()


@pytest.mark.parametrize(("kind", "tied", "bits"), [("llama", False, 4), ("qwen2", True, 4), ("llama", True, 8)])
def test_a_quantised_model_is_as_its_numbers(kind: str, tied: bool, bits: int, tmp_path: Path) -> None:
    """In torch, and dequantised in MLX."""
    theirs = build(tmp_path / "model", kind, tie_word_embeddings=tied)
    quantise(tmp_path / "model", bits=bits)
    model = MLXLanguageModel.load(tmp_path / "model")
    assert model.quantised
    assert all(own.scales is not None for own in model.maps.values())
    plain = model.dense()
    assert not plain.quantised
    with torch.no_grad():
        for name in model.maps:
            theirs.get_submodule(name).weight.copy_(unpacked(tmp_path / "model", name, bits))
    for left in (False, True):
        both = zip(rows(), logits(model, rows(), left=left), logits(plain, rows(), left=left), strict=True)
        for ids, found, expected in both:
            np.testing.assert_allclose(found, expected, atol=1e-2, rtol=0)
            with torch.no_grad():
                np.testing.assert_allclose(found, theirs(torch.from_numpy(ids)[None]).logits[0], atol=1e-2, rtol=0)


def test_maps_are_quantised_each_in_its_way(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build(folder, "qwen2")
    own = {"model.layers.0.mlp.up_proj": {"bits": 8, "group_size": 32}, "lm_head": False}
    quantise(folder, own=own)
    model = MLXLanguageModel.load(folder)
    assert (model.maps["model.layers.0.mlp.up_proj"].bits, model.maps["model.layers.1.mlp.up_proj"].bits) == (8, 4)
    assert model.maps["lm_head"].scales is None
    for found, expected in zip(logits(model, rows(), left=True), logits(model.dense(), rows(), left=True), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-2, rtol=0)
    edited(folder, quantization={"group_size": 32})
    with pytest.raises(InputError, match="does not say how"):
        MLXLanguageModel.load(folder)
    edited(folder, quantization=..., quantization_config={"quant_method": "gptq"})
    with pytest.raises(InputError, match="the quantisation 'gptq'"):
        MLXLanguageModel.load(folder)
    edited(folder, quantization={"group_size": 32, "bits": 4, "mode": "mxfp4"})
    with pytest.raises(InputError, match="mxfp4"):
        MLXLanguageModel.load(folder)


# --------------------------------------------------------------------------------------------------------------- files


def test_every_tensor_has_its_place(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = dict(mx.load(str(file)))
    mx.eval(state)
    first = "model.layers.1.mlp.down_proj.weight"
    for damaged, said in (
        ({name: own for name, own in state.items() if name != first}, f"{first} is missing"),
        (state | {"model.more": mx.zeros(3)}, "model.more has no place"),
        (state | {"model.layers.0.self_attn.q_proj.bias": mx.zeros(32)}, "q_proj.bias has no place"),
        (state | {first: state[first][:-1]}, r"down_proj.weight has the shape \[31, 64\], not \[32, 64\]"),
        ({name: own for name, own in state.items() if name != "model.norm.weight"}, "model.norm.weight is missing"),
        ({name: own for name, own in state.items() if name != "lm_head.weight"}, "lm_head.weight is missing"),
    ):
        mx.save_safetensors(str(file), damaged)
        with pytest.raises(InputError, match=said):
            MLXLanguageModel.load(folder)
    mx.save_safetensors(str(file), state | {"model.layers.0.self_attn.rotary_emb.inv_freq": mx.zeros(4)})
    MLXLanguageModel.load(folder)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cannot be read|do not fit"):
        MLXLanguageModel.load(folder)
    file.unlink()
    with pytest.raises(InputError, match="no weights as safetensors"):
        MLXLanguageModel.load(folder)


def test_what_a_folder_does_not_say_of_its_head(tmp_path: Path) -> None:
    for tied in (False, True):
        folder = tmp_path / str(tied)
        build(folder, tie_word_embeddings=tied)
        edited(folder, tie_word_embeddings=...)
        assert ("lm_head" in MLXLanguageModel.load(folder).maps) != tied
    edited(tmp_path / "False", tie_word_embeddings=True)
    with pytest.raises(InputError, match="the head too, and the files have another"):
        MLXLanguageModel.load(tmp_path / "False")
    file = tmp_path / "True" / "model.safetensors"
    state = dict(mx.load(str(file)))
    mx.eval(state)
    mx.save_safetensors(str(file), state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    edited(tmp_path / "True", tie_word_embeddings=True)
    assert "lm_head" not in MLXLanguageModel.load(tmp_path / "True").maps


def test_files_that_an_index_names(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = build(folder)
    expected = logits(MLXLanguageModel.load(folder), rows(), left=False)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists()
    for found, own in zip(logits(MLXLanguageModel.load(folder), rows(), left=False), expected, strict=True):
        np.testing.assert_array_equal(found, own)
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    first = "model.norm.weight"
    index.write_text(json.dumps({"weight_map": {k: v for k, v in told["weight_map"].items() if k != first}}))
    with pytest.raises(InputError, match="is not where the index has it"):
        MLXLanguageModel.load(folder)
    index.write_text(json.dumps({"weight_map": told["weight_map"] | {"more": told["weight_map"][first]}}))
    with pytest.raises(InputError, match="the tensor more is missing"):
        MLXLanguageModel.load(folder)


def test_an_older_spelling_of_the_rotary_embedding(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build(folder, "llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3})
    expected = logits(MLXLanguageModel.load(folder), rows(), left=False)
    edited(folder, rope_parameters=..., rope_theta=5e3, rope_scaling={"type": "linear", "factor": 2.0})
    for found, own in zip(logits(MLXLanguageModel.load(folder), rows(), left=False), expected, strict=True):
        np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "models of the type 'gpt2', only for llama and qwen2"),
        ({"auto_map": {"AutoModel": "own.Model"}}, "code of its own"),
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
        ({"use_sliding_window": True}, "sliding attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding attention"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "the rotary embedding 'yarn'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "a part of each head"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "does not say what the model is"),
        ({"hidden_size": ...}, "does not say what the model is"),
        ({"num_key_value_heads": 3}, "4 heads of 8 share 3"),
    ],
)
def test_what_is_not_built_here(folder: Path, changes: dict[str, Any], said: str) -> None:
    edited(folder, **changes)
    with pytest.raises(InputError, match=said):
        MLXLanguageModel.load(folder)


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter"):
        MLXLanguageModel.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such file"):
        MLXLanguageModel.load(folder)


@pytest.mark.parametrize("name", ["folder", "language", "memory", "module"])
def test_without_mlx_it_says_what_to_install(name: str) -> None:
    code = f"import sys; sys.modules['mlx'] = None; import lodesmith.encoders._mlx_{name}"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: mlx is not installed\npip install 'lodesmith[mlx]'" in made.stderr
