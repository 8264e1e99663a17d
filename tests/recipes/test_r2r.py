"""Reasoning traces in training and evaluation, always with their controls."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
import small_runs

import lodesmith as lode
from command_line import lode as command
from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.recipes.tracing import TraceUse, controls_datasets
from lodesmith.recipes.train import Training, plan
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


def with_column(folder: Path, texts: dict[str, str], name: str = "traces") -> Path:
    with ColumnWriter(folder, name, "query", {"of": texts}) as column:
        for key in column.missing(texts):
            column.add(key, [{"text": texts[key]}] if texts[key] else [])
        column.finish()
    return folder


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Queries that say nothing; their traces say all."""
    words = [f"word{i}x" for i in range(40)]
    documents = [Document(f"d{i}", "", f"a text of {word} and {word}") for i, word in enumerate(words)]
    queries = [Query(f"q{i}", "what is it") for i in range(40)]
    folder = tmp_path / "told"
    Dataset.of(documents, queries, {"test": {f"q{i}": {f"d{i}": 1} for i in range(40)}}, name="told").save(folder)
    return with_column(folder, {f"q{i}": word if i < 38 else "" for i, word in enumerate(words)})


def test_the_three_modes_in_one_paired_table(told: Path, tmp_path: Path) -> None:
    found = controls_datasets("bm25", [told], out=tmp_path / "out", run=tmp_path / "runs")
    none, use, shuffle = found.evaluations
    assert [e.system for e in found.evaluations] == ["bm25, none", "bm25, use", "bm25, shuffle"]
    assert use.measures["nDCG@10"].mean > 0.94
    assert none.measures["nDCG@10"].mean < 0.3
    assert shuffle.measures["nDCG@10"].mean < 0.3
    assert found.comparison.baseline == "bm25, none"
    pair = {frozenset((p.a, p.b)): p for p in found.comparison.pairs}
    assert pair[frozenset(("bm25, none", "bm25, use"))].significant
    assert pair[frozenset(("bm25, use", "bm25, shuffle"))].significant
    assert found.missing == (("told", 2),)
    assert any("'bm25, use' less that of 'bm25, shuffle': +0." in note for note in found.notes)
    assert any("2 of 40 queries have no trace" in note for note in found.notes)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "bm25,_none.json", "bm25,_use.json", "bm25,_shuffle.json"}  # fmt: skip
    assert len(list((tmp_path / "runs").iterdir())) == 3
    prints = [dict(e.fingerprints) for e in found.evaluations]
    assert "traces" not in prints[0]
    assert prints[1]["traces"] != prints[2]["traces"]
    assert none.per_query == lode.evaluate("bm25", Dataset.load(told)).per_query


