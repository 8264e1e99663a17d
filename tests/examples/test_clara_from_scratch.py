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
from lodesmith.core.records import Dataset, Document
from lodesmith.core.results import Evaluation
from lodesmith.data.world import World
from lodesmith.evaluation.answers import contiguous
from lodesmith.recipes.recipe import load
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


def written(*folders: Path) -> dict[Path, tuple[int, int, int]]:
    """Which file each is, its size, and when it was written."""
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return {file: ((told := file.stat()).st_ino, told.st_size, told.st_mtime_ns) for file in files}


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
    before = written(out / "imported", out / "base", out / "run")
    told = capsys.readouterr().out
    assert "asked, run, full: " in told
    assert f'lode ask {out / "run"} {out / "index"} -k 2 "How many windows has the mayor of Dover?"' in told
    assert "2 passages as 16 memory tokens for " in told
    run(examples / "clara_from_scratch.py", out, text, *given)
    assert written(out / "imported", out / "base", out / "run") == before
    for other in ((text.rename(tmp_path / "other.txt"), *given), (text, *given, "--words", 30)):
        with pytest.raises(InputError, match="was imported, not"):
            run(examples / "clara_from_scratch.py", out, *other)
    assert written(out / "imported", out / "base", out / "run") == before


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
    data = Dataset.load(tmp_path / "paper")
    for example in found:
        (document,) = example.relevant
        assert contiguous(data.documents[document].content, example.answers), example


def test_a_number_is_sought_as_a_word(tmp_path: Path, examples: Path) -> None:
    documents = [
        Document("a", "", "Each layer has 2048 units and 16 layers there are."),
        Document("b", "", "6 heads read, whatever."),
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text('{"question": "How many layers are there?", "answers": ["6"]}', encoding="utf-8")
    script: dict[str, Any] = runpy.run_path(str(examples / "clara_from_scratch.py"))
    (found,) = script["given_questions"](file, Dataset.of(documents, [], {}, name="numbers"))
    assert found.relevant == ("b",)


def test_ablations_compare_each_way_after_either_stage(
    tmp_path: Path, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = Sizes(documents=12, instructed=4, facts=4, about=2, dev=4, test=4, forms=1, candidates=4)
    write_world(tmp_path / "out" / "dataset", sizes)
    model, tokenizer = _new_reader(World(), Reader(width=32, layers=1, heads=2), 0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "quick" / "reader" / "model")
    given = (tmp_path / "out", tmp_path / "quick", "--seeds", 1, "--documents")
    run(examples / "clara_ablations.py", *given, 12)
    told = capsys.readouterr().out
    assert "stages 1 and 2" in told
    ways = ("questions", "questions, no distance", "questions and paraphrases", "paraphrases")
    for way in ways:
        files = list((tmp_path / "out" / f"{way}, seed 0" / "evaluations").iterdir())
        systems = {Evaluation.load(file).system for file in files}
        assert systems == {f"{way}, stage 1", f"{way}, stages 1 and 2"}
        assert f"seed 0, {way}: [" in told
        for evaluation in map(Evaluation.load, files):
            assert f"{evaluation.system}: {evaluation.measures['CoverEM'].mean:.3f} (–)" in told
    recipes = [load(tmp_path / "out" / f"{way}, seed 0" / "recipe.yaml").model_dump(mode="json") for way in ways]
    first = {"stages.0.batch_size": [160, 160, 176, 16], "stages.0.objective.mse": [0.1, 0.0, 0.1, 0.1]}
    asked, again = ["simple", "complex"], ["paraphrase"]
    first["stages.0.objective.kinds"] = [asked, asked, asked + again, again]
    for recipe, size, mse, kinds in zip(recipes, *first.values(), strict=True):
        stage = recipe["stages"][0]
        assert (stage.pop("batch_size"), stage["objective"].pop("mse")) == (size, mse)
        assert stage["objective"].pop("kinds") == kinds
    assert all(recipe == recipes[0] for recipe in recipes)  # nothing else differs
    before = written(tmp_path / "out")
    run(examples / "clara_ablations.py", *given, 12)
    assert written(tmp_path / "out") == before
    with pytest.raises(InputError, match="has 12 documents, not 13"):
        run(examples / "clara_ablations.py", *given, 13)
