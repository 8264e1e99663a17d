"""Every layout from a tiny file: what becomes documents, queries, judgements and columns, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lodesmith.core.columns import Column
from lodesmith.core.records import Dataset, Document
from lodesmith.core.registry import find, names
from lodesmith.data.check import check
from lodesmith.data.formats import layout_of
from lodesmith.data.formats._containers import head_of
from lodesmith.data.formats._source import by_text
from lodesmith.data.importing import ImportReport, import_paths


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def made(tmp_path: Path, files: dict[str, str | bytes], **settings: Any) -> tuple[Dataset, ImportReport]:
    for name, content in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    report = import_paths([tmp_path / "in"], tmp_path / "out", **settings)
    assert check(tmp_path / "out").ok
    return Dataset.load(tmp_path / "out"), report


def name(text: str, title: str = "") -> str:
    return by_text(text, title).id


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Super_Bowl_50",
            "paragraphs": [
                {
                    "context": "Denver won it.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "Who won?",
                            "answers": [{"text": "Denver", "answer_start": 0}, {"text": "Denver"}],
                        },
                        {"id": "b", "question": "Who lost?", "is_impossible": True, "answers": []},
                    ],
                },
                {"context": 'It was in {Santa} "Clara".', "qas": []},
            ],
        },
        {"title": "Broken", "paragraphs": [{"context": 5, "qas": []}]},
    ],
}
NQ = {
    "example_id": 7,
    "question_text": "who is email",
    "document_url": "https://en.wikipedia.org//w/index.php?title=Email_marketing&amp;oldid=1",
    "document_text": "<H1> Email marketing </H1> <P> Email is good , very . </P> <Table> <Tr> x </Tr> </Table>",
    "long_answer_candidates": [
        {"start_token": 4, "end_token": 11, "top_level": True},
        {"start_token": 11, "end_token": 16, "top_level": True},
        {"start_token": 12, "end_token": 15, "top_level": False},
    ],
    "annotations": [
        {
            "long_answer": {"start_token": 4, "end_token": 11, "candidate_index": 0},
            "short_answers": [{"start_token": 5, "end_token": 6}],
            "yes_no_answer": "YES",
        }
    ],
}
DPR = {
    "question": "who",
    "answers": ["me"],
    "positive_ctxs": [{"title": "T", "text": "it is me", "passage_id": "11", "score": 9}],
    "negative_ctxs": [{"title": "", "text": "random"}],
    "hard_negative_ctxs": [{"title": "U", "text": "it is you", "passage_id": "12"}],
}
HOTPOT = {
    "_id": "5a",
    "question": "Which?",
    "answer": "both",
    "supporting_facts": [["A", 0], ["B", 1]],
    "context": [["A", ["One.", " Two."]], ["B", ["Three."]], ["C", ["Four."]]],
}
CLARA = {"data_type": "qa", "question": ["q1", "q2"], "answers": ["a1", ["a2", "a3"]], "docs": ["the document"]}
CONTRAST = {"query": "q", "pos": ["p"], "neg": ["n", "p", "m"], "pos_scores": [9], "neg_scores": [1.5, 9, 2]}
TREC = "<DOC>\n<DOCNO> FT-1 </DOCNO>\n<HEADLINE>A &amp; B</HEADLINE>\n<TEXT>\n<P>One</P><P>two</P>\n</TEXT>\n</DOC>\n"


@pytest.mark.parametrize(
    ("layout", "file", "content"),
    [
        ("squad", "train-v2.0.json", json.dumps(SQUAD)),
        ("squad", "pretty.json", json.dumps(SQUAD, indent=1)),
        ("squad", "rows.jsonl", lines({"id": "a", "context": "c", "question": "q", "answers": {"text": ["a"]}})),
        ("natural_questions", "nq.jsonl.gz", gzip.compress(lines(NQ).encode())),
        ("dpr", "biencoder-nq-dev.json", json.dumps([DPR])),
        ("hotpotqa", "hotpot_dev.json", json.dumps([HOTPOT])),
        ("clara", "x.jsonl", lines(CLARA)),
        ("clara", "x.json", json.dumps([CLARA])),
        ("clara", "broken-first.jsonl", lines("{", CLARA)),
        ("contrast", "nq.jsonl", lines(CONTRAST)),
        ("trec_documents", "ft911", TREC),
        ("triples", "triples.train.small.tsv", "q\tp\tn\n"),
        ("triples", "some.tsv", "1\t2\t30\n4\t5\t6\n"),
        ("", "corpus.jsonl", lines({"_id": "1", "title": "", "text": "x"})),
        ("", "some.tsv", "1\t2\t3\n1\t5\t0\n"),
        ("", "docs.tsv", "1\ttitle\ttext\n"),
        ("", "package.json", '{"name": "x", "contributors": [{"name": "y"}]}'),
        ("", "empty.json", ""),
        ("", "notes.txt", "just notes"),
    ],
)
def test_layouts_are_recognised_by_content(tmp_path: Path, layout: str, file: str, content: str | bytes) -> None:
    (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    head = head_of(tmp_path / file)
    fitting = [name for name in names("data.formats") if find("data.formats", name)().fits(head)]
    assert fitting == ([layout] if layout else []), "no file may look like two"
    found = layout_of(head)
    assert (found[0] if found else "") == layout


def test_every_layout_is_found_by_its_file() -> None:
    assert names("data.formats") == [
        "clara",
        "contrast",
        "dpr",
        "hotpotqa",
        "natural_questions",
        "squad",
        "trec_documents",
        "triples",
    ]


def test_squad(tmp_path: Path) -> None:
    data, report = made(tmp_path, {"train-v2.0.json": json.dumps(SQUAD, indent=2)})
    assert list(data.documents.values()) == [
        Document("Super_Bowl_50#1", "Super Bowl 50", "Denver won it."),
        Document("Super_Bowl_50#2", "Super Bowl 50", 'It was in {Santa} "Clara".'),
    ]
    assert data.queries["a"].answers == ("Denver",)
    assert data.judgements == {"train": {"a": {"Super_Bowl_50#1": 1}}}
    assert report.left_out == {"questions without an answer": 1}
    line = json.dumps(SQUAD, indent=2).split("\n").index('      "title": "Broken",')
    assert [(p.line, "context" in p.detail) for p in report.problems] == [(line, True)], "where the article begins"


def test_squad_as_rows_and_without_a_split_in_the_name(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "title": "T_x",
        "context": "c d",
        "question": "q",
        "answers": {"text": ["c"], "answer_start": [0]},
    }
    twin = row | {"id": "b", "question": "r", "answers": ["d"]}
    data, report = made(tmp_path, {"some.jsonl": lines(row, twin, row | {"id": None})})
    assert list(data.documents) == [name("c d", "T x")]
    assert data.judgements == {"all": {key: {name("c d", "T x"): 1} for key in "ab"}}
    assert report.repeats == {"documents": 1}
    assert report.refused == 1, "a question without an id"
    data, _ = made(tmp_path, {}, split="dev")
    assert list(data.judgements) == ["dev"]


def test_natural_questions(tmp_path: Path) -> None:
    without = NQ | {"example_id": 8, "annotations": [{"long_answer": {"start_token": -1}, "short_answers": []}]}
    outside = NQ | {"example_id": 9, "long_answer_candidates": [{"start_token": 4, "end_token": 99}]}
    data, report = made(tmp_path, {"nq-dev.jsonl": lines(NQ, without, outside)})
    text, table = "Email is good, very.", "x"
    assert list(data.documents.values()) == [by_text(text, "Email marketing"), by_text(table, "Email marketing")]
    assert data.queries["7"].answers == ("Email", "yes")
    assert data.judgements == {"dev": {"7": {name(text, "Email marketing"): 1}}}
    assert report.left_out == {"questions without a long answer": 1}
    assert report.problems[0].line == 3


def test_natural_questions_with_tokens_as_objects(tmp_path: Path) -> None:
    full = {key: value for key, value in NQ.items() if key != "document_text"}
    full["document_tokens"] = [{"token": token} for token in str(NQ["document_text"]).split(" ")]
    data, _ = made(tmp_path, {"nq.jsonl": lines(full)})
    assert "Email is good, very." in {document.text for document in data.documents.values()}


def test_dpr(tmp_path: Path) -> None:
    data, report = made(tmp_path, {"nq-train.json": json.dumps([DPR, DPR | {"positive_ctxs": []}])})
    assert data.documents["11"] == Document("11", "T", "it is me")
    assert data.judgements == {"train": {"nq-train:1": {"11": 1}}}
    assert Column.load(tmp_path / "out", "negatives").one("nq-train:1") == {"ids": ["12", name("random")]}
    assert data.queries["nq-train:1"].answers == ("me",)
    assert report.left_out == {"questions without a positive passage": 1}


def test_dpr_as_tevatron_writes_it(tmp_path: Path) -> None:
    passage = {"docid": "d1", "title": "", "text": "yes"}
    row = {"query_id": "7", "query": "q", "positive_passages": [passage], "negative_passages": [passage]}
    data, _ = made(tmp_path, {"x.jsonl": lines(row)})
    assert data.judgements == {"train": {"7": {"d1": 1}}}
    assert not (tmp_path / "out" / "columns").exists(), "a negative that is the positive is none"


def test_hotpotqa(tmp_path: Path) -> None:
    hub = HOTPOT | {
        "_id": "5b",
        "supporting_facts": {"title": ["C"], "sent_id": [0]},
        "context": {"title": ["A", "C"], "sentences": [["One.", " Two."], ["Four."]]},
    }
    wrong = HOTPOT | {"_id": "5c", "supporting_facts": [["nowhere", 0]]}
    hidden = {key: HOTPOT[key] for key in ("question", "context")} | {"_id": "5d"}
    data, report = made(tmp_path, {"hotpot_dev.json": json.dumps([HOTPOT, hub, wrong, hidden])})
    a, b, c = name("One. Two.", "A"), name("Three.", "B"), name("Four.", "C")
    assert set(data.documents) == {a, b, c}
    assert data.judgements == {"dev": {"5a": {a: 1, b: 1}, "5b": {c: 1}}}
    assert Column.load(tmp_path / "out", "negatives").rows == {"5a": [{"ids": [c]}], "5b": [{"ids": [a]}]}
    assert (report.refused, set(data.queries)) == (1, {"5a", "5b", "5d"})


def test_clara_questions_over_one_document(tmp_path: Path) -> None:
    paraphrase = {"data_type": "paraphrase", "question": "", "answers": ["said otherwise"], "docs": ["the document"]}
    uneven = CLARA | {"answers": ["a1"]}
    data, report = made(tmp_path, {"x.jsonl": lines(CLARA, paraphrase, uneven)})
    document = name("the document")
    assert list(data.documents) == [document]
    assert {key: query.answers for key, query in data.queries.items()} == {"x:1.1": ("a1",), "x:1.2": ("a2", "a3")}
    assert data.judgements == {"train": {"x:1.1": {document: 1}, "x:1.2": {document: 1}}}
    assert Column.load(tmp_path / "out", "questions").rows[document] == [
        {"question": "q1", "answers": ["a1"], "kind": "qa"},
        {"question": "q2", "answers": ["a2", "a3"], "kind": "qa"},
        {"question": "", "answers": ["said otherwise"], "kind": "paraphrase"},
    ]
    assert [p.line for p in report.problems] == [3]


@pytest.mark.parametrize("documents", ["docs", "context", "content"])
@pytest.mark.parametrize("answers", ["answers", "answer", "golden_answers", "gold_answers", "gold_answer"])
def test_clara_in_all_its_spellings(tmp_path: Path, documents: str, answers: str) -> None:
    row = {"question": "q", answers: "gold", documents: ["a", "b", "c"], "pos_index": [1]}
    data, _ = made(tmp_path, {"x.jsonl": lines(row)})
    assert data.queries["x:1"].answers == ("gold",)
    assert data.judgements == {"train": {"x:1": {name("b"): 1}}}
    pool = [name(text) for text in "abc"]
    assert Column.load(tmp_path / "out", "candidates").one("x:1") == {"ids": pool, "kind": "qa"}
    assert Column.load(tmp_path / "out", "negatives").one("x:1") == {"ids": [pool[0], pool[2]]}


@pytest.mark.parametrize(
    "change",
    [
        {"pos_index": [3]},
        {"pos_index": "0"},
        {"pos_index": [True]},
        {"docs": ["a", ""]},
        {"docs": ["a", 5]},
        {"question": [""]},
        {"question": 5},
        {"question": ["q"], "answer": "one"},
        {"question": None, "answer": None},
    ],
)
def test_clara_rows_that_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    good = {"question": "q", "answer": "gold", "docs": ["a", "b", "c"], "pos_index": 0}
    data, report = made(tmp_path, {"x.jsonl": lines(good, good | change)})
    assert (report.refused, report.problems[0].line) == (1, 2)
    assert len(data.queries) == 1


def test_clara_without_gold_positions_judges_nothing(tmp_path: Path) -> None:
    data, report = made(tmp_path, {"x.jsonl": lines({"question": "q", "answer": "a", "docs": ["a", "b"]})})
    assert data.judgements == {}
    assert report.columns == {"candidates": 1}


def test_contrast_with_scores(tmp_path: Path) -> None:
    data, report = made(tmp_path, {"nq.jsonl": lines(CONTRAST, CONTRAST | {"neg_scores": [1]})})
    p, n, m = (name(text) for text in "pnm")
    assert data.judgements == {"train": {"nq:1": {p: 1}}}
    assert Column.load(tmp_path / "out", "negatives").one("nq:1") == {"ids": [n, m], "scores": [1.5, 2.0]}
    assert Column.load(tmp_path / "out", "teacher_scores").one("nq:1") == {"ids": [p, n, m], "scores": [9.0, 1.5, 2.0]}
    assert report.left_out == {"negatives that are positives": 1}
    assert [p.line for p in report.problems] == [2], "fewer scores than texts"


def test_contrast_as_training_libraries_name_it(tmp_path: Path) -> None:
    row = {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}
    data, _ = made(tmp_path, {"test.jsonl": lines(row, {"anchor": "q", "positive": 5})})
    assert data.judgements == {"test": {"test:1": {name("p"): 1}}}
    assert Column.load(tmp_path / "out", "negatives").one("test:1") == {"ids": [name("n"), name("m")]}
    assert not (tmp_path / "out" / "columns" / "teacher_scores.jsonl").exists()


def test_trec_documents_topics_and_judgements(tmp_path: Path) -> None:
    header = "<DOCNO>W</DOCNO>\n<DOCHDR>\nhttp://x\n</DOCHDR>\n"
    web = f"<DOC>\n{header}<html><title>Home</title><body>Hi &lt;you&gt;</body>\n</DOC>"
    broken = "<DOC><TEXT>no number</TEXT></DOC>\n"
    data, report = made(
        tmp_path,
        {
            "ft/ft911_1.gz": gzip.compress((TREC + broken + web).encode()),
            "latin.sgml": "<DOC><DOCNO>L</DOCNO><TEXT>caf\xe9</TEXT></DOC>".encode("latin-1"),
            "topics.txt": "<top>\n<num> Number: 301\n<title> Crime\n<desc> x\n</top>\n",
            "judged.txt": "301 0 FT-1 1\n301 0 W 0\n",
        },
    )
    assert data.documents["FT-1"] == Document("FT-1", "A & B", "One\n\ntwo")
    assert data.documents["W"] == Document("W", "Home", "Hi <you>")
    assert data.documents["L"].text == "café"
    assert data.judgements == {"test": {"301": {"FT-1": 1, "W": 0}}}
    assert [(p.line, p.detail) for p in report.problems] == [(8, "the document has no <DOCNO>")]


def test_a_trec_file_that_is_cut_off_or_has_a_giant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lodesmith.data.formats import trec_documents

    monkeypatch.setattr(trec_documents, "LIMIT", 500)
    monkeypatch.setattr(trec_documents, "_BLOCK", 64)
    giant = f"<DOC><DOCNO>G</DOCNO><TEXT>{'long ' * 500}</TEXT></DOC>\n"
    data, report = made(tmp_path, {"docs.trec": giant + TREC + "<DOC><DOCNO>C</DOCNO><TEXT>cut"})
    assert list(data.documents) == ["FT-1"]
    assert {(p.line, p.detail.split(" ")[-2]) for p in report.problems} == {(1, "500"), (9, "this")}


def test_triples_by_id(tmp_path: Path) -> None:
    data, report = made(
        tmp_path,
        {
            "collection.tsv": "".join(f"{i}\ttext {i}\n" for i in range(10)),
            "queries.train.tsv": "7\tseven\n8\teight\n",
            "qidpidtriples.train.tsv.gz": gzip.compress(
                b"7\t1\t5\n8\t2\t3\n7\t1\t6\n7\t1\t5\n7\t1\t99\n9\t1\t2\nbad\n"
            ),
        },
    )
    assert data.judgements == {"train": {"7": {"1": 1}, "8": {"2": 1}}}
    assert Column.load(tmp_path / "out", "negatives").rows == {"7": [{"ids": ["5", "6"]}], "8": [{"ids": ["3"]}]}
    details = [p.detail for p in report.problems]
    assert any("found 1 fields" in d for d in details)
    assert any(d.startswith("2 negatives are in none") for d in details)
    assert not list((tmp_path / "out" / "columns").glob(".*"))


def test_triples_by_text(tmp_path: Path) -> None:
    data, report = made(tmp_path, {"triples.tsv": "q one\tp\tn\nq one\tp\tm\nq two\tp\tp\n\tp\tn\n"})
    assert {query.text for query in data.queries.values()} == {"q one", "q two"}
    first = next(key for key, query in data.queries.items() if query.text == "q one")
    assert data.judgements["train"][first] == {name("p"): 1}
    assert Column.load(tmp_path / "out", "negatives").rows == {first: [{"ids": [name("n"), name("m")]}]}
    assert report.refused == 1


@pytest.mark.data
def test_real_samples(collections: Path, tmp_path: Path) -> None:
    report = import_paths([collections / "text" / "clara_pretrain_sample.jsonl.gz"], tmp_path / "clara")
    assert (report.documents, report.queries, report.refused) == (1000, 7861, 0)
    report = import_paths([collections / "hardneg_samples"], tmp_path / "hard")
    assert (report.queries, report.columns, report.refused) == (20, {"negatives": 20, "teacher_scores": 20}, 0)
    teacher = Column.load(tmp_path / "hard", "teacher_scores")
    assert sorted({len(rows[0]["ids"]) for rows in teacher.rows.values()})[-1] == 101


@pytest.mark.parametrize(
    "change",
    [
        {"supporting_facts": [[["A"], 0]]},
        {"supporting_facts": {"title": 5, "sent_id": [0]}},
        {"context": [[["A"], ["x"]]]},
        {"context": {"title": 5, "sentences": 3}},
    ],
    ids=str,
)
def test_hotpotqa_rows_of_other_types_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {"_id": "1", "question": "q?", "answer": "a", "supporting_facts": [["A", 0]], "context": [["A", ["s."]]]}
    data, report = made(tmp_path, {"a.jsonl": lines(row, row | {"_id": "2"} | change)})
    assert (list(data.queries), report.refused, report.problems[0].line) == (["1"], 1, 2)
    made(tmp_path / "first", {"a.jsonl": lines(row | change, row), "b.txt": "Some words."})


def test_a_topic_without_a_title_does_not_take_that_of_the_next(tmp_path: Path) -> None:
    topics = "<top><num> Number: 1 <desc> d </top>\n<top><num> Number: 2 <title> Topic: two\n words <desc> d </top>"
    data, report = made(tmp_path, {"topics.txt": topics, "a.txt": "Some words."})
    assert [(query.id, query.text) for query in data.queries.values()] == [("2", "two words")]
    assert [(problem.line, problem.detail) for problem in report.problems] == [
        (1, "a topic must have a number and a <title>")
    ]
