"""What cannot be had or is not safe to load: typed errors that name the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from causal_models import build
from lodesmith.core.errors import InputError
from lodesmith.generators import _loading
from lodesmith.generators._loading import find_model
from lodesmith.generators.hf import CausalLM


def test_a_hub_name_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"'someone/some-model' here, and the hub gave none") as raised:
        CausalLM("someone/some-model")
    assert "hf download someone/some-model" in raised.value.do
    assert "feedback" in raised.value.do


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "a/b/c"])
def test_a_path_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        find_model(name)


def test_a_gated_model_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: Any, **__: Any) -> str:
        raise GatedRepoError.__new__(GatedRepoError)  # to be made it wants a response of the HTTP library

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(InputError, match="gated") as raised:
        find_model("someone/gated")
    assert "HF_TOKEN" in raised.value.do


def test_the_cache_comes_first_and_half_a_snapshot_is_completed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached, whole = tmp_path / "cached", build(tmp_path / "whole")
    cached.mkdir()
    (cached / "config.json").write_text("{}")
    asked: list[bool] = []

    def snapshot(name: str, *, local_files_only: bool, **_: Any) -> str:
        asked.append(local_files_only)
        return str(cached if local_files_only else whole)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_model("someone/model") == whole
    assert asked == [True, False]
    (cached / "model.safetensors").write_bytes(b"")
    assert find_model("someone/model") == cached
    assert asked == [True, False, True]
    (cached / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert not _loading._complete(cached)


def test_code_of_the_models_own_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(InputError, match="code of its own") as raised:
        CausalLM(folder)
    assert raised.value.path == folder / "config.json"


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        CausalLM(folder)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        CausalLM(tmp_path)


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_named(tmp_path: Path, broken: str) -> None:
    folder = build(tmp_path / "model")
    (folder / broken).write_bytes(b'{"model_type": "nothing"}')
    with pytest.raises(InputError, match=str(folder)):
        CausalLM(folder).generate(["cat"])
