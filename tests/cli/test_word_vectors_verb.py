"""`lode train word_vectors` as scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import lode
from lodesmith.testing import tiny_dataset

pytest.importorskip("gensim", reason="pip install 'lodesmith[words]'")
pytestmark = pytest.mark.usefixtures("cache")

SMALL = ("dimension=8", "epochs=2", "min_count=1", "model=cbow")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def test_train_doctor_and_evaluate(capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path) -> None:
    verb = ("train", "word_vectors", f"data={dataset}", *SMALL, "--out", tmp_path / "run", "--json")
    code, out, err = lode(capsys, *verb)
    report = json.loads(out)
    assert code == 0
    assert report["ended"] == "complete"
    assert report["words"] == 22
    assert set(report["coverage"]) == {"documents", "queries"}
    assert report["coverage"]["queries"]["missing"] == {}
    lines = [line.partition(":")[0] for line in err.splitlines() if line.startswith("word_vectors, epoch")]
    assert lines == ["word_vectors, epoch 1, step 1/2", "word_vectors, epoch 2, step 2/2"]
    assert lode(capsys, *verb)[0] == 2
    code, out, _ = lode(capsys, *verb, "--resume")
    assert (code, json.loads(out)["coverage"]) == (0, report["coverage"])
    code, out, _ = lode(capsys, "doctor", tmp_path / "run", "--json")
    assert (code, json.loads(out)["healthy"]) == (0, True)
    code, out, _ = lode(capsys, "evaluate", tmp_path / "run", dataset, "--json")
    assert json.loads(out)["cost"]["parameters"] == 24 * 8


def test_a_slow_epoch_is_said_once(
    capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodesmith.cli.live.EVERY", -1.0)
    _, _, err = lode(capsys, "train", "word_vectors", f"data={dataset}", *SMALL, "--out", tmp_path / "run")
    assert [line.count("step") for line in err.splitlines() if line.startswith("word_vectors, epoch")] == [1, 1]


def test_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path) -> None:
    verb = ("train", "word_vectors", f"data={dataset}", *SMALL, "--out", tmp_path / "run", "--json", "--dry-run")
    code, out, _ = lode(capsys, *verb)
    assert (code, json.loads(out)["vocabulary"]) == (0, 22)
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "skip-gram" in json.loads(lode(capsys, "recipes", "--json")[1])["recipes"]["word_vectors"]
    shown = json.loads(lode(capsys, "recipes", "word_vectors", "--json")[1])
    assert shown["word_vectors"]["subsample"] == 1e-3
    schema = json.loads(lode(capsys, "recipes", "word_vectors", "--schema")[1])
    assert "word_vectors" in schema["required"]
    assert "stages" in json.loads(lode(capsys, "recipes", "--schema")[1])["required"]


def test_wrong_texts_exit_2_without_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("once upon a time")
    for data in (tmp_path / "nowhere", tmp_path, tmp_path / "a.txt"):
        code, out, err = lode(capsys, "train", "word_vectors", f"data={data}", "--out", tmp_path / "run")
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        (tmp_path / "a.txt").write_text("every word is here one time")
