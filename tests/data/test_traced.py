"""Traces joined to queries: by id, of joined datasets too, cut, and shuffled."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.joined import join
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.traced import Traces, traced, traces_of


def saved(folder: Path, count: int, *, traces: int) -> Dataset:
    queries = [Query(f"q{i}", f"query {i}", (f"answer {i}",)) for i in range(count)]
    judged = {"test": {f"q{i}": {"d": 1} for i in range(0, count, 2)}}
    Dataset.of([Document("d", "", "x")], queries, judged, name=folder.name).save(folder)
    with ColumnWriter(folder, "traces", "query", {}) as column:
        for key in column.missing([query.id for query in queries]):
            at = int(key[1:])
            column.add(key, [{"text": f"{folder.name} thinks of {at}"}] if at < traces else [])
        column.finish()
    return Dataset.load(folder)


def test_a_traced_dataset_differs_in_the_text_of_its_queries_alone(tmp_path: Path) -> None:
    dataset = saved(tmp_path / "a", 4, traces=3)
    found = traced(dataset, traces_of(dataset))
    assert [query.content for query in found.queries.values()] == [
        "query 0 a thinks of 0", "query 1 a thinks of 1", "query 2 a thinks of 2", "query 3"]  # fmt: skip
    assert found.queries["q1"].answers == ("answer 1",)
    assert found.documents is dataset.documents
    assert found.judgements == dataset.judgements
    assert len(found.queries) == 4
    assert found.fingerprint != dataset.fingerprint
    assert traced(dataset, traces_of(dataset, "none")) is dataset


def test_a_cut_trace_and_those_that_are_missing(tmp_path: Path) -> None:
    dataset = saved(tmp_path / "a", 4, traces=3)
    traces = traces_of(dataset, words=2)
    assert traces.texts == {f"q{i}": "a thinks" for i in range(3)}
    assert traces.missing(dataset.queries) == 1
    assert Traces({}, "none").missing(dataset.queries) == 0
    assert traces.fingerprint != traces_of(dataset).fingerprint
    with pytest.raises(ConfigError, match="0 words"):
        traces_of(dataset, words=0)


def test_joined_datasets_have_each_its_own(tmp_path: Path) -> None:
    both = join([saved(tmp_path / "a", 6, traces=6), saved(tmp_path / "b", 6, traces=4)])
    use, shuffled = traces_of(both), traces_of(both, "shuffle", 3)
    assert use.texts["b/q2"] == "b thinks of 2"
    assert use.missing(both.queries) == 2
    assert traced(both, use).queries["a/q5"].content == "query 5 a thinks of 5"
    assert shuffled.texts.keys() == use.texts.keys()
    for key, text in shuffled.texts.items():
        assert text != use.texts[key]
        assert text.startswith(key[0])  # of the same part
        assert int(text[-1]) % 2 == int(key[-1]) % 2  # and judged in the same split, or in none
    assert traces_of(both, split="test").texts.keys() == {"a/q0", "a/q2", "a/q4", "b/q0", "b/q2"}


def test_a_dataset_without_a_folder_has_none() -> None:
    dataset = Dataset.of([Document("d", "", "x")], [Query("q", "query")])
    assert traces_of(dataset, "none").texts == {}
    with pytest.raises(InputError, match="not in a folder"):
        traces_of(dataset)
