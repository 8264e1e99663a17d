"""Many datasets in one call: by folder, by BEIR name, resumable; what is written where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import lode
from lodesmith.core.errors import InputError
from lodesmith.core.results import Evaluation
from lodesmith.recipes import benchmarking
from lodesmith.recipes.benchmarking import evaluate_datasets, targets
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


def made(folder: Path, name: str = "", seed: int = 0, pulled: str = "") -> Path:
    data = tiny_dataset(40, seed)
    info = {"name": name or folder.name} | ({"pull": {"name": pulled}} if pulled else {})
    return replace(data, info=info).save(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LODESMITH_DATA", raising=False)
    return tmp_path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets that are measured."""
    seen: list[str] = []
    real = benchmarking.evaluate_system

    def noted(system, dataset, *rest):  # type: ignore[no-untyped-def]
        seen.append(dataset.name)
        return real(system, dataset, *rest)

    monkeypatch.setattr(benchmarking, "evaluate_system", noted)
    return seen


def test_a_group_is_found_where_a_pull_puts_it(here: Path) -> None:
    for name in ("scifact", "nfcorpus"):
        made(here / "beir-quick" / name, f"beir/{name}")
    found = targets(["beir:quick"])
    assert [(t.folder, t.member) for t in found] == [
        (Path("beir-quick/scifact"), "beir/scifact"),
        (Path("beir-quick/nfcorpus"), "beir/nfcorpus"),
    ]
    assert targets(["beir/nfcorpus", "beir:quick", "beir-quick/scifact"]) == [found[1], found[0]]


