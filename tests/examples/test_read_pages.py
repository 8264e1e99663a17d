"""examples/read_pages.py: a model that learns to read pages; here for a moment, in the slow tier until it can."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "read_pages.py"


def run(folder: Path, *more: str) -> tuple[list[float], dict[str, float]]:
    """The losses it prints, and the nDCG@5 of each system."""
    environment = os.environ | {"LODESMITH_CACHE": str(folder / "cache"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT), str(folder / "out"), *more]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    measured = re.findall(r"^(\w+): nDCG@5 ([\d.]+)", told, re.MULTILINE)
    return [float(x) for x in re.findall(r"loss ([\d.]+)", told)], {name: float(x) for name, x in measured}


def test_it_writes_trains_and_measures(tmp_path: Path) -> None:
    _, measured = run(tmp_path, "--pages", "64", "--epochs", "1", "--test", "20")
    assert measured.keys() == {"random", "base", "run"}
    assert (tmp_path / "out/run/model/model.safetensors").is_file()
    judged = (tmp_path / "out/data/test/qrels/test.tsv").read_text().splitlines()
    assert len(judged) == 21


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_learns_to_read(tmp_path: Path) -> None:
    losses, measured = run(tmp_path)
    assert losses[-1] < 0.3 * losses[0]
    assert measured["run"] >= 0.5
    assert max(measured["random"], measured["base"]) < 0.1
