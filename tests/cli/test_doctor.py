"""`lode doctor`: exit codes, JSON, and what it says of machines, runs and models."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import lode
from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import read_json, write_json
from lodesmith.recipes import _machine
from lodesmith.recipes._weights import headers, of_folder
from lodesmith.recipes.doctoring import examine_model, examine_run
from lodesmith.recipes.recipe import load
from lodesmith.testing import tiny_dataset


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------ the machine


def test_the_machine_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    code, out, err = lode(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == (0 if found["healthy"] else 2)
    assert found["packages"]["torch"] == torch.__version__
    assert found["processor"]["threads"] == torch.get_num_threads()
    assert found["memory"]["total"] > found["memory"]["available"] > 0
    assert found["hub"] == {**found["hub"], "token": True, "reachable": False}
    assert "HF_HUB_OFFLINE" in found["hub"]["state"]
    assert found["extras"]["faiss"]["install"] == "pip install 'lodesmith[faiss]'"
    assert "hf_secret_value" not in out + err


def test_the_machine_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = lode(capsys, "doctor")
    for wanted in ("python ", "processor ", "memory ", "disk ", "GPU ", "HF_TOKEN is not set", "cache ", "packages "):
        assert wanted in out, wanted


def test_what_is_missing_or_of_a_wrong_version_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch": "1.0", "bm25s": None, "faiss-cpu": None}
    real = _machine._installed
    monkeypatch.setattr(_machine, "_installed", lambda name: versions[name] if name in versions else real(name))
    code, out, _ = lode(capsys, "doctor")
    assert code == 2
    assert "torch is 1.0" in out
    assert "bm25s is not installed" in out
    assert "faiss-cpu missing; pip install 'lodesmith[faiss]'" in out


def test_shortages_are_wrong() -> None:
    fine: Any = ({"threads": 2, "cores": 2}, {"available": 8 << 30}, {"free": 9 << 30, "folder": "x"})
    caches = {"lodesmith": {"folder": "/home/me/.cache/lodesmith"}}
    assert not list(_machine._shortages(*fine, caches))
    poor: Any = ({"threads": 8, "cores": 2}, {"available": 1 << 20}, {"free": 1 << 20, "folder": "x"})
    said = [what for what, _ in _machine._shortages(*poor, caches)]
    assert len(said) == 3
    assert "8 threads on 2 cores" in said[2]


def test_a_password_in_the_hub_s_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.example")
    assert _machine._hub()["endpoint"] == "https://mirror.example"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked = []

    def refuse(request: Any, timeout: float) -> None:
        asked.append(request.full_url)
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    found = _machine._hub()
    assert (found["reachable"], found["state"]) == (False, "not reachable: no route")
    assert asked == ["https://mirror.example"]
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc/passwd")
    assert "no web address" in _machine._hub()["state"]


def test_a_token_in_a_file_counts_and_is_not_read_out(tmp_path: Path) -> None:
    assert _machine._hub()["token"] is False
    (tmp_path / ".env").write_text("A=1\nexport HF_TOKEN=hf_secret\n")
    found = _machine._hub()
    assert found["token"] is True
    assert "hf_secret" not in json.dumps(found)


# ------------------------------------------------------------------------ runs


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Path:
    """A short run that ended well."""
    import lodesmith as lode

    data = tiny_dataset(60).save(tmp_path / "tiny")
    settings = {"stages.0.epochs": 3, "stages.0.batch_size": 8, "stages.0.optim.lr": 3e-3}
    for _ in lode.train("isotropic", out=tmp_path / "run", data=str(data), base=str(tiny_model), **settings):
        pass
    return tmp_path / "run"


def test_a_run_from_its_metrics_alone(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    code, out, _ = lode(capsys, "doctor", run)
    assert (code, "nothing looks wrong" in out) == (0, True)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run / "metrics.jsonl", alone)
    code, out, _ = lode(capsys, "doctor", alone, "--json")
    assert code == 0
    assert json.loads(out)["healthy"]
    assert lode(capsys, "doctor", alone / "metrics.jsonl")[0] == 0


def test_an_unfinished_and_a_broken_run(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    code, out, _ = lode(capsys, "doctor", run)
    assert code == 2
    assert f"lode train {run / 'recipe.yaml'} --out {run} --resume" in out
    path.write_text("".join([lines[0], "{broken\n", *lines[1:]]))
    code, out, _ = lode(capsys, "doctor", run, "--json")
    found = json.loads(out)
    assert code == 2
    assert f"{path}:2: " in found["broken"][0]
    path.unlink()
    shutil.rmtree(run / "model")
    assert "empty" in lode(capsys, "doctor", run)[1]


def test_the_settings_it_tries_are_settings_of_the_recipe(run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    stage = lines[-1]["stage"]
    place = {"event": "warning", "step": 3, "epoch": 1, "stage": stage, "message": "m", "cure": "c"}
    causes = ("nan", "vanishing", "frozen", "collapse", "zero", "duplicates", "overfitting", "join", "guessing")
    path.write_text("".join(json.dumps(line) + "\n" for line in [*({**place, "cause": c} for c in causes), *lines]))
    report = examine_run(run)
    assert {problem.cause for problem in report.diagnosis.problems} == set(causes)
    for problem in report.diagnosis.problems:
        assert problem.tries
        load(run / "recipe.yaml", problem.tries)
    assert "'stages.0.optim.groups=[]'" in report.to_text()


def test_a_cause_in_stop_on_stops_the_run_and_can_be_gone_on_with(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path
) -> None:
    data = tiny_dataset(60).save(tmp_path / "tiny")
    settings = [f"data={data}", f"base={tiny_model}", "stages.0.batch_size=1", "stages.0.epochs=3"]
    settings.append("stages.0.objective.negatives=batch")
    command = ["train", "isotropic", *settings, "--out", tmp_path / "stopped"]
    code, _, err = lode(capsys, *command, "stop_on=[zero]")
    assert code == 2
    assert "by zero: infonce stays at 0" in err
    code, out, _ = lode(capsys, "doctor", tmp_path / "stopped")
    assert code == 2
    assert "stages.0.batch_size=64" in out
    assert lode(capsys, *command, "--resume")[0] == 0
    code, _, err = lode(capsys, "train", "isotropic", *settings, "stop_on=[zeros]")
    assert code == 2
    assert "stop_on" in err


# ------------------------------------------------------------------------ models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model with a dense layer, of the test's own."""
    from tiny_models import build

    return build(tmp_path / "model", dense=16)


