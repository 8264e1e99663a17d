"""Memory models on disk: what is loaded is what was saved, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_models import QUESTIONS, SIZES, TEXTS, memory, plain, stir

import causal_models
from lodesmith.core.errors import ConfigError, InputError, IntegrityError, NotFiniteError
from lodesmith.core.files import read_object, sha256_file, write_json
from lodesmith.encoders import MemoryEncoder, TransformerEncoder
from lodesmith.encoders._memory_model import ADAPTERS
from lodesmith.recipes.systems import load_encoder

pytestmark = pytest.mark.usefixtures("cache")

# ---------------------------------------------------------------------------------------------------------- folders


def test_what_is_loaded_is_what_was_saved(encoder: MemoryEncoder, saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "moved")
    found = MemoryEncoder(tmp_path / "moved")
    assert found.fingerprint == encoder.fingerprint
    assert found.settings == encoder.settings
    for side in ("document", "query"):
        np.testing.assert_array_equal(found.encode(TEXTS, side).values, encoder.encode(TEXTS, side).values)  # type: ignore[arg-type]
    states = memory(encoder, TEXTS)
    assert found.answer(QUESTIONS[:1], [[states[0]]]) == encoder.answer(QUESTIONS[:1], [[states[0]]])
    again = found.save(tmp_path / "again")
    assert read_object(again / "memory.json") == read_object(tmp_path / "moved" / "memory.json")
    assert MemoryEncoder(again, rate=8, lora={"rank": 16}).fingerprint == encoder.fingerprint
    for name, value in (("rate", 16), ("document_length", 33), ("lora", {"rank": 8}), ("separator", " ")):
        given: dict[str, Any] = {name: value}
        with pytest.raises(ConfigError, match=f"made with {name}"):
            MemoryEncoder(again, **given)


def test_a_large_language_model_is_kept_by_name(
    encoder: MemoryEncoder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    monkeypatch.setattr("lodesmith.encoders._memory_folder._LARGEST", 10)
    saved = stir(MemoryEncoder(base, **SIZES)).save(tmp_path / "named")
    assert not (saved / "base").exists()
    assert read_object(saved / "memory.json")["base"]["name"] == str(base)
    assert MemoryEncoder(saved).save(tmp_path / "again")
    assert read_object(tmp_path / "again" / "memory.json") == read_object(saved / "memory.json")
    causal_models.build(base, "llama", bos=True, seed=1)
    with pytest.raises(IntegrityError, match=r"model\.safetensors is another now"):
        MemoryEncoder(saved)
    shutil.rmtree(base)
    with pytest.raises(InputError, match="no such model folder"):
        MemoryEncoder(saved)


def signed(folder: Path) -> None:
    """As if the files had been written so."""
    told = read_object(folder / "memory.json")
    told["files"] = {name: sha256_file(folder / name) for name in told["files"]}
    write_json(folder / "memory.json", told)


def test_a_changed_file_is_refused(saved: Path) -> None:
    for name in ("adapters/decoder/adapter_model.safetensors", "base/config.json", "memory.safetensors"):
        file = saved / name
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(IntegrityError, match="SHA-256"):
            MemoryEncoder(saved)
        file.unlink()
        with pytest.raises(IntegrityError, match="missing"):
            MemoryEncoder(saved)
        file.write_bytes(before)
    extra = saved / "base" / "adapter_config.json"
    extra.write_text("{}")
    with pytest.raises(IntegrityError, match="no file of this model"):
        MemoryEncoder(saved)
    extra.unlink()
    for damage in (
        {"format": 2},
        {"format": 4},
        {"settings": {"pace": 1}},
        {"settings": {"rate": 0}},
        {"base": None},
        {"files": 3},
    ):
        told = read_object(saved / "memory.json")
        write_json(saved / "memory.json", told | damage)
        with pytest.raises(IntegrityError):
            MemoryEncoder(saved)
        write_json(saved / "memory.json", told)
    MemoryEncoder(saved)


@pytest.mark.parametrize("which", ["adapters/query_reasoner/adapter_model.safetensors", "memory.safetensors"])
def test_every_tensor_is_there_with_its_shape(saved: Path, which: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(saved / which)
    first = sorted(state)[0]
    missing = {name: tensor for name, tensor in state.items() if name != first}
    for damaged, said in (
        (missing, f"{first} is missing"),
        (state | {"more": state[first].clone()}, "more has no place in the model"),
        (state | {first: state[first][:-1].contiguous()}, r"has the shape \["),
    ):
        save_file(damaged, saved / which)
        signed(saved)
        with pytest.raises(IntegrityError, match=said):
            MemoryEncoder(saved)
    save_file(state | {first: state[first] * float("nan")}, saved / which)
    signed(saved)
    with pytest.raises(NotFiniteError, match=f"the weight {first} is NaN or infinite"):
        MemoryEncoder(saved)
    (saved / which).write_bytes(b"no tensors")
    signed(saved)
    with pytest.raises(IntegrityError, match="damaged"):
        MemoryEncoder(saved)


def test_an_adapter_is_a_folder_of_peft(encoder: MemoryEncoder, saved: Path) -> None:
    from peft import PeftModel

    ids = encoder.text_ids("the cat eats apples")[None]
    with torch.no_grad():
        for name in ADAPTERS:
            adapted: Any = encoder.model.language_model
            with encoder.model.using(name):
                expected = adapted(ids).logits
            with pytest.warns(FutureWarning, match="checkpointing"):
                found: Any = PeftModel.from_pretrained(plain(saved / "base"), str(saved / "adapters" / name))
            torch.testing.assert_close(found.eval()(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_every_setting_is_in_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    def made(**settings: Any) -> str:
        torch.manual_seed(0)
        return MemoryEncoder(settings.pop("base", folder), **{**SIZES, **settings}).fingerprint

    other = causal_models.build(tmp_path / "other", "llama", bos=False)
    swapped = causal_models.build(tmp_path / "swapped", "llama", words=causal_models.WORDS[::-1], bos=True)
    seen = {
        made(),
        made(rate=7),
        made(document_length=39),
        made(lora={"alpha": 16}),
        made(prompt="{documents} {question}"),
        made(separator=" "),
        made(base=other),
        made(base=swapped),
    }
    assert len(seen) == 8
    assert made() in seen
    encoder = MemoryEncoder(folder, **SIZES)
    before, base = encoder.fingerprint, encoder.base_fingerprint
    stir(encoder, "decoder")
    assert encoder.fingerprint != before
    assert encoder.base_fingerprint == base
    with torch.no_grad():
        encoder.model.language_model.get_input_embeddings().weight[3] += 1
    assert encoder.base_fingerprint != base


# ---------------------------------------------------------------------------------------------------------- refusals


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    write_json(folder / name, change(json.loads((folder / name).read_text())))


def test_a_language_model_that_changed_since_it_was_read_is_not_saved(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    encoder = MemoryEncoder(own, **SIZES)
    kept = encoder.save(tmp_path / "kept")
    (own / "notes.txt").write_text("not there when it was read")
    assert not (encoder.save(kept) / "base" / "notes.txt").exists()
    other = causal_models.build(tmp_path / "other", "llama", bos=True, seed=1)
    (other / "model.safetensors").replace(own / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: the language model has changed since it was read"):
        encoder.save(kept)
    assert MemoryEncoder(kept).fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"document_length": 0}, "document_length 0"),
        ({"rate": 0, "document_length": 8}, "rate 0"),
        ({"rate": 9, "document_length": 8}, "rate 9 is not between 1 and document_length, 8"),
        ({"precision": "float8"}, "float8"),
        ({"batch_tokens": 0}, "batch_tokens 0"),
        ({"lora": {"rnk": 2}}, "no setting 'rnk'"),
        ({"lora": {"layers": ["nowhere"]}}, "does not fit the model"),
        ({"lora": {"rank": -1}}, "does not fit the model"),
        ({"lora": {"dropout": -0.1}}, "dropout at least 0 and below 1"),
        ({"lora": {"dropout": 1}}, "dropout at least 0 and below 1"),
        ({"lora": {"alpha": 0}}, "alpha one above 0"),
        ({"lora": {"alpha": float("inf")}}, "alpha one above 0"),
        ({"lora": {"alpha": "inf"}}, "alpha one above 0"),
        ({"lora": {"rank": 1.5}}, "rank is a whole number"),
        ({"rate": 2.5, "document_length": 8}, "not two whole numbers and a text"),
        ({"document_length": 8.0}, "not two whole numbers and a text"),
        ({"separator": 5, "document_length": 8}, "not two whole numbers and a text"),
        ({}, "document_length 256 with 16 memory tokens and 3 others is more than the 256"),
    ],
)
def test_settings_that_cannot_be(folder: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MemoryEncoder(folder, **(settings if not settings or "document_length" in settings else SIZES | settings))


def test_what_is_no_causal_language_model(folder: Path, tmp_path: Path, tiny: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no causal language model: BertModel"):
        MemoryEncoder(tiny())

    def refused(said: str, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        edited(copy, name, change)
        with pytest.raises(InputError, match=said):
            MemoryEncoder(copy, **SIZES)
        shutil.rmtree(copy)

    refused("LlamaModel", "config.json", lambda own: own | {"architectures": ["LlamaModel"]})
    refused("code of its own", "config.json", lambda own: own | {"auto_map": {"AutoModelForCausalLM": "own.Model"}})
    refused("no causal language model", "config.json", lambda own: own | {"model_type": ["x"]})
    refused("quantised by mlx-lm", "config.json", lambda own: own | {"quantization": {"bits": 4, "group_size": 64}})
    refused("missing or misshapen", "config.json", lambda own: own | {"num_hidden_layers": 3})
    refused("does not load", "config.json", lambda own: own | {"vocab_size": 40})

    def with_a_word(own: dict[str, Any]) -> dict[str, Any]:
        return own | {"model": own["model"] | {"vocab": own["model"]["vocab"] | {"newt": 44}}}

    refused("tokenizer knows 45 tokens, and the model 44", "tokenizer.json", with_a_word)
    endless = shutil.copytree(folder, tmp_path / "endless")
    for name in ("config.json", "generation_config.json"):
        edited(endless, name, lambda own: own | {"eos_token_id": None})
    edited(endless, "tokenizer_config.json", lambda own: {k: v for k, v in own.items() if k != "eos_token"})
    with pytest.raises(InputError, match="no token ends a text"):
        MemoryEncoder(endless, **SIZES)


def test_files_that_are_missing_or_not_safe(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter"):
        MemoryEncoder(base, **SIZES)
    (base / "adapter_config.json").unlink()
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        MemoryEncoder(base, **SIZES)
    torch.save({}, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickles can run code"):
        MemoryEncoder(base, **SIZES)


def test_a_saved_model_is_no_other_kind(saved: Path) -> None:
    with pytest.raises(InputError, match="several vectors a text"):
        TransformerEncoder(saved)
    with pytest.raises(InputError, match="leave --passages out"):
        load_encoder(str(saved), 64)
