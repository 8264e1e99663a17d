"""Generators by their spelling, and the annotators composed with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from causal_models import CHAT, build
from lodesmith.core.columns import Column, names
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Generator, Prompt
from lodesmith.core.records import Dataset
from lodesmith.data import questions
from lodesmith.recipes.generating import (
    DEFAULT_MODEL,
    GeneratorSettings,
    QuestionSettings,
    Work,
    open_generator,
    question_dataset,
    trace_dataset,
)
from lodesmith.testing import EchoGenerator, tiny_dataset


class Own:
    """A generator of one's own."""

    fingerprint = "own"

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()) -> list[str]:
        return [f"Someone looks for prompt number {i} of all that there are." for i in range(len(prompts))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_dataset().save(tmp_path / "tiny")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("causal") / "model", chat=CHAT)


def test_spellings(folder: Path, model: Path) -> None:
    dataset = Dataset.load(folder)
    for spelling, kind in {
        "feedback": "Feedback",
        "feedback:random": "Feedback",
        "cloze": "Cloze",
        "echo": "EchoGenerator",
        "test_generating.Own": "Own",
        str(model): "CausalLM",
    }.items():
        made = open_generator(spelling, dataset)
        assert type(made).__name__ == kind
        assert isinstance(made, Generator)
    prints = {open_generator(spelling, dataset).fingerprint for spelling in ("feedback", "feedback:random")}
    assert len(prints) == 2
    with pytest.raises(ConfigError, match="is no generator"):
        open_generator("pathlib.Path", dataset)
    with pytest.raises(InputError, match="Qwen"):
        open_generator(DEFAULT_MODEL, dataset)


def test_feedback_traces(folder: Path) -> None:
    told = trace_dataset(folder, "feedback", Work(split="train"))
    column = Column.load(folder, "traces")
    assert told["counts"]["kept"] == len(column) > 0
    assert told["with"] == column.info["with"] == "feedback"
    assert told["path"] == str(folder / "columns" / "traces.jsonl")
    dataset = Dataset.load(folder)
    for query in column.rows:
        found = set((column.one(query) or {})["text"].split())
        assert not found & set(dataset.queries[query].text.split())


def test_another_dataset_is_another_maker(tmp_path: Path) -> None:
    prints = set()
    for seed in (0, 1):
        folder = tiny_dataset(seed=seed).save(tmp_path / str(seed))
        prints.add(open_generator("feedback", Dataset.load(folder)).fingerprint)
    assert len(prints) == 2


def test_a_language_model_writes_traces_whatever_they_are(folder: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("what does {query} ?")
    settings = GeneratorSettings(temperature=1.0, batch_tokens=200)
    work = Work(limit=9, prompt=tmp_path / "prompt.txt", max_new_tokens=12, name="lm")
    told = trace_dataset(folder, str(model), work, settings)
    counts = dict(told["counts"])
    assert counts.pop("done") == 9
    assert counts.pop("rows") == counts.get("kept", 0)
    assert sum(counts.values()) == 9
    assert trace_dataset(folder, str(model), work, settings)["fingerprint"] == told["fingerprint"]
    other = GeneratorSettings(temperature=1.0, batch_tokens=200, seed=1)
    assert trace_dataset(folder, str(model), work, other)["fingerprint"] != told["fingerprint"]


def test_cloze_questions(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": str(i), "title": "", "text": f"The bridge number {i} was built by {who} in 191{i}. "
                        f"It has been said that it was the work of {who} alone and of nobody else."}) + "\n"
            for i, who in enumerate(("Ada Lind", "Otto Berg", "Eva Holm"))
        )
    )  # fmt: skip
    told = question_dataset(tmp_path, "cloze", asked=QuestionSettings(per_document=1))
    rows = Column.load(tmp_path, "questions").rows
    assert {key: found[0]["answers"] for key, found in rows.items()} == {
        "0": ["Ada Lind"], "1": ["Otto Berg"], "2": ["Eva Holm"]
    }  # fmt: skip
    assert told["counts"] == {"done": 3, "rows": 3, "kept-cloze": 3}


