"""`lode doctor` on models of memory tokens, on the runs that made them, and on what MLX alone reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import causal_models
import memory_runs
from command_line import lode
from lodesmith.core.errors import InputError, IntegrityError, MissingExtraError
from lodesmith.core.files import read_json, sha256_file, write_json
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes.doctoring import examine_model, examine_run

DECODER = "adapters/decoder/adapter_model.safetensors"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A memory model with its language model beside the adapters."""
    base = causal_models.build(tmp_path / "base", "llama", bos=True)
    return MemoryEncoder(base, rate=4, document_length=16, lora={"rank": 3}).save(tmp_path / "model")


@pytest.fixture
def over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A memory model that names its language model, and that one."""
    monkeypatch.setattr("lodesmith.encoders._memory_folder._LARGEST", 10)
    base = causal_models.build(tmp_path / "base", "llama", bos=True)
    return MemoryEncoder(base, rate=4, document_length=16).save(tmp_path / "model"), base


def sign(folder: Path) -> None:
    """Let a folder say of its files what they are now."""
    told = read_json(folder / "memory.json")
    told["files"] = {name: sha256_file(folder / name) for name in told["files"]}
    write_json(folder / "memory.json", told)


def rewrite(folder: Path, name: str, change: Any) -> None:
    """Write other tensors into a file, as if they had been there from the beginning."""
    save_file(change(load_file(folder / name)), folder / name)
    sign(folder)


def wrong(folder: Path, kind: type[Exception], *wanted: str) -> None:
    """The first thing that is wrong is such an error, and says so."""
    report = examine_model(str(folder))
    with pytest.raises(kind) as caught:
        report.found.raise_first()
    for text in wanted:
        assert text in str(caught.value)


# ------------------------------------------------------------------------ models


def test_a_model_that_loads(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = lode(capsys, "doctor", model, "--json")
    found = json.loads(out)
    assert (code, found["kind"], found["problems"], found["base"]) == (0, "memory", [], "a copy in base/")
    facts = {"rate": 4, "document_length": 16, "memory_tokens": 4, "rank": 3, "dimension": 32}
    assert facts.items() <= found.items()
    encoder = MemoryEncoder(model)
    assert found["parameters"] == encoder.parameters_total
    own = [*encoder.model.parameters()]
    assert found["adapter_parameters"] == sum(weight.numel() for weight in own if weight.requires_grad)
    code, out, _ = lode(capsys, "doctor", model)
    assert (code, "nothing speaks against" in out, "memory_tokens: 4" in out) == (0, True, True)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "lfm2", "gemma", "qwen2"])
def test_language_models_of_every_kind(kind: str, tmp_path: Path) -> None:
    base = causal_models.build(tmp_path / "base", kind)
    layers: Any = ["q_proj", "o_proj"] if kind == "qwen2" else "all-linear"
    saved = MemoryEncoder(base, rate=2, document_length=32, lora={"layers": layers}).save(tmp_path / "model")
    report = examine_model(str(saved))
    assert report.healthy, report.to_text()


def test_a_quantised_language_model_of_torch(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install 'lodesmith[quantised]'")
    bases = causal_models.quantised(tmp_path)
    for bits in ("8", "4"):
        saved = MemoryEncoder(bases[bits], rate=4, document_length=16).save(tmp_path / f"model{bits}")
        report = examine_model(str(saved))
        assert report.healthy, report.to_text()
        assert "shapes are packed" in report.to_text()
        adapter = examine_model(str(saved / "adapters" / "encoder"))
        assert adapter.healthy, adapter.to_text()


def test_a_named_language_model(over_a_name: tuple[Path, Path]) -> None:
    model, base = over_a_name
    report = examine_model(str(model))
    assert report.healthy, report.to_text()
    assert report.found.facts["base"] == str(base)
    told = (base / "config.json").read_text()
    (base / "config.json").write_text(told + "\n")
    wrong(model, IntegrityError, "the adapters were trained over", "config.json is another now")
    (base / "config.json").write_text(told)
    (base / "model.safetensors").rename(base / "elsewhere.safetensors")
    wrong(model, IntegrityError, "elsewhere.safetensors is another now")
    (base / "elsewhere.safetensors").rename(base.parent / "elsewhere.safetensors")
    wrong(model, IntegrityError, "model.safetensors is missing")
    shutil.rmtree(base)
    wrong(model, InputError, f"the language model under the adapters, {base}, is not here")


def test_files_that_are_not_those_that_were_written(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    whole = (model / DECODER).read_bytes()
    (model / DECODER).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    wrong(model, IntegrityError, DECODER, "SHA-256")
    code, out, _ = lode(capsys, "doctor", model, "--json")
    found = json.loads(out)
    assert (code, [own["error"] for own in found["problems"]]) == (2, ["IntegrityError"])
    assert found["dimension"] == 32
    (model / DECODER).unlink()
    wrong(model, IntegrityError, DECODER, "missing")
    (model / DECODER).write_bytes(whole)
    (model / "more.safetensors").write_bytes(whole)
    wrong(model, IntegrityError, "more.safetensors: no file of this model")
    (model / "more.safetensors").unlink()
    assert examine_model(str(model)).healthy
    told = read_json(model / "memory.json")
    for damaged, said in (
        (told | {"format": 2}, "was written in format 2"),
        (told | {"settings": told["settings"] | {"rate": 0}}, "damaged"),
        ({"format": 3}, "damaged"),
    ):
        write_json(model / "memory.json", damaged)
        wrong(model, IntegrityError, said)


def test_adapters_of_another_model(model: Path) -> None:
    whole = (model / DECODER).read_bytes()

    def widened(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(3, 4096) if "q_proj.lora_A" in name else own for name, own in state.items()}

    for change, said in (
        (widened, "[3, 4096], not [3, 32]: 4096 ≠ 32"),
        (lambda own: {name.replace("q_proj", "a_proj"): tensor for name, tensor in own.items()}, "has no place"),
        (lambda own: {name: tensor for name, tensor in own.items() if "layers.1" not in name}, "is missing"),
    ):
        rewrite(model, DECODER, change)
        wrong(model, IntegrityError, DECODER, said)
        (model / DECODER).write_bytes(whole)
    rewrite(model, "memory.safetensors", lambda own: own | {"memory": torch.zeros(5, 32)})
    wrong(model, IntegrityError, "memory.safetensors: the tensor memory has the shape [5, 32], not [4, 32]: 5 ≠ 4")


def test_a_language_model_that_does_not_load_or_fit(model: Path, tmp_path: Path) -> None:
    def changed(**settings: Any) -> None:
        config = read_json(tmp_path / "base" / "config.json") | settings
        write_json(model / "base" / "config.json", {name: own for name, own in config.items() if own is not None})
        sign(model)

    changed(hidden_size=48)
    wrong(model, IntegrityError, "32 ≠ 48")
    changed(model_type="lama")
    wrong(model, InputError, "no model of type 'lama'")
    changed(architectures=["LlamaModel"])
    wrong(model, InputError, "no causal language model: LlamaModel")
    changed(max_position_embeddings=20)
    with pytest.raises(Exception, match="with 4 memory tokens and 3 others is more than the 20"):
        examine_model(str(model)).found.raise_first()
    changed()
    for file in (model / "base").glob("tokenizer*"):
        file.unlink()
    told = read_json(model / "memory.json")
    write_json(
        model / "memory.json", told | {"files": {n: d for n, d in told["files"].items() if "tokenizer" not in n}}
    )
    wrong(model, InputError, "the model has no tokenizer")


def test_without_peft_the_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    wrong(model, MissingExtraError, "peft is not installed", "lodesmith[lora]")


# ------------------------------------------------------------------------ runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three stages that has ended well, as far as its metrics tell."""
    made = memory_runs.run(tmp_path / "run")
    place = {"step": 4, "epoch": 1, "stage": "compress"}
    rows = [place | {"event": "step", "terms": {"answer": 2.0}, "total": 2.0, "steps": 4}, place | {"event": "done"}]
    (made / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_a_run_s_models_are_looked_at_too(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    code, out, _ = lode(capsys, "doctor", run)
    assert code == 0
    assert "loading them here: model, stages/compress, stages/instruct" in out
    assert "nothing looks wrong" in out
    file = run / "stages" / "instruct" / DECODER
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, out, _ = lode(capsys, "doctor", run)
    assert code == 2
    assert "loading them here: model, stages/compress\n" in out
    assert f"wrong with stages/instruct: {file}: SHA-256" in out
    code, out, _ = lode(capsys, "doctor", run, "--json")
    found = json.loads(out)
    assert (code, found["healthy"], found["state"]) == (2, False, "finished")
    assert [own["healthy"] for own in found["models"]] == [True, True, False]
    assert lode(capsys, "doctor", run / "metrics.jsonl")[0] == 0
    file.write_bytes(whole)
    shutil.rmtree(run / "model")
    assert "wrong with model: " in examine_run(run).to_text()


def test_a_stage_of_another_training_is_told(run: Path) -> None:
    """Whole by its own list, and not by that of the run."""
    shutil.rmtree(run / "stages" / "compress")
    shutil.copytree(run / "stages" / "instruct", run / "stages" / "compress")
    report = examine_run(run)
    assert [own.healthy for own in report.models] == [True, False, True]
    assert "the manifest says" in report.to_text()


def test_a_run_that_is_not_finished_or_whose_manifest_is_damaged(run: Path) -> None:
    (run / "manifest.json").write_text("{")
    report = examine_run(run)
    assert [own.name for own in report.models if not own.healthy] == ["manifest.json"]
    write_json(run / "manifest.json", {"recipe": "x"})
    shutil.rmtree(run / "model")
    assert [own.name for own in examine_run(run).models] == ["stages/compress", "stages/instruct"]
    assert examine_run(run).healthy


def test_a_run_s_model_without_metrics(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    report = examine_model(str(run))
    assert report.healthy, report.to_text()
    assert report.found.facts["files_as_trained"] is True
    other = MemoryEncoder(run / "stages" / "compress").save(run / "model")
    assert examine_model(str(other)).healthy
    wrong(run, IntegrityError, "the manifest says")


# ------------------------------------------------------------------------ MLX


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A language model that mlx-lm has quantised."""
    pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")
    return causal_models.by_mlx(causal_models.build(tmp_path / "packed", "llama", bos=True))


def test_what_mlx_alone_reads(capsys: pytest.CaptureFixture[str], packed: Path, tmp_path: Path) -> None:
    code, out, _ = lode(capsys, "doctor", packed, "--json")
    found = json.loads(out)
    assert (code, found["problems"], found["quantisation"]) == (0, [], "mlx, 4 bits")
    assert "MLXMemoryEncoder reads it, and torch does not, so neither does `lode train`" in found["notes"][0]
    plain = causal_models.build(tmp_path / "plain", "llama", bos=True)
    assert found["parameters"] == examine_model(str(plain)).found.facts["parameters"]
    code, _, err = lode(capsys, "train", "clara", f"base={packed}", f"data={memory_runs.dataset(tmp_path / 'data')}")
    assert (code, "quantised by mlx-lm" in err) == (2, True)


def test_what_mlx_does_not_read_either(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_json(packed / "config.json")
    write_json(packed / "config.json", config | {"num_hidden_layers": 3})
    wrong(packed, InputError, "torch does not read; nor does MLX", "model.layers.2.self_attn.q_proj.weight is missing")
    write_json(packed / "config.json", config | {"intermediate_size": 128})
    wrong(packed, InputError, "[64, 4], not [128, 4]")
    write_json(packed / "config.json", config | {"hidden_act": "gelu"})
    wrong(packed, InputError, "nor does MLX", "the activation 'gelu'")
    write_json(packed / "config.json", config)
    whole = (packed / "model.safetensors").read_bytes()
    (packed / "model.safetensors").write_bytes(whole[:-9])
    assert [type(own) for own in examine_model(str(packed)).found.faults] == [IntegrityError]
    (packed / "model.safetensors").write_bytes(whole)
    monkeypatch.setattr("lodesmith.recipes._transformer_checks.is_there", lambda package: package != "mlx")
    wrong(packed, InputError, "mlx is not installed", "lodesmith[mlx]")


def test_memory_over_what_mlx_alone_reads(packed: Path, tmp_path: Path) -> None:
    from lodesmith.encoders import MLXMemoryEncoder

    saved = MLXMemoryEncoder(packed, rate=4, document_length=16).save(tmp_path / "model")
    report = examine_model(str(saved))
    assert report.healthy, report.to_text()
    assert "MLXMemoryEncoder reads it" in report.to_text()
    wrong(saved / "adapters" / "decoder", InputError, "the base is quantised for MLX, which torch does not read")
    rewrite(saved, DECODER, lambda own: {n: torch.zeros(16, 5) if "q_proj.lora_A" in n else t for n, t in own.items()})
    wrong(saved, IntegrityError, "[16, 5], not [16, 32]: 5 ≠ 32")
