"""`lode data import` and `lode data pairs` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import lode


def test_import_then_pairs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = "Every harbour keeps its own small lantern near the old stone quarry. "
    (tmp_path / "guide.md").write_text(f"# Harbour Guide\n\n{words * 3}\n\n## Quarry Rules\n\n{words.upper() * 2}\n")
    row = {"question": "what?", "answer": "this", "docs": ["a text"]}
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    files = (tmp_path / "guide.md", tmp_path / "asked.jsonl")
    code, out, _ = lode(capsys, "data", "import", *files, "--out", tmp_path / "set", "--split", "dev", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["documents"], report["layouts"], report["judgements"]) == (3, {"clara": 1}, {"dev": {}} | {"dev": 1})
    code, out, _ = lode(capsys, "data", "pairs", tmp_path / "set", "--methods", "title,heading", "--json")
    assert code == 0
    assert json.loads(out)["pairs"] == {"title": 1, "heading": 1}
    code, out, _ = lode(capsys, "data", "pairs", tmp_path / "set", "--methods", "title", "--everything")
    assert out.startswith("1 pairs from 3 documents")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "{in}", "--out", "x", "--pages-range", "3-1"), "range of pages"),
        (("import", "{in}", "--out", "x", "--pages", "--dpi", "1"), "dpi"),
        (("import", "{in}", "--out", "x", "--split", "a/b"), "name of a split"),
        (("import", "{in}", "--out", "x", "--words", "0"), "0 words"),
        (("pairs", "{in}"), "corpus.jsonl"),
        (("pairs", "nowhere"), "no such dataset"),
        (("pairs", "{in}", "--methods", "titel"), ""),
    ],
)
def test_wrong_options_exit_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("some text")
    code, out, err = lode(capsys, "data", *(a.replace("{in}", str(tmp_path / "in")) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("verb", ["import", "pairs"])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = lode(capsys, "data", verb, "--help")
    assert code == 0
    assert f"lode data {verb}" in out.partition("Example")[2]
