"""Sweeps: the grid, resumption, refusals before anything is trained, and figures that agree with the evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

import lodesmith as lode
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.events import Event
from lodesmith.core.files import read_json
from lodesmith.evaluation.significance import holm
from lodesmith.recipes import sweep
from lodesmith.recipes.recipe import load
from lodesmith.recipes.sweep_grid import axes_of, grid, places, split_values
from lodesmith.recipes.sweep_report import Report
from lodesmith.recipes.sweep_results import CLOCK, averaged, curve_of
from lodesmith.testing import tiny_dataset
from lodesmith.training.metrics import read_metrics
from tiny_models import build

SHORT = {"stages.0.epochs": 2, "stages.0.batch_size": 16, "stages.0.optim.lr": 3e-3}
TEMPERATURES: dict[str, list[Any]] = {"temperature": [0.02, 0.5], "seed": [0, 1]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[dict[str, Any]]:
    """A dataset, a base and a vector cache that the tests of this file share."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LODESMITH_CACHE", str(folder / "cache"))
        data = tiny_dataset(80).save(folder / "tiny")
        yield {"data": str(data), "base": str(tiny_model), **SHORT}


@pytest.fixture(scope="module")
def report(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A finished sweep: two temperatures, two seeds."""
    return sweep.run("isotropic", world, TEMPERATURES, out=tmp_path_factory.mktemp("whole") / "out")


def bag(path: Path, **contrast: Any) -> Path:
    """A small recipe of a tower."""
    stage = {"objective": {"use": "contrast"} | contrast, "batch_size": 16, "epochs": 2, "optim": {"lr": 1e-2}}
    tree = {
        "encoder": {"use": "bag", "dimension": 8},
        "vocabulary": {"min_count": 1},
        "stages": [{"name": "c"} | stage],
    }
    path.write_text(yaml.safe_dump(tree))
    return path


class Watch:
    """Takes events, and remembers which runs were trained; stops like a kill after so many checkpoints."""

    def __init__(self, kill_after: int = 10_000) -> None:
        self.steps, self.resumed, self.left = 0, 0, kill_after

    def __call__(self, happenings: Iterator[Event]) -> None:
        for event in happenings:
            self.steps += isinstance(event, events.Step)
            self.resumed += isinstance(event, events.Resumed)
            self.left -= isinstance(event, events.Checkpoint)
            if not self.left:
                raise KeyboardInterrupt


# ------------------------------------------------------------------------ the grid


def test_values_are_split_outside_of_brackets_and_quotes() -> None:
    assert split_values('0,.01, [1,2],{a: 1, b: 2},"x,y"') == ["0", ".01", "[1,2]", "{a: 1, b: 2}", '"x,y"']


def test_an_override_with_several_values_is_swept_but_data_is_not() -> None:
    axes, plain = axes_of(["seed=0,1"], ["data=a,b", "kind=linear,mlp", "stages.0.epochs=3"])
    assert [(axis.key, axis.values) for axis in axes] == [("seed", ("0", "1")), ("kind", ("linear", "mlp"))]
    assert plain == ["data=a,b", "stages.0.epochs=3"]


def test_a_short_key_is_the_one_place_that_has_it() -> None:
    one, two = load("isotropic"), load("two_tower_bag")
    assert places("temperature", one) == ["stages.0.objective.temperature"]
    assert places("objective.temperature", one) == ["stages.0.objective.temperature"]
    assert places("kind", one) == places("encoder.kind", one) == ["encoder.kind"]
    assert places("freeze_base", one) == ["encoder.freeze_base"]  # not in the YAML: the signature has it
    assert places("lr", one) == ["stages.0.optim.lr"]
    assert places("margin", two) == ["stages.0.objective.margin"]
    assert places("stages.*.optim.lr", two) == ["stages.0.optim.lr", "stages.1.optim.lr"]
    with pytest.raises(
        ConfigError, match=r"stages\.0\.optim\.lr, stages\.1\.optim\.lr\n.*stages\.\*\.optim\.lr for all"
    ):
        places("lr", two)
    with pytest.raises(ConfigError, match=r"called 'temprature'\ndid you mean 'temperature'"):
        places("temprature", one)


def test_the_grid_has_every_combination_and_repeats_it_by_seed() -> None:
    found = grid(["isotropic"], ["data=x"], ["temperature=.02,5e-1", "kind=linear,residual_linear", "seed=3,0"])
    names = [setting.name for setting in found.settings]
    assert names[:2] == ["temperature=0.02, kind=linear", "temperature=0.02, kind=residual_linear"]
    assert len(names) == 4
    assert {setting.seeds for setting in found.settings} == {(3, 0)}
    assert found.settings[2].values == {"temperature": 0.5, "kind": "linear"}
    assert found.settings[2].run_name(3) == "temperature=0.5,kind=linear,seed=3"
    assert dict(found.axes) == {"temperature": ("0.02", "0.5"), "kind": ("linear", "residual_linear")}
    more = grid(["isotropic"], ["data=x"], ["temperature=.02,.5,.7", "kind=linear,residual_linear", "seed=0,1"])
    assert more.key == found.key  # more values go on in the same folder
    assert grid(["isotropic"], ["data=x", "stages.0.epochs=3"], ["kind=linear,residual_linear"]).key != found.key


@pytest.mark.parametrize(
    ("sweeps", "said"),
    [
        (["temperature"], "is not a sweep"),
        (["temperature=0.1,"], "is not a sweep"),
        (["temperature=0.1,0.1"], "comes twice"),
        (["temperature=0.1,0.10"], "are the same recipe"),
        (["temperature=0.1,0.2", "temperature=0.3"], "names 'temperature' twice"),
        (["seed=0,1,01"], "a seed comes twice"),
        (["seed=0,one"], "seed: Input should be a valid integer"),
        (["data=a,b"], "data cannot be swept"),
        (["evaluation.split=dev,test"], r"evaluation\.split cannot be swept"),
        (["stages.0.epochs=1,none"], r"with stages\.0\.epochs=none: stages\.0\.epochs"),
        (["stages.7.epochs=1,2"], "'7' is no position"),
        (["stages.0.epoch=1,2"], "did you mean 'epochs'"),
        (["stages.0.optim.lr=1e-3,inf"], r"with stages\.0\.optim\.lr=inf: stages\.0\.optim\.lr is inf"),
        (
            ["temperature=0.1,0.2", "stages.*.objective.temperature=0.3,0.4"],
            r"both set stages\.0\.objective\.temperature",
        ),
        ([f"temperature={','.join(map(str, range(1, 102)))}", f"seed={','.join(map(str, range(10)))}"], "1,010 runs"),
    ],
)
def test_a_wrong_sweep_is_refused(sweeps: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid(["isotropic"], ["data=x"], sweeps)


def test_nothing_is_trained_where_one_combination_is_wrong(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (
        ({"temperature": [0.1, 0]}, "temperature=0: stages.0.objective: the temperature must be above 0"),
        ({"temperature": [0.1, "hot"]}, "temperature=hot: .*valid number"),
        ({"stages.0.objective.temprature": [0.1, 0.2]}, "did you mean 'temperature'"),
        ({"encoder.use": ["projected", "projcted"]}, "did you mean 'projected'"),
    )
    for sweeps, said in wrong:
        with pytest.raises(ConfigError, match=said):
            sweep.run("isotropic", world, sweeps, out=tmp_path / "out")
    with pytest.raises(InputError, match="has no split 'tset'"):
        sweep.plan(["isotropic"], world | {"evaluation.split": "tset"}, {"seed": [0]}, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="has no data"):
        sweep.plan(["isotropic"], {}, {"seed": [0, 1]}, out=tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="in one process"):
        sweep.plan(["isotropic"], world, {"seed": [0, 1]}, out=tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()


# ------------------------------------------------------------------------ figures


def test_the_table_s_means_are_those_of_the_evaluation_files(report: Report) -> None:
    found = read_json(report.out / "sweep.json")
    assert found == json.loads(json.dumps(report.to_json()))
    assert [row["settings"] for row in found["settings"]] == [{"temperature": 0.02}, {"temperature": 0.5}]
    for row in found["settings"]:
        assert row["seeds"] == [0, 1]
        each = [lode.Evaluation.load(report.out / run["run"] / "evaluation.json") for run in row["runs"]]
        for measure, told in row["measures"].items():
            values = [evaluation.measures[measure].mean for evaluation in each]
            assert told["mean"] == pytest.approx(fmean(values), abs=1e-12)
            assert told["sd"] == pytest.approx(stdev(values), abs=1e-12)
            assert (told["min"], told["max"]) == (min(values), max(values))
        merged = lode.Evaluation.load(report.out / "evaluations" / f"{row['name']}.json")
        assert merged.measures["nDCG@10"].mean == pytest.approx(row["measures"]["nDCG@10"]["mean"], abs=1e-12)
        for query, values in merged.per_query.items():
            assert values["RR@10"] == pytest.approx(fmean(e.per_query[query]["RR@10"] for e in each))
        assert f"{row['measures']['nDCG@10']['mean']:.3f}" in (report.out / "sweep.md").read_text()


def test_seeds_are_repetitions_that_differ(report: Report) -> None:
    runs = [load(report.out / run["run"] / "recipe.yaml") for run in report.to_json()["settings"][0]["runs"]]
    assert [recipe.seed for recipe in runs] == [0, 1]
    metrics = [read_metrics(report.out / outcome.run / "metrics.jsonl") for outcome in report.results[0].outcomes]
    losses = [[row["total"] for row in rows if row["event"] == "step"] for rows in metrics]
    assert losses[0] != losses[1]


def test_holm_runs_over_all_pairs_of_settings_and_baselines(report: Report) -> None:
    pairs = report.comparison.pairs
    systems = {"temperature=0.02", "temperature=0.5", "random", "bm25", "model"}
    assert {name for pair in pairs for name in (pair.a, pair.b)} == systems
    assert len(pairs) == 10
    assert [pair.p_holm for pair in pairs] == pytest.approx(holm([pair.p for pair in pairs]))
    assert report.comparison.baseline == "temperature=0.02"
    assert lode.compare(list(map(lode.Evaluation.load, sorted((report.out / "evaluations").glob("*.json"))))).pairs


def test_times_curves_and_pictures_are_written(report: Report) -> None:
    for result in report.results:
        assert result.seconds is not None
        assert result.seconds > 0
        for outcome in result.outcomes:
            assert [round(point.epochs, 6) for point in outcome.curve.points] == [0, 1, 2]
            assert outcome.seconds == read_json(report.out / outcome.run / CLOCK)["seconds"]
    page = (report.out / "report.html").read_text()
    assert page.count("<polyline") > 8
    for key in ("results", "settings", "curves", "swept", "pairs-tested"):
        assert page.count(f'<section id="{key}">') == 1, key
    assert "![Validation curves](curves.svg)" in (report.out / "sweep.md").read_text()
    assert (report.out / "curves.svg").read_text().startswith("<svg")


def test_a_mean_over_seeds_needs_the_same_queries_and_keeps_costs() -> None:
    def evaluation(value: float) -> lode.Evaluation:
        from lodesmith.core.results import Estimate

        rows = {"q1": {"R@1": value}, "q2": {"R@1": 1.0}}
        mean = (value + 1) / 2
        prints = {"model": str(value), "dataset": "d"}
        return lode.Evaluation("s", "d", "test", 2, {"R@1": Estimate(mean, 0, 1)}, rows, {"parameters": 4}, prints)

    found = averaged([evaluation(0.0), evaluation(1.0)], "both")
    found.check()
    assert found.per_query["q1"]["R@1"] == 0.5
    assert found.measures["R@1"].mean == 0.75
    assert found.measures["R@1"].low < 0.75 <= found.measures["R@1"].high
    assert found.cost["parameters"] == 4


def test_curves_count_epochs_over_stages() -> None:
    def row(kind: str, step: int, epoch: int, stage: str, **more: Any) -> dict[str, Any]:
        return {"event": kind, "step": step, "epoch": epoch, "stage": stage, "measures": {"m": float(step)}, **more}

    rows = [
        row("validation", 0, 1, "a", best=True),
        row("validation", 5, 1, "a"),
        row("step", 10, 2, "a"),
        row("validation", 10, 2, "a"),
        row("validation", 10, 1, "b", best=True),
        row("validation", 13, 1, "b", best=True),
        row("validation", 16, 2, "b", best=False),
        row("done", 16, 2, "b"),
    ]
    curve = curve_of(rows)
    assert [point.epochs for point in curve.points] == [0, 1, 2, 2, 3, 4]
    assert curve.best is not None
    assert (curve.best.stage, curve.best.epoch, curve.best.measures) == (1, 1.0, {"m": 13.0})


# ------------------------------------------------------------------------ going on


def test_killed_and_started_again_it_ends_as_if_it_had_not_been(
    world: dict[str, Any], report: Report, tmp_path: Path
) -> None:
    def planned() -> sweep.Sweep:
        return sweep.plan(["isotropic"], world, TEMPERATURES, out=tmp_path / "out")

    with pytest.raises(KeyboardInterrupt):
        planned().run(follow=Watch(kill_after=3))
    states = [run.state for run in planned().runs]
    assert states == ["finished", "begun", "new", "new"]
    watch = Watch()
    again = planned().run(follow=watch)
    assert watch.resumed == 1
    for ours, theirs in zip(again.results, report.results, strict=True):
        assert [e.per_query for e in ours.evaluations] == [e.per_query for e in theirs.evaluations]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("evaluation.json")}
    once_more = Watch()
    assert planned().run(follow=once_more).to_json() == again.to_json()
    assert once_more.steps == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_in_the_same_folder_are_refused_and_a_new_value_is_added(
    world: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sweep.run("isotropic", world, {"temperature": [0.1]}, out=out)
    with pytest.raises(ResumeError, match=r"epochs was 2, is 3"):
        sweep.plan(["isotropic"], world | {"stages.0.epochs": 3}, {"temperature": [0.1, 0.2]}, out=out)
    wider = sweep.plan(["isotropic"], world, {"temperature": [0.1, 0.2]}, out=out)
    assert [run.state for run in wider.runs] == ["finished", "new"]
    assert len(wider.run().results) == 2
    sweep.run("isotropic", world, {"temperature": [0.2]}, out=out)
    assert not (out / "evaluations" / "temperature=0.1.json").exists()


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(world: dict[str, Any], tmp_path: Path) -> None:
    loose = world | {"stages.0.optim.clip": None, "stages.0.epochs": 3}
    found = sweep.run("isotropic", loose, {"lr": [1e-3, 1e-2, 1e38]}, out=tmp_path / "out")
    good, other, bad = found.to_json()["settings"]
    assert (good["state"], other["state"], bad["state"]) == ("finished", "finished", "failed")
    diagnosis = bad["runs"][0]["diagnosis"]
    assert diagnosis["state"] == "failed"
    assert "nan" in {problem["cause"] for problem in diagnosis["problems"]}
    assert bad["name"] not in found.comparison.systems
    assert found.comparison.pair(other["name"], good["name"]).queries == 20
    assert list(found.failures) == ["lr=1e+38, seed 0"]
    for name in ("sweep.md", "report.html"):
        assert "not compared" in (tmp_path / "out" / name).read_text(), name


# ------------------------------------------------------------------------ bases, recipes, forecast


def test_a_sweep_over_bases_has_each_base_as_a_baseline(world: dict[str, Any], tmp_path: Path) -> None:
    other = build(tmp_path / "second", "mpnet")
    found = sweep.run("isotropic", world, {"base": [world["base"], str(other)]}, out=tmp_path / "out")
    assert [result.name for result in found.results] == ["base=model", "base=second"]
    assert [e.system for e in found.baselines] == ["random", "bm25", "model", "second"]
    first, second = (result.evaluations[0].fingerprints["model"] for result in found.results)
    assert first != second
    assert (tmp_path / "out" / "runs" / "base=second,seed=0" / "model" / "modules.json").is_file()


def test_several_recipes_are_settings_and_their_drawn_weights_a_baseline(world: dict[str, Any], tmp_path: Path) -> None:
    sources = [str(bag(tmp_path / "plain.yaml")), str(bag(tmp_path / "warm.yaml", temperature=0.5))]
    found = sweep.run(sources, {"data": world["data"]}, {"seed": [0, 1]}, out=tmp_path / "out")
    assert [result.name for result in found.results] == ["plain", "warm"]
    assert dict(found.grid.axes) == {"recipe": ("plain", "warm")}
    assert [e.system for e in found.baselines] == ["random", "bm25", "untrained"]
    assert (tmp_path / "out" / "runs" / "warm,seed=1" / "model").is_dir()
    copy = tmp_path / "copy.yaml"
    copy.write_text((tmp_path / "plain.yaml").read_text())
    with pytest.raises(ConfigError, match="'plain' and 'copy' are the same recipe"):
        sweep.plan([sources[0], str(copy)], {"data": world["data"]})
    elsewhere = tiny_dataset(60).save(tmp_path / "other")
    apart = bag(tmp_path / "apart.yaml", temperature=0.7)
    apart.write_text(apart.read_text() + f"data: {{path: {elsewhere}}}\n")
    here = bag(tmp_path / "here.yaml")
    here.write_text(here.read_text() + f"data: {{path: {world['data']}}}\n")
    with pytest.raises(ConfigError, match=r"data is .*tiny in 'here' and .*other in 'apart'"):
        sweep.plan([str(here), str(apart)])


def test_the_forecast_sums_what_is_left(world: dict[str, Any], report: Report, tmp_path: Path) -> None:
    fresh = sweep.plan(["isotropic"], world, TEMPERATURES, out=tmp_path / "out").forecast()
    assert [run["state"] for run in fresh["runs"]] == ["new"] * 4
    assert fresh["sum"]["steps"] == sum(run["steps"]["contrast"] for run in fresh["runs"])
    assert fresh["sum"]["to_train"] == 4
    assert fresh["sum"]["memory_bytes"] > 0
    assert not (tmp_path / "out").exists()
    wider = sweep.plan(["isotropic"], world, TEMPERATURES | {"seed": [0, 1, 2]}, out=report.out).forecast()
    assert wider["sum"]["to_train"] == 2
    assert wider["sum"]["steps"] * 2 == fresh["sum"]["steps"]


def test_a_key_of_groups_alone_is_found_there() -> None:
    assert places("freeze_epochs", load("isotropic", {"data": "some"})) == ["stages.0.optim.groups.0.freeze_epochs"]
