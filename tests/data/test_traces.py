"""Traces: judged, joined by id, resumable, with their controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lodesmith.core.columns import Column, ColumnWriter
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Generated, Prompt
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.prompting import PromptFile
from lodesmith.data.traced import traced_queries
from lodesmith.data.traces import Trace, TraceGenerator, TraceRules, annotate
from lodesmith.testing import EchoGenerator, tiny_dataset

QUERY = "what does the heated wing of an aircraft do"
DOCUMENT = "It is known that the stiffness of a thin wing falls when its skin is heated by friction in the air."
GOOD = "Documents on this topic speak of aerodynamic heating, thermal stress and loss of stiffness."


class Scripted:
    """Answers with what a function makes of the prompt's text, and remembers how often it was asked."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer, self.asked = answer, 0

    @property
    def fingerprint(self) -> str:
        return fingerprint({"scripted": 1})

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()) -> list[str]:
        self.asked += len(prompts)
        return [self.answer(p if isinstance(p, str) else p[-1]["content"]) for p in prompts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, Trace(GOOD)),
        (f"<think>hm</think> Reasoning:\n{GOOD}\n", Trace(GOOD)),
        (Generated(f"{GOOD} And it goes", finished=False), Trace(GOOD)),
        (Generated("Documents on this topic speak", finished=False), Trace("", "cut-off")),
        ("", Trace("", "empty")),
        ("<think>hm, how", Trace("", "empty")),
        ("...", Trace("", "empty")),
        ("I'm sorry, but I cannot help with that.", Trace("", "refusal")),
        ("Aerodynamic heating.", Trace("", "too-short")),
        ("word%d " * 500 % tuple(range(500)), Trace("", "too-long")),
        (QUERY, Trace("", "repeats-query")),
        (f"Query: {QUERY}?", Trace("", "repeats-query")),
        ("the skin of it gets hot. " * 8, Trace("", "repetitive")),
        ("Die Dokumente sind über das Heizen der Flügel und nicht über die Luft, in der sie sind.",
         Trace("", "other-language")),
        ("Документы говорят о нагреве крыла и о потере жёсткости.", Trace("", "other-language")),
        ("We think that the stiffness of a thin wing falls when it is hot.", Trace("", "leak")),
        ("The stiffness of a thin wing will fall whenever its skin gets heated.", Trace(
            "The stiffness of a thin wing will fall whenever its skin gets heated.")),
    ],
)  # fmt: skip
def test_rules(text: str, expected: Trace) -> None:
    assert TraceRules().judge(text, QUERY, [DOCUMENT, "another document"]) == expected


def test_a_run_of_the_query_itself_is_no_leak() -> None:
    query = "so it is known that the stiffness of a thin wing falls"
    trace = "It is known that the stiffness of a thin wing falls, say engineers of many countries."
    assert TraceRules().judge(trace, query, [DOCUMENT]).text
    assert TraceRules().judge(trace, QUERY, [DOCUMENT]).reject == "leak"
    assert TraceRules(leak=12).judge(trace, QUERY, [DOCUMENT]).text


