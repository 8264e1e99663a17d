"""Answers measured a second time, on what judges nothing, and on what has answers of which nothing is left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import memory_runs
from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object, write_json
from lodesmith.core.records import Dataset, Query
from lodesmith.encoders import MemoryEncoder
from lodesmith.encoders._memory_model import ADAPTERS
from lodesmith.evaluation.compare import compare
from lodesmith.recipes import _answer_ways
from lodesmith.recipes._answer_pools import Questions
from lodesmith.recipes.answering import Answered, Plan, answer_dataset, answer_datasets

pytestmark = pytest.mark.usefixtures("cache")
WAYS = ("closed", "text", "full")


@pytest.fixture(autouse=True)
def one_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answer_ways, "_TIMED", 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.run(tmp_path_factory.mktemp("memory") / "clara")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.dataset(tmp_path_factory.mktemp("data") / "beasts")


def answered(run: Path, folder: Path, out: Path, ways: Sequence[str] = WAYS, **more: Any) -> Answered:
    plan = Plan(tuple(ways), **{"documents": 2, "candidates": 4, **more})
    return answer_datasets(str(run), [folder], plan, out=out / "out", run=out / "run")


def test_what_is_finished_is_kept(run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    written = _answer_ways.written

    def seen(way: str, *rest: Any) -> dict[str, str]:
        asked.append(way)
        return written(way, *rest)

    monkeypatch.setattr("lodesmith.recipes.answering.written", seen)
    before = answered(run, folder, tmp_path)
    assert asked == [*WAYS]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert answered(run, folder, tmp_path) == before
    assert asked == [*WAYS]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times
    (file,) = (tmp_path / "out").glob("*full.json")
    file.write_text("{", encoding="utf-8")  # as a power cut leaves it where the disk does not keep its word
    next((tmp_path / "run").glob("*text.trec")).unlink()
    answered(run, folder, tmp_path)
    assert asked == [*WAYS, "text", "full"]
    assert read_object(file)["answers"] == dict(before.evaluations[2].answers)
    write_json(file, read_object(file) | {"fingerprints": {}})
    answered(run, folder, tmp_path)
    assert asked[5:] == ["full"]
    answered(run, folder, tmp_path, max_new_tokens=3)
    assert asked[6:] == [*WAYS]  # another plan


def test_what_judges_nothing_is_asked_among_its_candidates(run: Path, tmp_path: Path) -> None:
    pools = {"q0": ["d5", "d0"], "q1": ["d1", "d7"], "q2": ["d2", "d3"]}
    place = memory_runs.dataset(tmp_path / "beasts", pools)
    (place / "qrels" / "test.tsv").unlink()
    found = answered(run, place, tmp_path)
    assert [e.queries for e in found.evaluations] == [4, 4, 4]  # q3 has no answer
    assert all("R@1" not in e.measures and "CoverEM" in e.measures for e in found.evaluations)
    assert found.evaluations[1].cost["context_tokens"]


def test_an_answer_of_which_nothing_is_left_is_left_out(
    run: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Dataset.load(folder)
    golds = {"q0": (".", "apples"), "q1": ("the",), "q2": ("…", "a ."), "q4": ("bee",)}
    queries = {key: Query(key, query.text, golds.get(key, ())) for key, query in data.queries.items()}
    mended = Dataset(data.documents, queries, data.judgements, data.info, data.folder)
    with caplog.at_level(logging.WARNING):
        asked = Questions.of(mended, "test")
    assert asked.answers == {"q0": ("apples",), "q4": ("bee",)}
    assert "2 queries are not asked" in caplog.text
    assert "'q1' is the first" in caplog.text
    assert list(Questions.of(mended, "test", 2).texts) == ["q0", "q4"]
    none = Dataset(data.documents, {k: Query(k, "?", (".",)) for k in data.queries}, data.judgements, data.info, None)
    with pytest.raises(InputError, match="no judged query of test has an answer"):
        Questions.of(none, "test")


def test_texts_are_read_by_the_language_model_alone(run: Path, folder: Path) -> None:
    model = MemoryEncoder(run / "model").model
    own = [*(p for name in ADAPTERS for p in model.weights(name).values()), model.memory, model.mark]
    found = {e.system: e.cost["parameters"] for e, _ in answer_dataset(str(run), Dataset.load(folder), Plan(WAYS))}
    whole = sum(p.numel() for p in model.parameters())
    assert found == {
        "clara, closed": whole - sum(p.numel() for p in own),
        "clara, text": whole - sum(p.numel() for p in own),
        "clara, full": whole,
    }


def test_systems_that_were_not_asked_alike_are_told(
    run: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = answered(run, folder, tmp_path / "few", ["full"], candidates=2).evaluations[0]
    many = answered(run, folder, tmp_path / "many", ["stage1"]).evaluations[0]
    with caplog.at_level(logging.WARNING):
        compare([few, many], measure="CoverEM")
    assert "'clara, full' and 'clara, stage1' on 'beasts, normal pool' were not asked alike" in caplog.text
    assert "2 and 4 candidates" in caplog.text
    caplog.clear()
    same = answered(run, folder, tmp_path / "same", ["full", "closed"]).evaluations
    with caplog.at_level(logging.WARNING):
        compare([many, *same], measure="CoverEM")
    assert "asked alike" not in caplog.text
