"""examples/clara_from_scratch.py and clara_ablations.py: from a text, or a world, to answers; at sizes that learn
nothing."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.files import sha256_folder
from lodesmith.core.records import Dataset, Document
from lodesmith.core.results import Evaluation
from lodesmith.data.world import World
from lodesmith.recipes.world import Reader, Sizes, _new_reader, write_world

pytestmark = pytest.mark.usefixtures("cache")

TOWNS = ("Arlen", "Brock", "Corby", "Dover", "Elgin", "Frome", "Goole", "Heath", "Irvine", "Jarrow")
WAYS = ("closed", "text", "text-truncated", "stage1", "stage2", "full")


def run(script: Path, *arguments: object) -> None:
    kept = sys.argv
    sys.argv = [str(script), *map(str, arguments)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = kept


@pytest.fixture
def text(tmp_path: Path) -> Path:
    lines = [
        f"The mayor of {town} lives in a house with {at + 12} windows and a garden." for at, town in enumerate(TOWNS)
    ]
    (tmp_path / "towns.txt").write_text("\n\n".join(lines * 2), encoding="utf-8")
    return tmp_path / "towns.txt"


def test_a_text_becomes_answers_and_a_second_run_changes_nothing(
    text: Path, tmp_path: Path, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, asked = tmp_path / "out", tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "How many windows has the mayor of Dover?", "answers": ["15"]}))
    given = ("--questions", 3, "--ask", asked, "--words", 20, "--steps", 2, "--length", 32, "--limit", 8)
    run(examples / "clara_from_scratch.py", out, text, *given)
    for split, count in (("test", 3), ("asked", 1)):
        found = [Evaluation.load(file) for file in (out / "evaluations" / split).iterdir()]
        assert {evaluation.system for evaluation in found} == {f"run, {way}" for way in WAYS}
        assert {(evaluation.split, evaluation.queries) for evaluation in found} == {(split, count)}
    data = Dataset.load(out / "dataset")
    assert not {q.text for q in data.queries_of("train").values()} & {q.text for q in data.queries_of("test").values()}
    ((_, judged),) = data.split("asked").items()
    assert all("Dover" in data.documents[document].content for document in judged)
    before = [sha256_folder(out / name) for name in ("base", "run/model")]
    assert "asked, run, full: " in capsys.readouterr().out
    run(examples / "clara_from_scratch.py", out, text, *given)
    assert [sha256_folder(out / name) for name in ("base", "run/model")] == before
    assert "language model:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "Who?"}', "no object with `question` and `answers`"),
        ("[1]", "no object with"),
        ("{", "no object with"),
        ('{"question": "Who?", "answers": ["nobody at all"]}', "no document has an answer"),
    ],
)
def test_a_file_of_questions_that_cannot_be_asked(line: str, told: str, tmp_path: Path, examples: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(examples / "clara_from_scratch.py"))
    data = Dataset.of([Document("d", "", "The mayor of Dover.")], [], {}, name="towns")
    file = tmp_path / "asked.jsonl"
    file.write_text('{"question": "Of where is the mayor?", "answers": ["Dover"]}\n' + line, encoding="utf-8")
    with pytest.raises(InputError, match=told) as raised:
        script["given_questions"](file, data)
    assert raised.value.line == 2


def test_the_shipped_questions_are_twenty_with_answers(examples: Path) -> None:
    lines = (examples / "questions_on_attention.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    assert len({own["question"] for own in told}) == len(lines) == 20
    assert all(own["answers"] and all(own["answers"]) for own in told)


@pytest.mark.data
def test_each_of_them_has_its_answer_in_the_paper(collections: Path, tmp_path: Path, examples: Path) -> None:
    from lodesmith.data.importing import import_paths

    paper = collections / "pdfs" / "attention_is_all_you_need.pdf"
    import_paths([paper], tmp_path / "paper", words=100)
    script: dict[str, Any] = runpy.run_path(str(examples / "clara_from_scratch.py"))
    found = script["given_questions"](examples / "questions_on_attention.jsonl", Dataset.load(tmp_path / "paper"))
    assert len(found) == 20


def test_ablations_compare_each_way_after_either_stage(
    tmp_path: Path, examples: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes(documents=12, instructed=4, facts=4, about=2, dev=4, test=4, forms=1, candidates=4)
    write_world(tmp_path / "out" / "dataset", sizes)
    model, tokenizer = _new_reader(World(), Reader(width=32, layers=1, heads=2), 0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "quick" / "reader" / "model")
    run(examples / "clara_ablations.py", tmp_path / "out", tmp_path / "quick", "--seeds", 1)
    told = capsys.readouterr().out
    assert "stages 1 and 2" in told
    ways = ("questions", "questions, no distance", "questions and paraphrases", "paraphrases")
    for way in ways:
        files = list((tmp_path / "out" / f"{way}, seed 0" / "evaluations").iterdir())
        systems = {Evaluation.load(file).system for file in files}
        assert systems == {f"{way}, stage 1", f"{way}, stages 1 and 2"}
        assert f"seed 0, {way}: [" in told
        for evaluation in map(Evaluation.load, files):
            assert f"{evaluation.system}: {evaluation.measures['CoverEM'].mean:.3f} (0.000)" in told
    before = sha256_folder(tmp_path / "out" / "paraphrases, seed 0" / "model")
    run(examples / "clara_ablations.py", tmp_path / "out", tmp_path / "quick", "--seeds", 1)
    assert sha256_folder(tmp_path / "out" / "paraphrases, seed 0" / "model") == before