def fault(folder: Path, kind: type[Exception], *wanted: str) -> None:
    """What is found wrong with a model is a typed error that names the figures."""
    report = examine_model(str(folder))
    with pytest.raises(kind) as caught:
        report.found.raise_first()
    for text in wanted:
        assert text in str(caught.value)


def edit(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def test_a_model_that_loads(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = lode(capsys, "doctor", model, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["dimension"] == 16
    weights = {**load_file(model / "model.safetensors"), **load_file(model / "2_Dense" / "model.safetensors")}
    assert found["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert found["modules"] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert "nothing speaks against" in lode(capsys, "doctor", model)[1]


@pytest.mark.parametrize("kind", ["modernbert", "roberta", "mpnet", "qwen", "gemma"])
def test_models_of_every_kind_that_loads_are_left_alone(kind: str, tmp_path: Path) -> None:
    from tiny_models import build

    report = examine_model(str(build(tmp_path / kind, kind)))
    assert report.healthy, report.to_text()
    assert not any("other names" in note for note in report.found.notes)


def test_shapes_of_another_model_are_named_with_both_numbers(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    edit(model / "config.json", hidden_size=64)
    fault(model, IntegrityError, "32 ≠ 64", "config.json")
    code, out, _ = lode(capsys, "doctor", model, "--json")
    assert code == 2
    assert json.loads(out)["problems"][0]["error"] == "IntegrityError"


def test_parts_that_do_not_fit_each_other(model: Path) -> None:
    edit(model / "1_Pooling" / "config.json", embedding_dimension=1024)
    fault(model, IntegrityError, "1024 ≠ 32")
    edit(model / "1_Pooling" / "config.json", embedding_dimension=32)
    edit(model / "2_Dense" / "config.json", in_features=1024)
    fault(model, IntegrityError, "[16, 32]", "[16, 1024]")
    save_file(
        {"linear.weight": torch.zeros(16, 1024), "linear.bias": torch.zeros(16)}, model / "2_Dense/model.safetensors"
    )
    fault(model, IntegrityError, "1024 ≠ 32")


def test_a_tokenizer_or_a_length_beyond_the_embedding(model: Path) -> None:
    tree = read_json(model / "tokenizer.json")
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": 99, "content": "[NEW]"})
    write_json(model / "tokenizer.json", tree)
    fault(model, IntegrityError, "100 ≠ 26")
    tree["added_tokens"].pop()
    write_json(model / "tokenizer.json", tree)
    edit(model / "sentence_bert_config.json", max_seq_length=4096)
    fault(model, IntegrityError, "4096 ≠ 128")


def test_a_table_of_word_vectors_and_its_tokenizer(tmp_path: Path, model: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    table = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=12)], device="cpu")
    table.save_pretrained(str(tmp_path / "table"), create_model_card=False)
    report = examine_model(str(tmp_path / "table"))
    assert report.healthy, report.to_text()
    assert report.found.facts["dimension"] == 12
    save_file({"embedding.weight": torch.zeros(9, 12)}, tmp_path / "table" / "model.safetensors")
    fault(tmp_path / "table", IntegrityError, "26 ≠ 9")


def test_weights_that_are_damaged_missing_or_pickles(model: Path) -> None:
    file = model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    fault(model, IntegrityError, f"the file has {len(whole) - 100:,} bytes, its header tells of {len(whole):,}")
    file.write_bytes(b"abc")
    fault(model, IntegrityError, "not a safetensors file")
    file.rename(model / "pytorch_model.bin")
    fault(model, InputError, "pickles can run code")
    (model / "pytorch_model.bin").unlink()
    fault(model, InputError, "no safetensors file")


def test_headers_that_lie(tmp_path: Path) -> None:
    def write(header: Any, data: bytes = b"\0" * 8) -> Path:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)
        return tmp_path / "x.safetensors"

    good = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
    assert headers(write(good))["a"].count == 2
    for bad in (
        b"{nonsense",
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
        {"a": 3},
    ):
        with pytest.raises(IntegrityError):
            headers(write(bad))


def test_shards(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    (model / "model.safetensors").unlink()
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, model / file)
    listed = {name: file for file, own in shards.items() for name in own}
    write_json(model / "model.safetensors.index.json", {"weight_map": listed})
    assert examine_model(str(model)).healthy
    assert len(of_folder(model)) == len(names)
    (model / "model-2.safetensors").unlink()
    fault(model, IntegrityError, "model-2.safetensors", "missing")


def test_classes_and_quantisation_that_are_not_here(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_json(model / "config.json")
    edit(model / "config.json", quantization_config={"quant_method": "gptq"})
    fault(model, InputError, "needs gptqmodel")
    monkeypatch.setattr("lodesmith.recipes._transformer_checks.is_there", lambda package: True)
    monkeypatch.setattr("lodesmith.recipes._transformer_checks.version", lambda package: installed[package])
    installed = {"bitsandbytes": "0.49.9.post1"}
    edit(model / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    fault(model, InputError, "bitsandbytes before 0.50 computes on a GPU only")
    for enough in ("0.50", "0.50.2", "1.0rc1"):
        installed["bitsandbytes"] = enough
        found = examine_model(str(model)).found
        assert not [own for own in found.faults if "GPU" in str(own)]
        assert "shapes are packed" in " ".join(found.notes)
    edit(model / "config.json", quantization_config={"quant_method": "sorcery"})
    fault(model, InputError, "'sorcery'")
    own = {"group_size": 64, "bits": 4}
    for both in ({"quantization": own}, {"quantization": own, "quantization_config": own}):
        write_json(model / "config.json", config | both)
        fault(model, InputError, "quantised for MLX", "4 bits in groups of 64")
    write_json(model / "config.json", config | {"model_type": "berd"})
    fault(model, InputError, "no model of type 'berd'")
    write_json(model / "config.json", config | {"architectures": ["BertSeer"]})
    fault(model, InputError, "no class BertSeer")
    write_json(model / "config.json", config | {"auto_map": {"AutoModel": "own.Model"}})
    fault(model, InputError, "code of the model's own")
    write_json(model / "config.json", config)
    modules = read_json(model / "modules.json")
    modules[3]["type"] = "own_code.Normalize"
    write_json(model / "modules.json", modules)
    fault(model, InputError, "own_code.Normalize")


def test_a_transformers_folder_and_an_adapter_on_it(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "model-raw"
    assert examine_model(str(base)).found.kind == "transformers"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": str(base), "peft_type": "LORA", "r": 4})
    path = "base_model.model.encoder.layer.0.attention.self.query"

    def write(width: int) -> None:
        matrices = {f"{path}.lora_A.weight": torch.zeros(4, width), f"{path}.lora_B.weight": torch.zeros(32, 4)}
        save_file(matrices, adapter / "adapter_model.safetensors")

    write(32)
    assert not [f for f in examine_model(str(adapter)).found.faults if isinstance(f, IntegrityError)]
    write(4096)
    assert any("4096 ≠ 32" in str(f) for f in examine_model(str(adapter)).found.faults)
    edit(adapter / "adapter_config.json", base_model_name_or_path="someone/elsewhere")
    assert "is not here" in examine_model(str(adapter)).found.notes[0]


def test_a_run_s_model_is_the_one_that_training_wrote(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    report = examine_model(str(run))
    assert report.healthy, report.to_text()
    assert report.found.facts["files_as_trained"] is True
    file = next(iter((run / "model").rglob("*.safetensors")))
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    fault(run, IntegrityError, "the manifest says")


def test_what_is_nowhere_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = lode(capsys, "doctor", "no-such-model")
    assert (code, out) == (2, "")
    assert "no model is called" in err
    (tmp_path / "empty").mkdir()
    assert lode(capsys, "doctor", tmp_path / "empty")[0] == 2
