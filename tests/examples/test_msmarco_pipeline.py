"""examples/two_tower.sh: from MS MARCO as it is published, over a mirror, to an index that answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import mirrors
from lodesmith.cli.main import main
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation
from lodesmith.recipes.recipe import load
from lodesmith.testing import tiny_dataset

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "two_tower.sh"
SETTINGS = (
    "stages.0.epochs=1 stages.1.epochs=2 stages.0.batch_size=8 stages.1.batch_size=8 "
    "encoder.words=16 encoder.hidden=16 vocabulary.min_count=1"
)
QUERIES = "passage 3\n\nsomething said\n"
SYSTEMS = {"random", "bm25", "untrained", "two_tower_rnn"}


class Pipeline(NamedTuple):
    """What the script left behind."""

    out: Path
    mirror: str
    told: str

    @property
    def run(self) -> str:
        return str(self.out / "two_tower_rnn")


def script(
    *arguments: str | Path, cwd: Path, stdin: str = "", check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"LODESMITH_CACHE": str(cwd / "cache"), "SETTINGS": SETTINGS} | variables
    command = ["sh", str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, timeout=280, check=False
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The whole script, once, over a mirror that is gone afterwards."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("pipeline")
    with mirrors.serve(mirrors.build(folder / "mirror")) as mirror:
        done = script(folder / "out", "--from", mirror.url, cwd=folder, stdin=QUERIES)
    return Pipeline(folder / "out", mirror.url, done.stdout)


pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_the_index_answers(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path))
    collection = Dataset.load(pipeline.out / "msmarco").documents
    answers = json.loads(Path(f"{pipeline.run}-answers.json").read_text())["queries"]
    assert [answer["query"] for answer in answers] == QUERIES.split("\n")[0:3:2]
    with pytest.raises(SystemExit) as ended:
        main(["search", f"{pipeline.run}-index", "passage 3", "-k", "10", "--json"])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)["queries"][0]
    scores = [[hit["score"] for hit in answer["hits"]] for answer in (found, answers[0])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5), "alone as in a batch"
    hits = [hit["id"] for hit in found["hits"]]
    assert len(hits) == len(set(hits)) == 10
    assert all(collection[hit["id"]].text == hit["text"] for hit in found["hits"])
    manifest = json.loads(Path(f"{pipeline.run}-index/manifest.json").read_text())
    assert (manifest["index"], manifest["items"]) == ("hnsw", len(collection))


def test_every_system_is_measured_on_the_development_queries(pipeline: Pipeline) -> None:
    found = {path.stem: Evaluation.load(path) for path in Path(f"{pipeline.run}-evaluations").iterdir()}
    assert set(found) == SYSTEMS
    dataset = Dataset.load(pipeline.out / "msmarco")
    for name, evaluation in found.items():
        assert (evaluation.system, evaluation.dataset, evaluation.split) == (name, "msmarco", "dev")
        assert set(evaluation.per_query) == set(dataset.split("dev"))
        assert evaluation.fingerprints["dataset"] == dataset.fingerprint
    index = json.loads(Path(f"{pipeline.run}-index/manifest.json").read_text())
    assert found["two_tower_rnn"].fingerprints["model"] == index["model"]
    assert found["untrained"].fingerprints["model"] != index["model"]
    assert all(name in Path(f"{pipeline.run}-report.html").read_text() for name in SYSTEMS)


def test_what_is_measured_chooses_no_weights(pipeline: Pipeline) -> None:
    recipe = load(f"{pipeline.run}/recipe.yaml")
    assert recipe.data.validation not in (None, *Dataset.load(pipeline.out / "msmarco").judgements)


def test_what_it_took_is_told(pipeline: Pipeline) -> None:
    table = pipeline.told.rpartition("command")[2].splitlines()
    rows = {line[:28].strip(): [float(figure) for figure in line[28:].split()] for line in table[1:-1]}
    assert [name for name in rows if not name.startswith("evaluate")] == [
        *("data pull", "data check", "train two_tower_rnn", "encode two_tower_rnn", "index build"),
        "all; the most",
    ]
    minutes, most = rows.pop("all; the most")
    assert minutes == pytest.approx(sum(row[0] for row in rows.values()), abs=0.01)
    assert most == max(row[1] for row in rows.values()) > 0.1
    assert "passage ranking" in pipeline.told


def test_the_same_command_again_makes_only_what_is_missing(pipeline: Pipeline) -> None:
    """The mirror is gone, too."""
    before = state(pipeline.out)
    Path(f"{pipeline.run}-evaluations/bm25.json").unlink()
    shutil.rmtree(f"{pipeline.run}-index")
    script(pipeline.out, "--from", pipeline.mirror, cwd=pipeline.out.parent)
    after = state(pipeline.out)
    assert set(after) == set(before)
    anew = {name for name in before if after[name] != before[name]}
    assert anew, "what is missing is made"
    allowed = ("-index/", "-evaluations/bm25.json", "-report.html", "-cost.txt", "-queries.txt", ".lock")
    assert not [name for name in anew if not any(part in name for part in allowed)]
    values = [name for name in before if name.endswith("vectors/000001/values.npy")]
    assert [before[name][1] for name in values] == [after[name][1] for name in values] != []


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Each file's time and digest."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def test_usage(tmp_path: Path) -> None:
    done = script(cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sh examples/two_tower.sh OUT [DATASET | --from MIRROR]")
    assert done.stderr.endswith("(test where there is one, else dev)\n")


def test_paths_that_look_like_options_and_a_split_that_is_not_there(tmp_path: Path) -> None:
    tiny_dataset(8).save(tmp_path / "-da ta")
    done = script("-o ut", "-da ta", cwd=tmp_path, check=False, SPLIT="nope")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: ./-da ta has no split nope"
    assert [path.name for path in (tmp_path / "-o ut").iterdir()] == ["two_tower_rnn-cost.txt"]


def test_an_error_ends_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = script(tmp_path / "out", tmp_path / "empty", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "no judgements" in done.stdout
    assert not (tmp_path / "out/two_tower_rnn").exists()


@pytest.mark.slow
def test_a_dataset_folder_with_a_test_split(tmp_path: Path) -> None:
    data = tiny_dataset(60).save(tmp_path / "a folder")
    settings = SETTINGS.replace("encoder.words=16 encoder.hidden=16", "encoder.dimension=16")
    script(tmp_path / "out", data, cwd=tmp_path, RECIPE="two_tower_bag", SETTINGS=settings)
    run = tmp_path / "out/two_tower_bag"
    assert load(run / "recipe.yaml").data.validation == "dev"
    assert Evaluation.load(f"{run}-evaluations/two_tower_bag.json").split == "test"
    assert not Path(f"{run}-answers.json").exists(), "nothing was asked"
