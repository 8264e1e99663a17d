"""The recipe `clara` with engine.arrays=mlx: all three stages as in torch, and resumed to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import memory_worlds
import pytest
import torch
from memory_worlds import ADAPTERS, tensors

import causal_models
import mlx_runs
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.events import Event
from lodesmith.core.files import read_json, sha256_folder
from lodesmith.recipes.train import Training, forecast

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")

from lodesmith.encoders import MemoryEncoder, _mlx_module  # noqa: E402 - skipped above where mlx is not there
from lodesmith.encoders._mlx_language import MLXLanguageModel  # noqa: E402
from lodesmith.encoders._mlx_memory import MLXMemoryModel  # noqa: E402
from lodesmith.encoders._mlx_module import MLXMemoryModule  # noqa: E402
from lodesmith.encoders._mlx_through import seed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*")

STAGES = range(3)


def training(dataset: Path, base: Path, out: Path, arrays: str, dropout: float, **more: Any) -> Training:
    settings = {
        "engine.arrays": arrays,
        "encoder.lora": {"rank": 2, "alpha": 4, "dropout": dropout},
        "data.limit": 12,
        **{f"stages.{stage}.optim.lr": 2e-3 for stage in STAGES},
        **{f"stages.{stage}.epochs": 1 for stage in STAGES},
    }
    return memory_worlds.training(dataset, base, out, **settings | more)


@pytest.mark.parametrize("use", ["adamw", "sgd"])
def test_every_step_of_all_stages_is_that_of_torch(
    use: str, dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are held equal where SGD moves them: Adam makes whole steps of gradients that are mere rounding."""
    none: dict[str, Any] = {"data.validation": None, **{f"stages.{stage}.optim.use": use for stage in STAGES}}
    if use == "sgd":
        none |= {f"stages.{stage}.optim.lr": 0.2 for stage in STAGES}
    theirs = mlx_runs.steps(training(dataset, base, tmp_path / "torch", "torch", 0.0, **none))
    calls, vjp = [], mx.vjp
    monkeypatch.setattr(mx, "vjp", lambda *given: calls.append(1) or vjp(*given))
    ours = mlx_runs.steps(training(dataset, base, tmp_path / "mlx", "mlx", 0.0, **none))
    assert mlx_runs.close(ours, theirs, least=9)
    assert len(calls) > len(ours)
    begun = [read_json(tmp_path / name / "manifest.json")["begun"] for name in ("torch", "mlx")]
    assert begun[0] == begun[1]
    if use == "adamw":
        return
    a, b, before = (tensors(tmp_path / name) for name in ("mlx/model", "torch/model", "torch/untrained"))
    for part in (*ADAPTERS, "own"):
        assert a[part].keys() == b[part].keys()
        for name, own in a[part].items():
            torch.testing.assert_close(own, b[part][name], atol=1e-3, rtol=1e-2)
        assert max(float((own - before[part][name]).abs().max()) for name, own in a[part].items()) > 0.02


def test_the_same_bits_broken_off_in_a_stage_and_resumed(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(_mlx_module, "seed", lambda: drawn.append(seed()) or drawn[-1])
    every = {f"stages.{stage}.checkpoint_every": 1 for stage in STAGES}
    measured: list[dict[str, float]] = []

    def middle(event: Event) -> bool:
        if isinstance(event, events.Validation):
            measured.append(dict(event.measures))
        return isinstance(event, events.Checkpoint) and event.stage == "instruct"

    whole = mlx_runs.steps(training(dataset, base, tmp_path / "whole", "mlx", 0.2, **every))
    assert len(set(drawn)) > len(whole)  # of each step's dropout, one for each pass
    begun = mlx_runs.steps(training(dataset, base, tmp_path / "parts", "mlx", 0.2, **every), middle)
    mx.random.seed(99)
    rest = mlx_runs.steps(training(dataset, base, tmp_path / "parts", "mlx", 0.2, **every))
    assert measured
    assert 0 < len(rest) < len(whole)
    assert begun == whole[: len(begun)]
    assert rest == whole[-len(rest) :]
    for folder in ("model", "stages/compress", "stages/instruct"):
        assert sha256_folder(tmp_path / "parts" / folder) == sha256_folder(tmp_path / "whole" / folder)


def test_adapters_of_other_maps_are_refused(base: Path) -> None:
    encoder = MemoryEncoder(base, rate=4, document_length=16, lora={"rank": 2, "layers": ["q_proj"]})
    other = replace(encoder.settings, lora={**encoder.settings.lora, "layers": ["q_proj", "v_proj"]})
    model = MLXMemoryModel(MLXLanguageModel.load(base), other)
    with pytest.raises(ConfigError, match=r"does not adapt the maps that torch does: .*v_proj"):
        MLXMemoryModule(model, encoder.model)


def test_a_forecast_times_what_will_compute(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, vjp = [], mx.vjp
    monkeypatch.setattr(mx, "vjp", lambda *given: calls.append(1) or vjp(*given))
    assert forecast(training(dataset, base, tmp_path / "run", "mlx", 0.1))["training_seconds"] > 0
    assert calls


def test_a_language_model_that_mlx_is_not_built_for_is_refused(dataset: Path, tmp_path: Path) -> None:
    other = causal_models.build(tmp_path / "gpt2", "gpt2", bos=True)
    planned = training(dataset, other, tmp_path / "run", "mlx", 0.0)
    with pytest.raises(InputError, match="MLX is not built here for"):
        list(planned.events())
    assert not (tmp_path / "run/untrained").exists()
