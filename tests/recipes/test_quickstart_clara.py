"""`lode quickstart clara`, whole, at a size that learns nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lodesmith import __version__
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import read_json, sha256_folder
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import Progress, listen
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes import quickstart_clara
from lodesmith.recipes.quickstart_clara import POOLS, Clara, Scale, run
from lodesmith.recipes.world import Reader, Sizes

TINY = Scale(
    sizes=Sizes(documents=18, instructed=6, facts=4, about=2, dev=4, test=6, forms=4, asked=2, read=2, candidates=6),
    reader=Reader(width=32, layers=1, heads=2, batch=4, steps=2),
    rates=(4, 16),
    length=40,
    epochs=(1, 1, 1),
)
TEXTS, STAGES, CONTROLS = ("closed", "text"), ("stage1", "stage2", "stage2-ranked", "full"), ("random", "shuffled")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clara, list[str], list[Progress]]:
    said: list[str] = []
    heard: list[Progress] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # for two processes
    try:
        with listen(heard.append):
            found = run(tmp_path_factory.mktemp("clara") / "out", scale=TINY, say=said.append)
    finally:
        torch.set_num_threads(threads)
    return found, said, heard


def test_every_way_is_measured_at_every_rate_on_both_pools(done: tuple[Clara, list[str], list[Progress]]) -> None:
    found, _, _ = done
    expected = [*TEXTS, *(f"rate-4, {way}" for way in ("text-truncated", *STAGES))]
    expected += [f"rate-16, {way}" for way in ("text-truncated", *STAGES, *CONTROLS)]
    for pool in POOLS:
        own = [evaluation for evaluation in found.evaluations if evaluation.dataset.endswith(f"{pool} pool")]
        assert [evaluation.system for evaluation in own] == expected
        for evaluation in own:
            assert evaluation.queries == TINY.sizes.test * TINY.sizes.asked
            file = found.out / "evaluations" / pool / f"{evaluation.system}.json"
            assert Evaluation.load(file) == evaluation
    words = {evaluation.system: evaluation.cost["context_tokens"] for evaluation in found.evaluations}
    assert words["rate-4, full"] == 2 * TINY.length / 4
    assert words["rate-16, full"] == 2 * (TINY.length // 16)


def test_a_figure_is_of_the_model_and_way_that_it_is_called_by(done: tuple[Clara, list[str], list[Progress]]) -> None:
    found, _, _ = done
    stages = {"stage1": "stages/compress", "stage2": "stages/instruct", "stage2-ranked": "stages/instruct"}
    for rate in TINY.rates:
        places = {name: found.out / f"rate-{rate}" / name for name in {*stages.values(), "model"}}
        prints = {name: MemoryEncoder(place).fingerprint for name, place in places.items()}
        assert len({*prints.values()}) == 3
        for pool in POOLS:
            plan = {"pool": pool, "documents": 2, "candidates": 6, "limit": None, "max_new_tokens": 32, "seed": 0}
            plan["version"] = __version__
            for evaluation in found.evaluations:
                told, way = evaluation.fingerprints, evaluation.system.removeprefix(f"rate-{rate}, ")
                if evaluation.system.startswith(f"rate-{rate}, ") and evaluation.dataset.endswith(f"{pool} pool"):
                    assert told["model"] == prints[stages.get(way, "model")]
                    assert told["reading"] == fingerprint({"way": way, **plan})


def test_it_tells_what_it_does(done: tuple[Clara, list[str], list[Progress]]) -> None:
    found, said, heard = done
    steps = [line.removesuffix(" …") for line in said if line.endswith("…")]
    assert steps[:3] == ["world", "reader", "three stages at each rate"]
    assert len(steps) == 3 + len(TINY.rates) * len(POOLS)
    labels = {progress.label for progress in heard}
    assert {"train repeat", "rate 4: train compress", "rate 16: train end_to_end"} <= labels
    page = (found.out / "report.html").read_text()
    for word in ("rate-4, stage2-ranked", "rate-16, shuffled", "CoverEM", "world, oracle pool", "stand first"):
        assert word in page
    assert all(evaluation.system in found.table for evaluation in found.evaluations)
    json.dumps(found.to_json())
    ranked = Comparison.load(found.out / "retrieval.json")
    planned = [(f"rate-{rate}, full", f"rate-{rate}, stage2-ranked") for rate in TINY.rates]
    assert [(pair.a, pair.b) for pair in ranked.pairs] == planned * len(POOLS)
    assert {pair.measure for pair in ranked.pairs} == {"R@1"}
    assert "R@1 of rate-4, full against rate-4, stage2-ranked on world, normal pool: " in page


def test_what_looked_wrong_in_a_training_is_told(done: tuple[Clara, list[str], list[Progress]]) -> None:
    """Two steps do not teach a reader."""
    found, said, _ = done
    page = (found.out / "report.html").read_text()
    told = [line for line in said if line.startswith("reader, one form, step ")]
    assert ["ended before accuracy" in line for line in told] == [True]
    assert told[0] in page


def test_controls_have_a_rate_that_is_there() -> None:
    with pytest.raises(ConfigError, match="controls are measured at one of the rates"):
        Scale(rates=(4, 64))


def test_what_is_done_is_not_done_again(done: tuple[Clara, list[str], list[Progress]]) -> None:
    found, _, _ = done
    before = sha256_folder(found.out)
    said: list[str] = []
    again = run(found.out, scale=TINY, say=said.append)
    assert again.evaluations == found.evaluations
    assert not [line for line in said if line.endswith("…")]
    assert sha256_folder(found.out) == before


def test_a_damaged_evaluation_is_measured_again(done: tuple[Clara, list[str], list[Progress]], tmp_path: Path) -> None:
    found, _, _ = done
    out = Path(shutil.copytree(found.out, tmp_path / "out"))
    file = out / "evaluations" / "oracle" / "rate-16, full.json"
    answers = read_json(file)["answers"]
    file.write_text(file.read_text()[:100])
    said: list[str] = []
    run(out, scale=TINY, say=said.append)
    assert [line for line in said if line.endswith("…")] == ["answer at rate 16, oracle pool …"]
    assert read_json(file)["answers"] == answers
    for damage in ("{}", "[]"):
        (out / "rate-4" / "manifest.json").write_text(damage)
        with pytest.raises(InputError, match="rate-4"):
            run(out, scale=TINY)


def test_one_process_makes_the_same_models(done: tuple[Clara, list[str], list[Progress]], tmp_path: Path) -> None:
    found, _, _ = done
    for name in ("dataset", "reader"):
        shutil.copytree(found.out / name, tmp_path / name)
    settings = TINY.overrides(tmp_path / "dataset", tmp_path / "reader" / "model", 16, 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two processes had
    try:
        quickstart_clara._train("rate 16", settings, tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    own = found.out / "rate-16" / "manifest.json"
    assert read_json(tmp_path / "run" / "manifest.json")["model_files"] == read_json(own)["model_files"]


def test_another_scale_is_refused_in_its_folder(done: tuple[Clara, list[str], list[Progress]]) -> None:
    found, _, _ = done
    before = sha256_folder(found.out)
    with pytest.raises(
        InputError, match=r"another dataset is here \(documents, instructed, .* differ: of another version"
    ):
        run(found.out, fast=True)
    assert sha256_folder(found.out) == before