def test_a_single_set_is_found_by_its_name_only_where_it_is_that_set(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(here / "scifact", "notes of my own")
    with pytest.raises(InputError, match="lode data pull beir/scifact"):
        targets(["beir/scifact"])
    made(here / "scifact", pulled="beir/scifact")
    assert targets(["beir/scifact"])[0].folder == Path("scifact")
    made(here / "shared" / "fiqa")
    monkeypatch.setenv("LODESMITH_DATA", str(here / "shared"))
    assert targets(["beir/fiqa"])[0].folder == here / "shared" / "fiqa"


def test_what_is_missing_is_told_with_the_command_that_pulls_it(here: Path) -> None:
    made(here / "beir" / "scifact")
    with pytest.raises(InputError) as one:
        targets(["beir:quick"])
    assert "beir/nfcorpus is not here" in one.value.what
    assert one.value.do.endswith("lode data pull beir/nfcorpus")
    with pytest.raises(InputError) as many:
        targets(["beir:standard"])
    assert "beir/fiqa, beir/trec-covid are not here" in many.value.what
    assert many.value.do.endswith("lode data pull beir:standard")
    with pytest.raises(InputError, match="no group 'quik'"):
        targets(["beir:quik"])


def test_msmarco_is_measured_on_the_split_of_its_published_figures(here: Path) -> None:
    made(here / "beir" / "msmarco", "beir/msmarco")
    assert evaluate_datasets("bm25", ["beir/msmarco"]).evaluations[0].split == "dev"
    assert evaluate_datasets("bm25", ["beir/msmarco"], split="train").evaluations[0].split == "train"
    assert evaluate_datasets("bm25", [here / "beir" / "msmarco"]).evaluations[0].split == "test"


def test_finished_datasets_are_kept_and_nothing_else(here: Path, counted: list[str]) -> None:
    folders = [made(here / name, seed=at) for at, name in enumerate("abc")]
    first = evaluate_datasets("bm25", folders[:2], out=here / "out")
    assert (counted, first.kept) == (["a", "b"], ())
    second = evaluate_datasets("bm25", folders, out=here / "out")
    assert (counted, second.kept) == (["a", "b", "c"], ("a", "b"))
    assert second.evaluations[:2] == first.evaluations

    made(here / "b", seed=7)  # other documents
    (here / "out" / "c.json").write_text("{", encoding="utf-8")  # damaged
    assert evaluate_datasets("bm25", folders, out=here / "out").kept == ("a",)
    assert evaluate_datasets("bm25", folders, out=here / "out", measures=["P@3"]).kept == ()
    assert evaluate_datasets("bm25", folders, out=here / "out", measures=["P@3"], split="dev").kept == ()
    assert evaluate_datasets("random", folders, out=here / "out", measures=["P@3"], split="dev").kept == ()


def test_another_model_of_the_same_name_is_measured_again(here: Path, tiny_model: Path, counted: list[str]) -> None:
    import shutil

    shutil.copytree(tiny_model, here / "model")
    folders = [made(here / name, seed=at) for at, name in enumerate("ab")]
    evaluate_datasets("bm25+model", folders, out=here / "out")
    assert evaluate_datasets("bm25+model", folders, out=here / "out").kept == ("a", "b")
    note = here / "model" / "config_sentence_transformers.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"prompts": {"query": "the cat "}}))
    assert evaluate_datasets("bm25+model", folders, out=here / "out").kept == ()


def test_a_missing_run_file_is_made(here: Path, counted: list[str]) -> None:
    folders = [made(here / name) for name in "ab"]
    evaluate_datasets("bm25", folders, out=here / "out")
    again = evaluate_datasets("bm25", folders, out=here / "out", run=here / "runs")
    assert again.kept == ()
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["a.trec", "b.trec"]
    assert evaluate_datasets("bm25", folders, out=here / "out", run=here / "runs").kept == ("a", "b")


def test_of_one_dataset_the_file_is_the_one_named_and_made_anew(here: Path, counted: list[str]) -> None:
    folder = made(here / "a")
    for _ in range(2):
        assert evaluate_datasets("bm25", [folder], out=here / "x.json").kept == ()
    assert counted == ["a", "a"]
    assert Evaluation.load(here / "x.json").dataset == "a"
    assert "request" not in Evaluation.load(here / "x.json").fingerprints
    (here / "there").mkdir()
    evaluate_datasets("bm25", [folder], out=here / "there")
    assert evaluate_datasets("bm25", [folder], out=here / "there").kept == ("a",)


def test_two_datasets_of_one_name_are_refused(here: Path) -> None:
    with pytest.raises(InputError, match="two datasets are called 'same'"):
        evaluate_datasets("bm25", [made(here / "a", "same"), made(here / "b", "same", 1)], out=here / "out")


def test_the_verb_writes_tables_and_averages(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made(here / name, seed=at) for at, name in enumerate("ab")]
    options = ["--out", here / "out", "--markdown", here / "t.md", "--latex", here / "t.tex"]
    code, out, told = lode(capsys, "evaluate", "bm25", *folders, *options, "--measures", "P@3", "--json")
    assert code == 0
    value = json.loads(out)
    means = [found["measures"]["nDCG@10"]["mean"] for found in value["evaluations"]]
    assert value["average"]["nDCG@10"] == pytest.approx(sum(means) / 2)
    assert "| dataset | nDCG@10 | RR@10 | R@100 | P@3 |" in (here / "t.md").read_text()
    assert "\\toprule" in (here / "t.tex").read_text()
    code, out, told = lode(capsys, "evaluate", "bm25", *folders, *options, "--measures", "P@3")
    assert code == 0
    assert "not measured again: a, b" in told
    assert "average of 2" in out


def test_comparisons_write_the_tables_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made(here / name, seed=at) for at, name in enumerate("ab")]
    for system in ("bm25", "random"):
        evaluate_datasets(system, folders, out=here / system)
    files = [here / system / f"{name}.json" for system in ("random", "bm25") for name in "ab"]
    code, _, _ = lode(capsys, "compare", *files, "--markdown", here / "c.md", "--latex", here / "c.tex")
    assert code == 0
    assert "| nDCG@10 | random | bm25 |" in (here / "c.md").read_text()
    assert "average of 2" in (here / "c.tex").read_text()
    code, _, told = lode(capsys, "compare", *files, "--markdown", here / "c", "--latex", here / "c")
    assert code == 2
    assert "same path" in told
