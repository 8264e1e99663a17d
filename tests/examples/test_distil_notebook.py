"""examples/distil.ipynb: executed whole, on MS MARCO's files as they are published, of a tiny collection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lodesmith as lode
import mirrors
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation
from lodesmith.testing import tiny_dataset

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "distil.ipynb"
SETTINGS = "stages.0.epochs=1 stages.1.epochs=1 stages.0.batch_size=16 stages.1.batch_size=16 encoder.layers=2"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebook's folder, and the notebook with what it printed."""
    pytest.importorskip("nbclient", reason="lodesmith[notebook] is not installed")
    pytest.importorskip("ipykernel", reason="lodesmith[notebook] is not installed")
    folder, tiny = tmp_path_factory.mktemp("notebook"), tiny_dataset(160)
    places = {key: at for at, key in enumerate(tiny.documents)}
    asked = {
        split: [(tiny.queries[query].text, places[next(iter(found))]) for query, found in tiny.split(split).items()]
        for split in ("train", "dev")
    }
    passages = [document.text for document in tiny.documents.values()]
    mirrors.msmarco(folder / "mirror" / "msmarcoranking", passages, [*asked["train"]], asked["dev"])
    mirrors.sums(folder / "mirror")
    environment = os.environ | {
        "DISTIL_OUT": str(folder / "out"),
        "DISTIL_MIRROR": str(folder / "mirror"),
        "DISTIL_SETTINGS": SETTINGS,
        "LODESMITH_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    script = "from nbclient.cli import main; main()"
    command = [sys.executable, "-c", script, str(NOTEBOOK), f"--output={folder / 'done.ipynb'}", "--timeout=900"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_student_is_measured_on_queries_that_it_never_saw(executed: Path) -> None:
    dataset = Dataset.load(executed / "out" / "msmarco")
    systems = ("random", "bm25", "untrained", "student", "teacher")
    found = {name: Evaluation.load(executed / "out" / f"{name}.json") for name in systems}
    for evaluation in found.values():
        assert evaluation.split == "dev"
        assert set(evaluation.per_query) == set(dataset.split("dev"))
        assert evaluation.fingerprints["dataset"] == dataset.fingerprint
    assert found["student"].fingerprints["model"] == lode.load(executed / "out" / "student").fingerprint
    assert len({evaluation.fingerprints.get("model") for evaluation in found.values()}) == len(systems) - 1
    text = (executed / "out" / "student" / "recipe.yaml").read_text()
    assert "validation: held-out" in text


def test_what_it_says_of_the_saved_models_holds(executed: Path) -> None:
    import nbformat

    cells = nbformat.read(executed / "done.ipynb", 4).cells  # type: ignore[no-untyped-call]
    printed = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    lines = [line for line in printed.splitlines() if "largest difference to ours" in line]
    assert [line.split()[0] for line in lines] == ["model", "model_student"]
    assert all(float(line.rpartition(":")[2]) < 1e-4 for line in lines)
    assert "retained [95" in printed
    near = [
        float(line.partition("cosine to the teacher")[2].split()[0])
        for line in printed.splitlines()
        if "cosine to the teacher" in line
    ]
    assert len(near) == 4
    assert near[0] < near[1] - 0.05, "alignment brings it nearer"
    assert (executed / "out" / "hybrid" / "router.json").is_file()
