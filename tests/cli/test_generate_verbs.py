"""`lode data trace` and `lode data questions`: output, exit codes, start-up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import lode
from lodesmith.testing import tiny_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset().save(tmp_path / "tiny")


def test_traces_as_text_and_json(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lode(capsys, "data", "trace", dataset, "--with", "feedback", "--limit", 5)
    assert code == 0
    assert out.startswith("5 rows for 5 queries in")
    assert "kept: 5" in out
    code, out, err = lode(capsys, "data", "trace", dataset, "--with", "feedback", "--limit", 5, "--json")
    assert json.loads(out)["counts"] == {"done": 5, "rows": 5, "kept": 5}
    assert err == ""


def test_rejects_are_counted_by_reason(dataset: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "echo.txt").write_text("{query}")
    code, out, _ = lode(capsys, "data", "trace", dataset, "--with", "echo", "--prompt", tmp_path / "echo.txt")
    assert code == 0
    assert "0 rows for 40 queries" in out
    rejected = out.partition("rejected:\n")[2].splitlines()
    assert {line.split(":")[0].strip() for line in rejected} == {"too-short", "repeats-query"}
    assert sum(int(line.split()[-1]) for line in rejected) == 40


def test_questions_and_the_dry_run(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lode(capsys, "data", "questions", dataset, "--with", "cloze", "--dry-run")
    assert code == 0
    assert out.startswith("40 prompts\nabout ")
    assert "An example:\n[user] The " in out
    assert not (dataset / "columns").exists()
    assert "to verify" not in out
    verified = ("--verify", "echo", "--per-document", "2", "--limit", "7")
    code, out, _ = lode(capsys, "data", "questions", dataset, "--with", "cloze", "--dry-run", *verified)
    assert code == 0
    assert "and some 14 short answers to verify questions" in out
    code, out, _ = lode(capsys, "data", "questions", dataset, "--with", "cloze")
    assert code == 0
    assert "empty: 40" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trace", "nowhere"), "nowhere"),
        (("trace", "tiny", "--with", "someone/no-model"), "hf download someone/no-model"),
        (("trace", "tiny", "--with", "cloze"), "writes questions"),
        (("trace", "tiny", "--with", "echo", "--prompt", "nothing.txt"), "no such prompt file"),
        (("trace", "tiny", "--with", "echo", "--split", "tset"), "no split 'tset'"),
        (("questions", "tiny", "--with", "echo", "--kinds", "simpel"), "did you mean 'simple'?"),
        (("questions", "tiny", "--with", "cloze", "--kinds", "complex"), "does not write questions"),
        (("questions", "tiny", "--with", "echo", "--name", "a/b"), "cannot name a column"),
        (("questions", "tiny", "--per-document", "0"), "per-document"),
        (("questions", "tiny", "--with", "cloze", "--verify", "cloze"), "'cloze' answers no questions"),
    ],
)
def test_wrong_input_exits_2(
    dataset: Path,
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(dataset.parent)
    code, out, err = lode(capsys, "data", *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_help_shows_an_example_and_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom lodesmith.cli.main import main\n"
        "try:\n    main(['data', sys.argv[1], '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy'\n"
    )
    for verb in ("trace", "questions"):
        done = subprocess.run([sys.executable, "-c", script, verb], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"Example: lode data {verb} my-dataset" in done.stdout