def test_the_prompt_is_filled_and_the_query_cut() -> None:
    prompt = PromptFile((("user", "Think.\n{query}"),), "Think.\n{query}")
    writer = TraceGenerator(EchoGenerator(), prompt, rules=TraceRules(query_words=5, new_words=0))
    assert writer.generate(["one two three four five six", "a"]) == [
        Trace("one two three four five"), Trace("", "too-short")
    ]  # fmt: skip
    shipped = TraceGenerator(EchoGenerator())
    assert "Query: wing" in shipped.prompts(["wing"])[0][-1]["content"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_dataset().save(tmp_path / "tiny")


def said(prompt: str) -> str:
    """A trace that names the query, so that joining can be checked; none for owls."""
    query = prompt.partition("Query: ")[2].partition("\n")[0]
    return "" if query.startswith("owl") else f"Someone asks for {query} in a book on animals."


def test_a_column_joined_by_id(folder: Path) -> None:
    dataset = Dataset.load(folder)
    meta = annotate(dataset, TraceGenerator(Scripted(said)), note={"with": "script"}, chunk=7)
    owls = sum(query.text.startswith("owl") for query in dataset.queries.values())
    assert owls > 0
    assert meta["counts"] == {"done": 40, "rows": 40 - owls, "kept": 40 - owls, "empty": owls}
    assert meta["with"] == "script"
    rows = [json.loads(line) for line in (folder / "columns/traces.jsonl").read_text().splitlines()]
    assert all(row["text"] == f"Someone asks for {dataset.queries[row['query']].text} in a book on animals."
               for row in rows)  # fmt: skip


def test_split_limit_and_name(folder: Path) -> None:
    dataset = Dataset.load(folder)
    annotate(dataset, TraceGenerator(Scripted(said)), split="dev", limit=4, name="thoughts")
    judged = set(dataset.split("dev"))
    assert set(Column.load(folder, "thoughts").rows) <= judged
    with pytest.raises(InputError, match="no split 'devv'"):
        annotate(dataset, TraceGenerator(Scripted(said)), split="devv")


def test_documents_of_any_split_are_hidden(folder: Path) -> None:
    dataset = Dataset.load(folder)
    texts: dict[str, str] = {}  # several queries may have the same text
    for key, query in dataset.queries.items():
        texts[query.text] = texts.get(query.text, "") + dataset.documents[f"d{key[1:]}"].text + " "

    def tell(prompt: str) -> str:
        return texts[prompt.partition("Query: ")[2].partition("\n")[0]] + "That is all that can be said here."

    rules = TraceRules(leak=4, new_words=1, repetition=1)
    meta = annotate(dataset, TraceGenerator(Scripted(tell), rules=rules))
    assert meta["counts"] == {"done": 40, "rows": 0, "leak": 40}


def test_it_goes_on_where_it_stopped_and_is_made_once(folder: Path) -> None:
    dataset = Dataset.load(folder)

    class StoppedError(Exception):
        pass

    def stop(prompt: str) -> str:
        if writer.asked > 20:
            raise StoppedError
        return said(prompt)

    writer = Scripted(stop)
    with pytest.raises(StoppedError):
        annotate(dataset, TraceGenerator(writer), chunk=10)
    assert not (folder / "columns/traces.jsonl").exists()
    again = Scripted(said)
    annotate(dataset, TraceGenerator(again), chunk=10)
    assert again.asked == 20
    once_more = Scripted(said)
    annotate(dataset, TraceGenerator(once_more), chunk=10)
    assert once_more.asked == 0
    annotate(dataset, TraceGenerator(once_more, PromptFile((("user", "{query}"),), "{query}")))
    assert once_more.asked == 40  # another prompt is another maker


def test_traced_queries_and_their_controls(folder: Path) -> None:
    dataset = Dataset.load(folder)
    annotate(dataset, TraceGenerator(Scripted(said)))
    texts = {key: query.text for key, query in dataset.queries.items()}
    owls = {key for key, text in texts.items() if text.startswith("owl")}
    none, use = traced_queries(dataset), traced_queries(dataset, "use")
    assert none.texts == texts
    assert none.missing == 0
    assert use.missing == len(owls)
    assert all(use.texts[key] == (texts[key] if key in owls else f"{texts[key]} {said(f'Query: {texts[key]}')}")
               for key in texts)  # fmt: skip
    shuffled = traced_queries(dataset, "shuffle", 1)
    assert shuffled.missing == len(owls)
    added = {key: text.removeprefix(f"{texts[key]} ") for key, text in shuffled.texts.items() if key not in owls}
    own = {key: said(f"Query: {texts[key]}") for key in added}
    assert all(added[key] != own[key] for key in added)
    assert sorted(added.values()) == sorted(own.values())
    assert traced_queries(dataset, "shuffle", 1) == shuffled
    assert traced_queries(dataset, "shuffle", 2) != shuffled
    assert set(traced_queries(dataset, "use", split="dev").texts) == set(dataset.split("dev"))


@pytest.mark.parametrize("count", range(2, 10))
def test_no_query_keeps_its_own(tmp_path: Path, count: int) -> None:
    queries = [Query(f"q{i}", f"cat {i}") for i in range(count)]
    folder = Dataset.of([Document("d", "", "x")], queries).save(tmp_path / "few")
    annotate(Dataset.load(folder), TraceGenerator(Scripted(said)))
    use = traced_queries(Dataset.load(folder), "use").texts
    for seed in range(5):
        shuffled = traced_queries(Dataset.load(folder), "shuffle", seed).texts
        assert all(shuffled[key] != use[key] for key in use)


def test_every_chunk_is_brought_to_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = ColumnWriter.sync
    monkeypatch.setattr(ColumnWriter, "sync", lambda column: (synced.append(len(column._done)), sync(column))[1])
    annotate(Dataset.load(folder), TraceGenerator(Scripted(said)), chunk=15)
    assert synced[:3] == [15, 30, 40]


def test_a_single_trace_cannot_be_shuffled(tmp_path: Path) -> None:
    dataset = Dataset.of([Document("d", "", "x")], [Query("q", "cat"), Query("r", "owl")]).save(tmp_path / "one")
    annotate(Dataset.load(dataset), TraceGenerator(Scripted(said)))
    shuffled = traced_queries(Dataset.load(dataset), "shuffle")
    assert shuffled.texts == {"q": "cat", "r": "owl"}
    assert shuffled.missing == 2


def test_errors(folder: Path) -> None:
    dataset = Dataset.load(folder)
    mode: Any = "shufle"
    with pytest.raises(ConfigError, match="no mode of traces is called 'shufle'") as raised:
        traced_queries(dataset, mode)
    assert "shuffle" in raised.value.do
    with pytest.raises(InputError, match="no such column"):
        traced_queries(dataset, "use")
    with pytest.raises(InputError, match="not in a folder"):
        annotate(tiny_dataset(), TraceGenerator(Scripted(said)))
    (folder / "columns").mkdir()
    (folder / "columns/traces.jsonl").write_text('{"query": "q0", "ids": []}\n')
    with pytest.raises(InputError, match="has no traces"):
        traced_queries(dataset, "use")
