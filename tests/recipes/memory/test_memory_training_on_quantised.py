"""The recipe `clara` over a base of 4 or 8 bits: three stages, validated, killed and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory_worlds import tensors, training

import causal_models
from lodesmith.core import events
from lodesmith.core.files import sha256_folder
from lodesmith.core.records import Dataset
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes.answering import Plan, answer_dataset

pytest.importorskip("bitsandbytes", "0.50", reason="bitsandbytes has no wheel here: lodesmith[quantised]")
pytestmark = pytest.mark.filterwarnings("ignore:.*")

STAGES = ("compress", "instruct", "end_to_end")
ONCE = {f"stages.{stage}.epochs": 1 for stage in range(3)}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return causal_models.quantised(tmp_path_factory.mktemp("quantised"))


@pytest.mark.parametrize("bits", ["8", "4"])
def test_all_stages_are_trained_and_gone_on_with(
    bits: str, bases: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    whole = list(training(dataset, bases[bits], tmp_path / "whole", **ONCE).events())
    losses = [(event.stage, event.total) for event in whole if isinstance(event, events.Step)]
    assert {stage for stage, _ in losses} == set(STAGES)
    assert all(0 < loss < 20 for _, loss in losses)
    assert {event.stage for event in whole if isinstance(event, events.Validation)} == set(STAGES)
    for event in (cut := training(dataset, bases[bits], tmp_path / "cut", **ONCE).events()):
        if event.stage == "instruct" and isinstance(event, events.Step):
            cut.close()  # with a checkpoint of the stage before it
            break
    again = list(training(dataset, bases[bits], tmp_path / "cut", **ONCE).events())
    assert isinstance(again[0], events.Resumed)
    for folder in ("model", "stages/compress", "stages/instruct"):
        assert sha256_folder(tmp_path / "cut" / folder) == sha256_folder(tmp_path / "whole" / folder)
    begun, ended = (tensors(tmp_path / "whole" / name) for name in ("untrained", "model"))
    assert all(any((begun[part][n] != ended[part][n]).any() for n in begun[part]) for part in begun)
    opened = MemoryEncoder(tmp_path / "whole" / "model")
    assert opened.base_fingerprint == MemoryEncoder(tmp_path / "whole" / "untrained").base_fingerprint
    asked = Plan(("text", "stage1", "full"), documents=2)
    found = [own for own, _ in answer_dataset(str(tmp_path / "whole"), Dataset.load(dataset), asked)]
    assert [evaluation.queries for evaluation in found] == [3, 3, 3]
