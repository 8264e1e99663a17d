"""The main job on a small folder: everything it leaves, and that a second call finds it done."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import InputError
from lodesmith.recipes import quickstart
from lodesmith.recipes.quickstart import SYSTEMS, UNTRAINED, run

pytestmark = pytest.mark.usefixtures("cache")

_PLACES = ["harbour", "bridge", "library", "museum", "orchard", "station", "market", "castle", "garden", "mill"]
_WORDS = "old new large quiet busy stone wooden river hill town people visit summer winter opened built rebuilt".split()  # noqa: SIM905


def write_folder(folder: Path, sections: int) -> Path:
    """Markdown files of sections about one place each; the words around are drawn from a seed."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for file in range(0, sections, 5):
        lines = []
        for number in range(file, min(file + 5, sections)):
            place, year = _PLACES[number % 10], 1500 + number
            filler = " ".join(rng.choice(_WORDS, 30))
            lines += [
                f"# How the {place} number {number} was founded",
                f"The {place} of {year} belongs to the council since the flood. {filler}. It is the {place} {number}.",
            ]
        (folder / f"guide{file}.md").write_text("\n\n".join(lines), encoding="utf-8")
    return folder


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def test_whole_job_on_a_folder_then_nothing_left_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "docs", 240)
    told: list[str] = []
    result = run(tmp_path / "out", docs=[folder], say=told.append)
    out = tmp_path / "out"
    assert result.recommended in SYSTEMS
    assert any("queries are made from titles" in line for line in told)
    for system in SYSTEMS:
        saved = json.loads((out / "evaluations" / f"{system}.json").read_text())
        assert saved["split"] == "test"
        assert json.loads((out / "validation" / f"{system}.json").read_text())["split"] == "dev"
    comparison = json.loads((out / "comparison.json").read_text())
    assert len(comparison["pairs"]) == len(SYSTEMS) * (len(SYSTEMS) - 1) // 2
    assert comparison["baseline"] in UNTRAINED
    page = Words()
    page.feed((out / "report.html").read_text(encoding="utf-8"))
    assert result.recommended in page.text
    assert len(result.answers) == 3
    assert all(answer["hits"] for answer in result.answers)
    assert result.recommended in result.to_text()
    assert capfd.readouterr().out == ""

    told.clear()
    again = run(out, docs=[folder], say=told.append)
    assert again.recommended == result.recommended
    assert not [line for line in told if line.endswith("…")], "a finished step ran again"

    (folder / "guide0.md").write_text("# Something else entirely\n\n" + "Other words stand here now. " * 8)
    told.clear()
    run(out, docs=[folder], say=told.append)
    assert "dataset …" in told


def test_an_interrupted_job_keeps_its_finished_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "docs", 90)
    measure = quickstart._Job._measure

    def interrupted(job: quickstart._Job, system: str) -> None:
        if system == "bm25+minilm":
            raise KeyboardInterrupt
        measure(job, system)

    monkeypatch.setattr(quickstart._Job, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", docs=[folder])
    monkeypatch.undo()
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    run(tmp_path / "out", docs=[folder], say=told.append)
    assert any(line.startswith("evaluate minilm: done before") for line in told)
    assert "evaluate bm25+minilm …" in told


def test_own_queries_and_too_few_pairs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "docs", 90)
    first = run(tmp_path / "first", docs=[folder])
    corpus = (tmp_path / "first" / "dataset" / "corpus.jsonl").read_text().splitlines()
    ids = [json.loads(line)["_id"] for line in corpus]
    lines = [json.dumps({"query": f"what about {key}", "relevant": [key]}) for key in ids[:40]]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    told: list[str] = []
    result = run(tmp_path / "own", docs=[folder], queries=tmp_path / "queries.jsonl", say=told.append)
    assert any("nothing is trained" in line for line in told)
    assert {e.system for e in result.evaluations} == set(UNTRAINED)
    assert first.evaluations


def test_too_few_documents_and_missing_paths(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("one short text")
    with pytest.raises(InputError):
        run(tmp_path / "out", docs=[folder])
    with pytest.raises(InputError, match="no such file or folder"):
        run(tmp_path / "out", docs=[tmp_path / "nowhere"])


def test_other_documents_never_meet_an_old_training(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "docs", 240)
    out = folder / "out"  # inside its own input: what it wrote is not read again
    run(out, docs=[folder])
    first = json.loads((out / "training" / "manifest.json").read_text())
    told: list[str] = []
    run(out, docs=[folder], say=told.append)
    assert not [line for line in told if line.endswith("…")]
    (folder / "guide0.md").write_text("# Something else entirely\n\n" + "Other words stand here now. " * 8)
    run(out, docs=[folder])
    second = json.loads((out / "training" / "manifest.json").read_text())
    dataset = json.loads((out / "dataset" / "dataset.json").read_text())
    assert second["dataset"] == dataset["fingerprints"]["dataset"] != first["dataset"]
