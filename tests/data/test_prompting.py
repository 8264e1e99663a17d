"""Prompt files: placeholders are checked where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.data import prompting
from lodesmith.data.prompting import PromptFile, shipped

ALLOWED = ("query", "count")


def load(tmp_path: Path, text: str) -> PromptFile:
    path = tmp_path / "prompt.txt"
    path.write_text(text, encoding="utf-8")
    return PromptFile.load(path, ALLOWED, ("query",))


def test_sections_comments_and_braces(tmp_path: Path) -> None:
    prompt = load(tmp_path, '## {unknown}\n[system]\nBe brief.\n[user]\nAsk {count}:\n{query} {{"a": 1}}\n')
    assert prompt.fill({"query": "{count} }{", "count": "3"}) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": 'Ask 3:\n{count} }{ {"a": 1}'},
    ]
    assert prompt.text.startswith("## {unknown}")


def test_a_file_without_sections_is_the_users_message(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeffAbout {query}").fill({"query": "é"}) == [{"role": "user", "content": "About é"}]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("ok {query}\n\nand {querry}", 3, "unknown placeholder {querry}"),
        ("{query}\n{0}", 2, "unknown placeholder {0}"),
        ("{query} {}", 1, "unknown placeholder {}"),
        ("{query}\na } b", 2, "a brace stands alone"),
        ("{query\n}", 1, "a brace stands alone"),
        ("{query}\n{{{count}}} {", 2, "a brace stands alone"),
        ("nothing\n{count}", 1, "no placeholder {query}"),
        ("## {query}\n", 1, "no placeholder {query}"),
        ("[system]\n{query}", 1, "no user's message"),
        ("{query}\n[system]\nbe brief", 2, "must come first"),
    ],
)
def test_faults_are_located(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("{", r"\{").replace("}", r"\}")) as raised:
        load(tmp_path, text)
    assert raised.value.line == line
    assert raised.value.path == tmp_path / "prompt.txt"


def test_did_you_mean(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, "{querry}")
    assert "did you mean 'query'?" in raised.value.do


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such prompt file"):
        PromptFile.load(tmp_path / "none.txt", ALLOWED)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 {query}")
    with pytest.raises(InputError, match="cannot be read"):
        PromptFile.load(tmp_path / "latin.txt", ALLOWED)


def test_every_shipped_prompt_loads() -> None:
    files = sorted(path.stem for path in (Path(prompting.__file__).parent / "prompts").glob("*.txt"))
    assert files == ["answer", "complex", "feedback", "paraphrase", "simple", "text", "trace"]
    for name in files:
        required = ("query",) if name in ("feedback", "trace") else ("text",)
        prompt = PromptFile.load(shipped(name), ("query", "title", "text", "count", "question"), required)
        filled = prompt.fill({"query": "Q", "title": "T", "text": "X", "count": "3", "question": "Q"})
        assert filled[-1]["role"] == "user"
        assert "##" not in filled[-1]["content"]