def test_the_command(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "r.html"
    given = ("evaluate", "bm25", told, "--traces", "fuse:weight=0.4,words=3", "--report", page, "--json")
    code, out, _ = command(capsys, *given)
    assert code == 0
    value = json.loads(out)
    assert value["missing"] == {"told": 2}
    assert len(value["evaluations"]) == 3
    assert "bm25, shuffle" in page.read_text()
    for arguments, said in (
        (("--traces", "fuse:wieght=0.4"), "weight"),
        (("--traces", "apend"), "append"),
        (("--traces", "fuse:weight=much"), "no weight"),
        (("--traces", "fuse:weight=2"), "weight"),
        (("--traces", "append:seed=-1"), "seed"),
        (("--traces", "append:weight=0.3"), "no weight"),
        (("--traces", "append:column=../../x"), "cannot name a column"),
        (("--traces", "append", "--teacher", "random"), "do not go together"),
        (("--traces", "append:column=thoughts"), "no such column"),
    ):
        code, _, error = command(capsys, "evaluate", "bm25", told, *arguments)
        assert (code, said in error) == (2, True), error


def test_a_recorded_run_reads_no_trace(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "evaluate", "bm25", told, "--run", tmp_path / "run.trec")[0] == 0
    for system in (tmp_path / "run.trec", f"bm25+{tmp_path / 'run.trec'}"):
        code, _, error = command(capsys, "evaluate", system, told, "--traces", "append")
        assert (code, "reads no trace" in error) == (2, True)


def test_what_is_measured_beside_changes_no_figure(told: Path) -> None:
    use = TraceUse("fuse", 0.4)
    plain = controls_datasets("bm25", [told], use).evaluations
    deep = controls_datasets("bm25", [told], use, measures=["R@1000"]).evaluations
    assert [e.measures["nDCG@10"].mean for e in plain] == [e.measures["nDCG@10"].mean for e in deep]


def test_a_spelling_of_how_traces_are_used() -> None:
    assert TraceUse.parse("append") == TraceUse()
    assert TraceUse.parse(" fuse : weight=.25, seed=3,column=thoughts ".replace(" : ", ":")) == TraceUse(
        "fuse", 0.25, None, "thoughts", 3
    )
    with pytest.raises(ConfigError, match="twice"):
        TraceUse.parse("fuse:weight=.1,weight=.2")


# ----------------------------------------------------------------------------- training


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tiny_dataset(120).save(tmp_path / "tiny")
    texts = {key: f"thinking of {key} and more" for key in Dataset.load(folder).queries}
    return with_column(folder, texts)


def planned(dataset: Path, model: Path, out: Path, *, reported: bool = False, **more: object) -> Training:
    small = {"encoder.dimension": 8, "stages.0.epochs": 1, **more}
    found = plan("r2r", small_runs.overrides(dataset, model, **small), out=out, resume="auto", reported=reported)
    assert isinstance(found, Training)
    return found


def test_training_reads_traces_and_its_page_holds_the_controls(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    training = planned(dataset, tiny_model, tmp_path / "run", reported=True)
    assert all("thinking of" in text for text in training.pairs.queries.values())
    list(training.events())
    names = {path.stem for path in (tmp_path / "run/evaluations").iterdir()}
    assert {"random", "bm25", "r2r", "r2r, none", "r2r, shuffle"} <= names
    plain = lode.evaluate(str(tmp_path / "run"), Dataset.load(dataset))
    read = json.loads((tmp_path / "run/evaluations/r2r, none.json").read_text())
    assert read["per_query"] == plain.to_json()["per_query"]  # without traces it is the model on the queries
    page = (tmp_path / "run/report.html").read_text()
    assert "of 'r2r' less that of 'r2r, shuffle'" in html.unescape(page)


def test_a_control_is_another_experiment_and_none_is_late(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    runs = {mode: planned(dataset, tiny_model, tmp_path / mode, **{"traces.mode": mode}) for mode in
            ("none", "use", "shuffle")}  # fmt: skip
    assert len({training.recipe.fingerprint for training in runs.values()}) == 3
    asked = {mode: training.pairs.queries for mode, training in runs.items()}
    assert asked["none"].keys() == asked["use"].keys()
    assert all(asked["shuffle"][key] != asked["use"][key] for key in asked["use"])
    assert all(asked["use"][key] == f"{asked['none'][key]} thinking of {key} and more" for key in asked["use"])
    for training in (runs["none"],):
        list(training.events())
    late = plan("late", small_runs.overrides(dataset, tiny_model, **{"encoder.dimension": 8, "stages.0.epochs": 1}),
                out=tmp_path / "late", reported=False)  # fmt: skip
    list(late.events())
    assert small_runs.equal(tmp_path / "none", tmp_path / "late")


def test_no_training_query_gets_a_test_querys_trace(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    training = planned(dataset, tiny_model, tmp_path / "run", **{"traces.mode": "shuffle"})
    data = Dataset.load(dataset)
    train = set(data.split("train"))
    for text in training.pairs.queries.values():
        assert text.split("thinking of ")[1].split()[0] in train


def test_without_traces_none_has_no_controls(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_dataset(120).save(tmp_path / "bare")
    list(planned(folder, tiny_model, tmp_path / "run", reported=True, **{"traces.mode": "none"}).events())
    assert "There are no traces" in (tmp_path / "run/report.html").read_text()
    with pytest.raises(ConfigError, match="asked without traces"):
        planned(folder, tiny_model, tmp_path / "x", **{"evaluation.validate_on": str(folder)})


def test_other_traces_are_other_data(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    list(planned(dataset, tiny_model, tmp_path / "run").events())
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["columns"].keys() == {"traces"}
    (tmp_path / "run/model/modules.json").unlink()
    with_column(dataset, dict.fromkeys(Dataset.load(dataset).queries, "something else"))
    with pytest.raises(ResumeError, match="changed"):
        list(planned(dataset, tiny_model, tmp_path / "run").events())


def test_without_traces_of_the_training_queries_nothing_begins(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_dataset(120).save(tmp_path / "bare")
    with pytest.raises(InputError, match="no such column"):
        list(planned(folder, tiny_model, tmp_path / "one").events())
    with_column(folder, dict.fromkeys(Dataset.load(folder).split("test"), "hm hm"))
    with pytest.raises(InputError, match="has no trace of any query of 'train'"):
        list(planned(folder, tiny_model, tmp_path / "two").events())
    with_column(folder, dict.fromkeys(list(Dataset.load(folder).split("train"))[:3], "hm hm"))
    training = planned(folder, tiny_model, tmp_path / "three")
    assert sum("hm hm" in text for text in training.pairs.queries.values()) == 3
