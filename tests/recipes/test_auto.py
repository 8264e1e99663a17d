"""`--auto`: what is chosen for which machine, and why; one slow test measures, and launches two processes."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import load_file

from command_line import lode
from lodesmith.cli.fitting import fitted
from lodesmith.core.errors import ConfigError, InputError, ResumeError, Terminated
from lodesmith.recipes import auto
from lodesmith.recipes._auto_probe import Probe, _of_memory
from lodesmith.recipes.auto import Choice, Machine, choose, kept, written
from lodesmith.recipes.train import plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")

GIB = 1 << 30
TOKENS = 100
"""Of a text in the machines of these tests."""


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tiny_dataset(60).save(tmp_path / "tiny"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int | None, int]]]:
    """Sets a machine up, on which a process takes half a GiB before the first step, gradients and moments `fixed`, and
    each text a tenth; what is tried is listed.
    """

    def made(
        free: float, *, threads: int = 1, speedup: float = 1.0, fixed: int = 0, held: int = 0, **more: Any
    ) -> list[tuple[int | None, int]]:
        tried: list[tuple[int | None, int]] = []

        def probed(
            source: str, overrides: tuple[str, ...], stage: int, steps: int | None, processes: int, machine: Machine
        ) -> list[Probe] | None:
            chunk = yaml.safe_load(
                next(o for o in overrides[::-1] if o.startswith(f"stages.{stage}.chunk")).split("=")[1]
            )
            tried.append((chunk, processes))
            assert overrides[-1] == f"engine.processes={processes}"
            texts = 2 * 64 // processes  # both sides of a batch of 64
            at_once = min(chunk or texts, texts)
            before = GIB // 2
            peak = before + fixed * GIB + at_once * GIB // 10
            if peak * processes > 2 * free * GIB:
                return None  # the system ended it
            seconds = None if steps == 0 else 10.0 / (speedup if processes > 1 else 1.0)
            return [Probe(seconds, 3, before, peak, at_once * TOKENS, texts * TOKENS, 100, held * GIB)] * processes

        monkeypatch.setattr(auto, "_probed", probed)
        monkeypatch.setattr(auto, "_machine", lambda: Machine(int(free * GIB), threads, **more))
        return tried

    return made


def chosen(data: str, *overrides: str, recipe: str = "isotropic_full", out: Path | None = None) -> Choice:
    return choose(recipe, [f"data={data}", *overrides], out=out)


# ------------------------------------------------------------------------ chunks


def test_a_batch_that_fits_is_not_cut(data: str, machine: Callable[..., Any], tmp_path: Path) -> None:
    tried = machine(free=100)
    found = chosen(data, out=tmp_path / "run")
    assert found.overrides == ["stages.0.chunk=null", "engine.processes=1"]
    assert tried == [(8, 1), (16, 1), (None, 1)]
    assert "a whole batch takes 13.30 GiB of 70.00 GiB (70% of what is free): no chunk" in found.to_text()
    assert not (tmp_path / "run").exists()
    found.save()
    kept = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert kept["overrides"] == found.overrides
    assert kept["tried"][-1]["measured"][0]["peak"] == pytest.approx(13.3 * GIB, abs=9)


@pytest.mark.parametrize(("free", "chunk"), [(10, 32), (5, 16), (2, 8), (1.2, 2), (0.95, 1)])
def test_the_largest_chunk_that_fits(free: float, chunk: int, data: str, machine: Callable[..., Any]) -> None:
    tried = machine(free=free)
    found = chosen(data)
    assert found.chunks == {0: chunk}
    assert (None, 1) not in tried  # a batch that is foreseen to be too large is not tried
    assert f"contrast: {chunk} texts at once take {0.5 + chunk / 10:.2f} GiB" in found.to_text()
    assert all(0.5 + (own or 128) / 10 <= 2 * free for own, _ in tried)


@pytest.mark.parametrize(("free", "chunk"), [(27, None), (26, 32), (15, 32), (10.3, 16), (9.5, 8)])
def test_gradients_and_moments_do_not_grow_with_the_chunk(
    free: float, chunk: int | None, data: str, machine: Callable[..., Any]
) -> None:
    tried = machine(free=free, fixed=5)  # 5.5 GiB and a tenth for each of 128 texts: 18.3 GiB for all
    assert chosen(data).chunks == {0: chunk}
    assert ((None, 1) in tried) == (chunk is None)


def test_what_validating_holds_has_to_fit_too(data: str, machine: Callable[..., Any]) -> None:
    machine(free=19.1)
    assert chosen(data).chunks == {0: None}
    machine(free=19.1, held=1)
    assert chosen(data).chunks == {0: 32}


def test_a_machine_on_which_not_one_text_fits_is_refused(data: str, machine: Callable[..., Any]) -> None:
    machine(free=0.5)
    with pytest.raises(ConfigError, match=r"one text at a time takes 0\.60 GiB, and 0\.35 GiB may be used\nend other"):
        chosen(data)
    machine(free=0.2)
    with pytest.raises(ConfigError, match="takes more than there is"):
        chosen(data)


def test_what_is_given_stays(data: str, machine: Callable[..., Any]) -> None:
    tried = machine(free=2, threads=8, speedup=8)
    found = chosen(data, "stages.0.chunk=3", "engine.processes=2")
    assert found.overrides == ["stages.0.chunk=3", "engine.processes=2"]
    assert tried == []
    assert found.reasons == ("contrast: chunk 3, as the recipe has it", "2 processes, as the recipe has it")


def test_every_stage_has_its_own_chunk(data: str, machine: Callable[..., Any]) -> None:
    machine(free=100)
    found = chosen(data, "stages.1.chunk=7", recipe="two_tower_bag")
    assert found.chunks == {0: None, 1: 7}
    assert "triplet: a whole batch" in found.reasons[0]


# ------------------------------------------------------------------------ processes


@pytest.mark.parametrize(
    ("speedup", "threads", "processes"), [(1.05, 2, 1), (1.2, 2, 2), (1.2, 1, 1), (0.7, 8, 1), (1.2, 3, 2)]
)
def test_more_processes_where_they_are_faster(
    speedup: float, threads: int, processes: int, data: str, machine: Callable[..., Any]
) -> None:
    machine(free=100, threads=threads, speedup=speedup)
    assert chosen(data).processes == processes


def test_more_processes_need_more_memory_and_a_training_that_is_long(
    data: str, machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(free=19.1, threads=2, speedup=1.9)  # 13.3 GiB for one, 2 × 6.9 for two
    found = chosen(data)
    assert found.processes == 1
    assert "2 processes of 1 thread do not fit into the memory" in found.reasons[-1]
    machine(free=100, threads=2, speedup=1.9)
    assert chosen(data).processes == 2
    monkeypatch.setattr(auto, "WORTH", 500.0)  # of the 1,000 seconds of one process, 474 are saved
    assert chosen(data).processes == 1
    monkeypatch.setattr(auto, "WORTH", 5000.0)
    assert chosen(data).reasons[-1] == "1 process: its steps take 16.7 min in all"


def test_each_gpu_has_a_process_and_its_share_of_a_batch(data: str, machine: Callable[..., Any]) -> None:
    tried = machine(free=10, threads=8, accelerators=4)
    found = chosen(data)
    assert (found.processes, found.chunks) == (4, {0: None})  # 3.7 GiB on each, of 7 GiB
    assert tried == [(8, 4), (16, 4), (None, 4)]
    assert found.reasons[-1] == "4 processes: one for each GPU, 4 in all"
    assert chosen(data, "stages.0.batch_size=3").processes == 3


# ------------------------------------------------------------------------ refusals and runs


def test_a_frozen_base_and_word_vectors_need_no_launcher(data: str) -> None:
    told = {
        "isotropic": "stored vectors",
        "adapt": "stored vectors",
        "word_vectors": "workers",
        "clara": "batch_tokens",
    }
    for recipe, said in told.items():
        found = chosen(data, recipe=recipe)
        assert found.overrides == []
        assert said in found.to_text()
        found.save()
        assert not found.out.exists()


def test_what_cannot_be_fitted_is_refused(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such dataset folder"):
        chosen(str(tmp_path / "none"))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="leave torchrun out"):
        chosen(data)


def test_a_sweep_is_not_fitted(capsys: pytest.CaptureFixture[str], data: str) -> None:
    code, _, err = lode(capsys, "train", "isotropic_full", f"data={data}", "--sweep", "seed=0,1", "--auto")
    assert code == 2
    assert "--auto fits one run, and a sweep has several" in err
    code, _, err = lode(capsys, "train", "isotropic", f"data={data}", "engine.processes=2", "--sweep", "seed=0,1")
    assert code == 2
    assert "engine.processes is 2: a sweep" in err


def test_a_frozen_base_is_trained_and_a_dry_run_prints_the_choice(
    capsys: pytest.CaptureFixture[str], data: str, tiny_model: Path, tmp_path: Path, machine: Callable[..., Any]
) -> None:
    settings = (f"data={data}", f"base={tiny_model}", "stages.0.epochs=1")
    code, out, err = lode(capsys, "train", "isotropic", *settings, "--auto", "--out", tmp_path / "run", "--json")
    assert code == 0
    assert "there is nothing to fit" in err
    assert json.loads(out)["ended"].startswith("complete")
    machine(free=5)
    command = ("train", "isotropic_full", *settings, "--auto", "--dry-run", "--out", tmp_path / "other")
    code, out, err = lode(capsys, *command, "--json")
    assert json.loads(out)["auto"]["overrides"] == ["stages.0.chunk=16", "engine.processes=1"]
    assert "contrast: 16 texts at once take 2.10 GiB" in err
    assert not (tmp_path / "other").exists()


def test_a_resumed_run_keeps_its_choice(
    capsys: pytest.CaptureFixture[str], data: str, tiny_model: Path, tmp_path: Path, machine: Callable[..., Any]
) -> None:
    command = ("train", "isotropic_full", f"data={data}", f"base={tiny_model}", "stages.0.epochs=1", "--out")
    tried = machine(free=5)
    assert lode(capsys, *command, tmp_path / "run", "--auto")[0] == 0
    assert len(tried) == 2
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["stages"][0]["chunk"] == 16
    tried = machine(free=100)
    for more in (["--auto"], []):
        code, _, err = lode(capsys, *command, tmp_path / "run", "--resume", *more)
        assert code == 0, err
        assert "as this run was begun" in err
        assert "chosen: stages.0.chunk=16 engine.processes=1" in err
    assert tried == []
    code, _, err = lode(capsys, *command, tmp_path / "run", "--resume", "stages.0.chunk=4")
    assert code == 2
    assert "stages.0.chunk was 16, is 4" in err
    assert written(tmp_path) is None


def test_a_process_that_was_launched_keeps_what_it_is_told(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"data={data}", "stages.0.chunk=4", "engine.processes=2"]
    begun(tmp_path / "run", settings)
    (tmp_path / "run" / "auto.json").write_text("{}")
    alone = fitted("isotropic_full", settings[:1], out=tmp_path / "run", resume=True, auto=False)
    assert alone is not None
    assert alone.overrides == ["stages.0.chunk=4", "engine.processes=2"]
    monkeypatch.setenv("RANK", "1")
    assert fitted("isotropic_full", settings, out=tmp_path / "run", resume=True, auto=False) is None


def begun(out: Path, settings: list[str]) -> None:
    training = plan("isotropic_full", settings, out=out)
    out.mkdir(parents=True)
    (out / "recipe.yaml").write_text(training.recipe.to_yaml())
    (out / "manifest.json").write_text(json.dumps({"recipe": training.recipe.fingerprint}))


def test_a_run_that_is_gone_on_with_is_not_measured(
    data: str, tmp_path: Path, machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tried = machine(free=5)
    with pytest.raises(ResumeError, match="there is no run to resume"):
        choose("isotropic_full", [f"data={data}"], resume=True)
    begun(tmp_path / "plain", [f"data={data}", "stages.0.chunk=3"])
    found = choose("isotropic_full", [f"data={data}"], out=tmp_path / "plain", resume=True)
    assert found.overrides == ["stages.0.chunk=3"]  # begun without --auto
    assert tried == []
    first = chosen(data)  # in the folder of its name
    begun(first.out, [f"data={data}", *first.overrides])
    first.save()
    again = kept("isotropic_full", [f"data={data}"])
    assert again is not None
    assert (again.out, again.overrides) == (first.out, first.overrides)


# ------------------------------------------------------------------------ probes


def test_what_is_said_when_memory_runs_out() -> None:
    assert _of_memory(MemoryError())
    assert _of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert not _of_memory(RuntimeError("shapes differ"))


@pytest.mark.slow
def test_a_real_step_is_measured(data: str, tiny_model: Path) -> None:
    settings = (f"data={data}", f"base={tiny_model}", "stages.0.batch_size=8", "stages.0.epochs=3", "stages.0.chunk=4")
    found = auto._probed("isotropic_full", settings, 0, None, 1, Machine(GIB, 1))
    assert found is not None
    (probe,) = found
    assert probe.total == 3 * 4  # of 30 pairs
    assert 0 < probe.before < probe.peak
    assert 0 < probe.at_once < probe.tokens
    assert probe.seconds is not None
    assert probe.seconds > 0
    with pytest.raises(InputError, match="no such dataset folder"):
        auto._probed("isotropic_full", ("data=nowhere",), 0, 0, 1, Machine(GIB, 1))


def test_a_probe_ends_with_who_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    before = {child.pid for child in psutil.Process().children()}  # of other tests, such as multiprocessing's tracker

    def started() -> set[int]:
        return {child.pid for child in psutil.Process().children()} - before

    def ask() -> None:
        while not started():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Terminated):
        auto._probed("isotropic_full", ("data=nowhere",), 0, 0, 1, Machine(GIB, 1))
    assert not list(tmp_path.iterdir())
    assert not started()


@pytest.mark.slow
def test_two_processes_are_launched_and_the_recipe_gives_the_same_run(
    capfd: pytest.CaptureFixture[str],
    data: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "WORTH", -1e9)  # as if two were always faster
    monkeypatch.setattr(auto, "MARGIN", -1e9)
    monkeypatch.setattr(auto, "_machine", lambda: Machine(16 * GIB, 2))
    settings = (f"data={data}", f"base={tiny_model}", "stages.0.epochs=2", "data.validation=null", "stages.0.chunk=16")
    code, out, err = lode(capfd, "train", "isotropic_full", *settings, "--auto", "--out", tmp_path / "run", "--json")
    assert code == 0, err
    assert json.loads(out)["ended"] == "complete"  # told once
    assert "chosen: stages.0.chunk=16 engine.processes=2" in err
    saved = tmp_path / "run" / "recipe.yaml"
    assert yaml.safe_load(saved.read_text())["engine"]["processes"] == 2
    checkpoint = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    assert json.loads((checkpoint / "state.json").read_text())["surroundings"]["processes"] == 2
    code, _, err = lode(capfd, "train", saved, "--out", tmp_path / "again")
    assert code == 0, err
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("run", "again"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["model_files"]  # as if its end had been lost
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    resume = ("train", "isotropic_full", *settings, "--resume", "--out", tmp_path / "run")
    code, _, err = lode(capfd, *resume, "engine.processes=3")
    assert code == 2
    assert "with engine.processes=2" in err
    assert "Traceback" not in err
    code, _, err = lode(capfd, *resume)
    assert code == 0, err
    resumed = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(np.array_equal(one[name], resumed[name]) for name in one)
