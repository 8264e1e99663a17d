"""A training explained from its metrics file alone, with everything else deleted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ailing_training as ailing
import pytest
import torch

from lodesmith.core.errors import InputError, LodesmithError
from lodesmith.training import Stage, fit, read_metrics, record
from lodesmith.training.diagnosis import Diagnosis, diagnose
from lodesmith.training.metrics import read_lenient


def lines_of(plan: Stage, path: Path, **options: Any) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    try:
        for _ in record(fit([plan], **options), path):
            pass
    except LodesmithError:
        pass
    return read_metrics(path)


def causes(found: Diagnosis) -> list[str]:
    return [problem.cause for problem in found.problems]


@pytest.mark.parametrize(
    ("name", "first", "tried"),
    [
        ("seeds_collapse", "collapse", None),  # no setting makes a tower see its text
        ("easy_negatives", "zero", "stages.0.objective.negatives=semi_hard"),
        ("alone", "zero", "stages.0.batch_size=64"),
        ("no_clipping", "nan", "stages.0.optim.clip=1.0"),
        ("sigmoids", "vanishing", "stages.0.optim.lr=0.03"),
        ("dead_group", "frozen", "stages.0.optim.groups=[]"),
        ("frozen_in_vain", "frozen", "stages.0.optim.groups=[]"),
        ("twenty_pairs", "overfitting", "stages.0.patience=3"),
        ("duplicates", "duplicates", "stages.0.batch_size=16"),
    ],
)
def test_each_fault_is_found_in_the_metrics_alone(name: str, first: str, tried: str | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = lines_of(getattr(ailing, name)(), path, log_every=2)
    found = diagnose(rows)
    assert found.problems[0].cause == first
    assert tried in found.problems[0].tries if tried else not found.problems[0].tries
    assert not found.healthy
    told = [row for row in rows if row["event"] != "warning"]
    again = diagnose(told)
    from_events = {"vanishing", "collapse", "zero", "overfitting", "duplicates", "exploding"}
    if first in from_events:  # the rules need no warning of the training's own
        assert [(p.cause, p.step, p.message) for p in again.problems] == [
            (p.cause, p.step, p.message) for p in found.problems
        ]


def test_a_wrong_join_is_found_by_its_ranks(tmp_path: Path) -> None:
    found = diagnose(lines_of(ailing.wrong_join(), tmp_path / "metrics.jsonl"))
    assert causes(found) == ["join"]
    assert "of their negatives above them" in found.problems[0].message


@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_healthy_training_it_says_so(seed: int, tmp_path: Path) -> None:
    plan = ailing.healthy(seed)
    found = diagnose(lines_of(plan, tmp_path / "metrics.jsonl", log_every=5))
    assert found.healthy
    assert found.state == "finished"
    (stage,) = found.stages
    assert stage.loss is not None
    assert stage.loss[1] < stage.loss[0]
    assert (stage.last_step, stage.planned) == (144, 144)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_diverged_training_has_failed_and_one_without_an_end_is_incomplete(tmp_path: Path) -> None:
    found = diagnose(lines_of(ailing.huge_rate(), tmp_path / "metrics.jsonl"))
    assert (found.state, causes(found)) == ("failed", ["nan"])
    assert found.problems[0].tries == ("stages.0.optim.lr=0.0001", "stages.0.optim.clip=1.0")
    rows = lines_of(ailing.healthy(0), tmp_path / "metrics.jsonl", log_every=5)
    found = diagnose(rows[:9])
    assert found.state == "incomplete"
    assert "of 144 planned" in found.reason
    assert not found.healthy
    assert diagnose([]).state == "empty"


def test_cures_name_the_recipe_s_own_values(tmp_path: Path) -> None:
    rows = lines_of(ailing.huge_rate(), tmp_path / "metrics.jsonl")
    recipe = {"stages": [{"name": "before"}, {"name": "one", "optim": {"lr": 0.5, "clip": 2.0}}]}
    assert diagnose(rows, recipe).problems[0].tries == ("stages.1.optim.lr=0.05",)
    rows = lines_of(ailing.alone(), tmp_path / "metrics.jsonl")
    recipe = {"stages": [{"name": "one", "batch_size": 48, "objective": {"use": "contrast"}}]}
    assert diagnose(rows, recipe).problems[0].tries == ("stages.0.batch_size=96",)
    recipe = {"stages": [{"name": "one", "objective": {"use": "triplet", "negatives": "semi_hard"}, "batch_size": 32}]}
    assert diagnose(rows, recipe).problems[0].tries == ("stages.0.objective.negatives=batch_hard",)
    assert diagnose(rows, {"stages": "nonsense"}).problems


def validation(step: int, *values: float, best: bool = False) -> dict[str, Any]:
    measures = dict(zip(("loss", "nDCG@10"), values, strict=False))
    return {
        "event": "validation",
        "step": step,
        "epoch": step // 10 + 1,
        "stage": "s",
        "measures": measures,
        "best": best,
    }


def test_the_monitored_measure_is_known_by_what_was_best() -> None:
    rows = [validation(0, 0.9, 0.1, best=True), validation(10, 0.7, 0.3, best=True), validation(20, 0.6, 0.2)]
    (stage,) = diagnose(rows).stages
    assert (stage.measure, stage.best, stage.best_step, stage.last) == ("nDCG@10", 0.3, 10, 0.2)
    rows[2]["best"] = True
    assert diagnose(rows).stages[0].measure == "loss"


def test_notes_tell_what_is_no_fault() -> None:
    rising = [validation(0, 1, 0.1, best=True), validation(10, 1, 0.2, best=True), validation(20, 1, 0.3, best=True)]
    assert "still rising" in diagnose(rising).notes[0]
    assert "stages.0.epochs=6" in diagnose(rising).notes[0]
    told = {
        "event": "warning",
        "step": 4,
        "epoch": 1,
        "stage": "s",
        "message": "resumed with threads 2",
        "cure": "use 1",
    }
    assert diagnose([told]).notes == ("step 4: resumed with threads 2 (use 1)",)


def test_broken_lines_are_located_and_the_rest_is_used(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = lines_of(ailing.easy_negatives(), path, log_every=2)
    raw = path.read_text().splitlines(keepends=True)
    raw[1] = "nonsense\n"
    raw.insert(3, '{"event": "step", "step": "two", "epoch": 1, "stage": "s"}\n')
    raw.insert(4, '{"event": "step", "step": 2, "epoch": 1, "stage": "s", "terms": {"a": "b"}}\n')
    path.write_text("".join(raw) + '{"event": "step", "st')
    good, broken = read_lenient(path)
    assert len(good) == len(rows) - 1
    assert [line.removeprefix(str(path)).split(":")[1] for line in broken] == ["2", "4", "5", str(len(rows) + 3)]
    assert "not valid JSON" in broken[0]
    assert "'step' is 'two'" in broken[1]
    assert "killed while it wrote" in broken[3]
    assert causes(diagnose(good)) == ["zero"]
    with pytest.raises(InputError, match="cannot be read"):
        read_lenient(tmp_path / "absent")


def test_lines_with_null_where_the_number_was_none() -> None:
    row = {"event": "step", "step": 1, "epoch": 1, "stage": "s", "terms": {"a": None}, "total": None, "lr": {"d": None}}
    found = diagnose([{**row, "step": number, "grad_norm": {"d": None}} for number in range(1, 20)])
    assert found.state == "incomplete"
    assert not found.problems


def test_it_needs_no_torch() -> None:
    code = "import sys, lodesmith.training.diagnosis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
