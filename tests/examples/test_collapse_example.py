"""The seed's collapse: provoked by the example, named by the doctor, and gone where the tower reads its texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lodesmith as lode
from lodesmith.core.errors import InputError
from lodesmith.recipes.doctoring import doctor
from lodesmith.training.health import StoppedError

MARGIN = 0.2


@pytest.fixture(autouse=True)
def importable(cache: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(examples))


def train(examples: Path, dataset: Path, out: Path, **more: Any) -> None:
    settings = {"data": str(dataset), "vocabulary.min_count": 1, "stages.0.batch_size": 12, "stages.0.epochs": 12}
    list(lode.train(examples / "collapse.yaml", out=out, **(settings | more)))


def told(run: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """The reports of steps, and nDCG@10 of each validation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measures = [line["measures"]["nDCG@10"] for line in lines if line["event"] == "validation"]
    return [line for line in lines if line["event"] == "step"], measures


def test_the_state_after_the_padding_collapses_and_the_doctor_says_why(
    examples: Path, foreign: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError, match="stopped at step 50 by collapse"):
        train(examples, foreign, tmp_path / "run")
    steps, _ = told(tmp_path / "run")
    assert all(step["total"] == pytest.approx(MARGIN, abs=1e-5) for step in steps)
    assert all(step["evidence"]["spread"] < 1e-5 for step in steps)
    report = doctor(str(tmp_path / "run"))
    assert not report.healthy
    assert [problem["cause"] for problem in report.to_json()["problems"]] == ["collapse"]
    assert "every text gets the same vector" in report.to_text()
    assert "never a state after the padding" in report.to_text()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_same_recipe_with_a_tower_that_reads_its_texts_learns(
    pooling: str, examples: Path, foreign: Path, tmp_path: Path
) -> None:
    train(examples, foreign, tmp_path / "run", **{"encoder.use": "rnn", "encoder.pooling": pooling})
    steps, measures = told(tmp_path / "run")
    assert steps[-1]["total"] < 0.75 * MARGIN
    assert max(measures) > measures[0] + 0.05
    assert doctor(str(tmp_path / "run")).healthy


def test_the_faulty_tower_is_never_taken_for_a_right_one(examples: Path, foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown tower, 'faulty_tower\.ReadsThePadding'"):
        train(examples, foreign, tmp_path / "run", **{"stages.0.epochs": 1, "stop_on": []})
    assert not list((tmp_path / "run" / "evaluations").glob("untrained.json"))