def test_a_language_model_verifies_unless_it_is_told_not_to(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Any] = []
    real = questions.QuestionGenerator.__init__
    monkeypatch.setattr(
        questions.QuestionGenerator,
        "__init__",
        lambda self, *given, **named: built.append(named["verifier"]) or real(self, *given, **named),
    )
    work = Work(dry_run=True, limit=2, max_new_tokens=2)
    found = [
        question_dataset(folder, str(model), work),
        question_dataset(folder, str(model), work, asked=QuestionSettings(verify="none")),
        question_dataset(folder, "cloze", work),
        question_dataset(folder, "cloze", work, asked=QuestionSettings(verify=str(model))),
        question_dataset(folder, "echo", work),
    ]
    assert [told["verifications"] for told in found] == [2 * 2 * 3, 0, 0, 2 * 3, 0]
    assert [verifier is not None for verifier in built] == [True, False, False, True, False]
    assert built[0].generator.fingerprint == built[3].generator.fingerprint
    warm = GeneratorSettings(temperature=0.7)
    for spelling in (None, str(model), "echo"):
        question_dataset(folder, str(model), work, warm, QuestionSettings(verify=spelling))
    assert [getattr(own.generator, "temperature", 0.0) for own in built[-3:]] == [0.0] * 3
    assert built[-3].generator.fingerprint == built[0].generator.fingerprint
    for spelling in ("cloze", "feedback:bm25"):
        with pytest.raises(ConfigError, match="answers no questions"):
            question_dataset(folder, "echo", work, asked=QuestionSettings(verify=spelling))


def test_a_dry_run_writes_nothing_and_forecasts(folder: Path, model: Path) -> None:
    work = Work(dry_run=True, max_new_tokens=7)
    told = trace_dataset(folder, str(model), work, GeneratorSettings(batch_tokens=400))
    assert names(folder) == []
    assert not (folder / "columns").exists()
    assert told["prompts"] == 40
    assert told["prompt_tokens"] > 40 * 10
    assert told["sample"]["prompts"] == 16
    assert told["seconds"] == pytest.approx(told["sample"]["seconds"] * 40 / 16)
    assert told["memory_bytes"] > (model / "model.safetensors").stat().st_size
    assert "Query: " in told["example"]["prompt"][-1]["content"]
    asked = question_dataset(folder, "cloze", work)
    assert (asked["prompts"], asked["prompt_tokens"], asked["memory_bytes"]) == (40, None, None)
    assert not (folder / "columns").exists()


def test_the_dry_run_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("")
    assert question_dataset(tmp_path, "cloze", Work(dry_run=True))["seconds"] == 0


def test_what_does_not_go_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("{query}")
    with pytest.raises(ConfigError, match="writes questions, not traces"):
        trace_dataset(folder, "cloze")
    with pytest.raises(ConfigError, match="writes traces, not questions"):
        question_dataset(folder, "feedback:bm25")
    with pytest.raises(ConfigError, match="takes the query itself"):
        trace_dataset(folder, "feedback", Work(prompt=tmp_path / "prompt.txt"))
    for generator, kinds in (("cloze", ["simple"]), ("echo", ["cloze"]), ("echo", ["simple", "cloze"])):
        with pytest.raises(ConfigError, match="does not write questions"):
            question_dataset(folder, generator, asked=QuestionSettings(kinds))
    with pytest.raises(ConfigError, match="no kind of questions is called 'simpel'"):
        question_dataset(folder, "echo", asked=QuestionSettings(["simpel"]))
    with pytest.raises(ConfigError, match="cannot name a column"):
        trace_dataset(folder, "echo", Work(name="../x"))


def test_the_echo() -> None:
    echo = EchoGenerator()
    chat = [{"role": "user", "content": "first\nsecond third fourth\n"}]
    assert echo.generate(["a\nb c", chat]) == ["b c", "second third fourth"]
    (cut,) = echo.generate([chat], max_new_tokens=2)
    assert (cut, cut.finished) == ("second third", False)
    (stopped,) = echo.generate([chat], stop=["third"])
    assert (stopped, stopped.finished) == ("second ", True)
    assert echo.fingerprint == EchoGenerator().fingerprint
    assert isinstance(echo, Generator)
