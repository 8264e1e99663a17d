"""Rows out of JSONL, JSON, Parquet and TSV: streamed, bounded, and refused one by one."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError, MissingExtraError
from lodesmith.core.lines import decode_json
from lodesmith.core.records import Dataset, Document
from lodesmith.data import importing
from lodesmith.data._sink import Sink
from lodesmith.data.formats import _containers
from lodesmith.data.formats._containers import elements, rows
from lodesmith.data.formats._source import Cell, Judgement, Negative
from lodesmith.data.importing import import_paths
from lodesmith.data.rows import kind_of, split_of

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
TEXT = st.text('a"\\\\{}[],é\n', max_size=5)
JSON = st.recursive(
    st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=3)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parquet(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path, **settings)
    return path


@quick
@given(OBJECTS, st.sampled_from([None, 0, 2]), st.booleans(), st.integers(4, 40))
def test_json_elements_are_those_that_a_parser_finds(
    value: list[Any], indent: int | None, wrapped: bool, block: int
) -> None:
    text = json.dumps({"version": "[{", "data": value} if wrapped else value, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_containers, "_BLOCK", block)
        found = list(elements(io.BytesIO(b"\xef\xbb\xbf" + text.encode()), Path("x")))
    assert [decode_json(line) for line in found] == value
    raw = b"\xef\xbb\xbf" + text.encode()
    assert all(raw[line.offset : line.offset + line.size] == line.raw for line in found)
    assert all(line.number == raw[: line.offset].count(b"\n") + 1 for line in found)


@quick
@given(OBJECTS, st.data())
def test_json_that_is_cut_off_says_so(value: list[Any], data: st.DataObject) -> None:
    text = json.dumps(value).encode()
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(InputError, match=r"ends inside|empty"):
        list(elements(io.BytesIO(cut), Path("x")))


@pytest.mark.parametrize(("text", "problem"), [("[" * 20_000, "10,000 deep"), ("nothing", "neither"), (" \n", "empty")])
def test_json_files_that_are_none(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        list(elements(io.BytesIO(text.encode()), Path("x")))


def test_a_giant_element_is_refused_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_containers, "_MOST_ELEMENT", 100)
    (tmp_path / "a.json").write_text('[{"x": "' + "y" * 1000 + '"},\n{"x": 1}, {"x": tru}]')
    refused: list[tuple[int | None, str]] = []
    assert list(rows(tmp_path / "a.json", lambda line, reason: refused.append((line, reason)))) == [(2, {"x": 1})]
    assert [line for line, _ in refused] == [1, 2]
    assert "1,009 bytes" in refused[0][1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}\n{"a": 2}\n', [1, 2]),
        ('{"a": 1}', [1]),
        ('{"data": [{"a": 1}, {"a": 2}]}', [1, 2]),
        ('{"data": [1, 2], "a": 5}', [5]),
        ('{\n"data": [\n{"a": 1}\n]\n}', [1]),
        ('["a", ["b", {"a": 9}], {"a": 3}]', [3]),
    ],
)
def test_what_a_json_file_may_be(tmp_path: Path, text: str, expected: list[int]) -> None:
    (tmp_path / "a.json").write_text(text)
    assert [row["a"] for _, row in rows(tmp_path / "a.json", pytest.fail)] == expected


def test_broken_files_are_located_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    row = '{"_id": "%d", "text": "some text"}\n'
    whole = gzip.compress("".join(row % i for i in range(5000)).encode(), mtime=0)
    (folder / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.json").write_text('[{"question": "q", "docs": ["d"], "answer": "a"}, {"question": ')
    (folder / "no.jsonl.gz").write_bytes(b"not gzip")
    (folder / "unknown.jsonl").write_text('{"file": "x", "size": 5}\n')
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "mixed.jsonl").write_text(
        '{"_id": "m1", "text": "fine"}\n[1]\n{"_id": true, "text": "x"}\n{"_id": "m2"}\n'
        '{"_id": "m3", "text": 5}\n{"_id": "m1", "text": "fine"}\n{"_id": "m1", "text": "other"}\n'
        '{"_id": "a\\tb", "text": "x"}\n'
    )
    report = import_paths([folder], tmp_path / "out")
    found = {(p.file, p.line) for p in report.problems}
    assert found == {
        ("cut.jsonl.gz", None),
        ("cut.json", None),
        ("no.jsonl.gz", None),
        ("unknown.jsonl", None),
        *(("mixed.jsonl", line) for line in (2, 3, 4, 5, 8)),
        ("mixed.jsonl", None),
    }
    details = {p.file: p.detail for p in report.problems if p.line is None}
    assert "cut off" in details["cut.jsonl.gz"]
    assert "they have file, size" in details["unknown.jsonl"]
    assert "occurs twice, with different texts" in details["mixed.jsonl"]
    assert report.repeats == {"documents": 1}
    assert 0 < report.documents - 2 < 5000, "what stands before the cut is read"


def test_parquet_of_documents_queries_and_judgements(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    parquet(folder / "corpus" / "0.parquet", [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two"}])
    parquet(folder / "queries" / "0.parquet", [{"_id": 5, "text": "what", "title": ""}])
    parquet(folder / "asked.parquet", [{"qid": "6", "question": "who", "answers": ["me"]}])
    graded = [{"query-id": 5, "corpus-id": "d1", "score": 1.0}, {"query-id": 6, "corpus-id": "d2", "score": 0.5}]
    parquet(folder / "default" / "dev.parquet", graded)
    report = import_paths([folder], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert data.documents["d1"] == Document("d1", "T", "one")
    assert {query.id: query.answers for query in data.queries.values()} == {"5": (), "6": ("me",)}
    assert data.judgements == {"dev": {"5": {"d1": 1}}}
    assert [(p.line, "integer" in p.detail) for p in report.problems] == [(2, True)]


def test_parquet_with_nested_columns_has_the_layouts_of_rows(tmp_path: Path) -> None:
    squad = {"id": "a", "title": "T", "context": "c", "question": "q", "answers": {"text": ["c"], "answer_start": [0]}}
    parquet(tmp_path / "in" / "train-00000.parquet", [squad])
    hotpot = {
        "id": "h",
        "question": "q",
        "answer": "a",
        "supporting_facts": {"title": ["A"], "sent_id": [0]},
        "context": {"title": ["A", "B"], "sentences": [["x."], ["y."]]},
    }
    parquet(tmp_path / "in" / "validation-00000.parquet", [hotpot])
    report = import_paths([tmp_path / "in"], tmp_path / "out")
    assert report.layouts == {"hotpotqa": 1, "squad": 1}
    assert report.judgements == {"dev": 1, "train": 1}


def test_parquet_with_images(tmp_path: Path) -> None:
    asked = {"image": {"bytes": PNG, "path": None}, "image_filename": "p/1.png", "query": "what?", "answer": "x"}
    pages = [asked, asked | {"query": "who?"}, asked | {"image_filename": "2", "image": {"bytes": b"no image"}}]
    parquet(tmp_path / "in" / "test.parquet", pages)
    report = import_paths([tmp_path / "in"], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert list(data.documents) == ["p/1.png"]
    image = data.documents["p/1.png"].image
    assert (tmp_path / "out" / image).read_bytes() == PNG
    assert Path(image).parts[0] == "images"
    assert {tuple(j) for j in data.judgements["test"].values()} == {("p/1.png",)}
    assert (report.images, report.queries, report.refused) == (1, 2, 2), "one bad image, and its judgement"


def test_a_page_with_a_name_that_wants_out(tmp_path: Path) -> None:
    parquet(tmp_path / "in" / "x.parquet", [{"image": PNG, "docid": "../../../etc/x"}, {"image": PNG, "docid": "a"}])
    import_paths([tmp_path / "in"], tmp_path / "out")
    files = list((tmp_path / "out" / "images").iterdir())
    assert len(files) == 2
    assert not list(tmp_path.glob("*etc*"))


def test_broken_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    path = parquet(folder / "cut.parquet", [{"_id": str(i), "text": "x" * 100} for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-10])
    (folder / "none.parquet").write_bytes(b"")
    parquet(folder / "columns.parquet", [{"name": "x", "size": 5}])
    parquet(folder / "damaged.parquet", [{"_id": str(i), "text": f"{i} text"} for i in range(500)], compression="gzip")
    raw = bytearray((folder / "damaged.parquet").read_bytes())
    raw[60:200] = b"\xff" * 140
    (folder / "damaged.parquet").write_bytes(raw)
    (folder / "a.txt").write_text("good")
    report = import_paths([folder], tmp_path / "out")
    assert {p.file for p in report.problems} == {"cut.parquet", "none.parquet", "columns.parquet", "damaged.parquet"}
    assert report.documents == 1


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", [{"_id": "1", "text": "x"}])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lodesmith\[parquet\]'"):
        import_paths([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_a_beir_folder_come_along_and_never_from_outside(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    wanted = ["images/a.png", "../secret.png", str(tmp_path / "secret.png"), "images/none.png"]
    corpus = [{"_id": str(i), "text": "", "image": image} for i, image in enumerate(wanted)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    report = import_paths([folder], tmp_path / "out")
    assert list(Dataset.load(tmp_path / "out").documents) == ["0"]
    assert (tmp_path / "out" / "images" / "a.png").read_bytes() == PNG
    assert report.refused == 3


def test_what_the_sink_does_not_know_is_reported(tmp_path: Path) -> None:
    problems: list[str] = []
    with Sink(tmp_path, lambda file, line, detail: problems.append(detail), {}) as sink:
        for record in (
            Judgement("q", "late", 2),
            Judgement("q", "late", 2),
            Judgement("q", "late", 1),
            Negative("q", "late"),
            Document("late", "", "x"),
            Cell("scores", "document", "late", {"ids": ["late", "none"], "scores": [1.0, 2.0]}),
            Cell("scores", "document", "none", {"ids": ["late"], "scores": [1.0]}),
            Cell("scores", "document", "late", {"ids": ["none"], "scores": [1.0]}),
        ):
            sink.add(record, "f", "test")
    assert sink.judgements == {"test": 0}, "the query is in no file"
    assert sink.columns == {"scores": 1}
    assert (
        tmp_path / "columns" / "scores.jsonl"
    ).read_text() == '{"document": "late", "ids": ["late"], "scores": [1.0]}\n'
    assert sum("judged, but not in the files" in p for p in problems) == 3
    assert any(p.startswith("1 negatives") for p in problems)


def test_contradicting_judgements_keep_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "docs.jsonl").write_text('{"_id": "d", "text": "x"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    (folder / "qrels.tsv").write_text("q\td\t2\nq\td\t2\nq\td\t1\n")
    report = import_paths([folder], tmp_path / "out")
    assert Dataset.load(tmp_path / "out").judgements == {"test": {"q": {"d": 2}}}
    assert [p.detail for p in report.problems] == ["'q', 'd': two grades; the first is kept"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-v1.1.json", "train"),
        ("biencoder-nq-dev.json", "dev"),
        ("clara_pretrain_sample.jsonl", "train"),
        ("testset.tsv", "test"),
        ("validation-00000-of-00001.parquet", "dev"),
        ("latest.json", "all"),
        ("device-manual.json", "all"),
        ("contest.json", "all"),
    ],
)
def test_splits_by_name(name: str, split: str) -> None:
    assert split_of(Path(name), "all") == split


def test_split_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name of a split"):
        import_paths([tmp_path], tmp_path / "out", split="../x")
    assert kind_of(Path("readme.md")) == ""
    assert importing.Pages().dpi == 150


def test_a_parquet_value_that_python_cannot_hold(tmp_path: Path) -> None:
    """A day in a far future, in a column that nobody asked for."""
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    table = arrow.table({"text": ["some words"], "at": arrow.array([10**15], arrow.timestamp("s"))})
    pyarrow.parquet.write_table(table, tmp_path / "in/a.parquet")
    (tmp_path / "in/b.txt").write_text("Some words.")
    report = import_paths([tmp_path / "in"], tmp_path / "out")
    assert (report.documents, report.problems[0].file) == (1, "a.parquet")


def test_topics_that_are_too_long_are_refused_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lodesmith.data.rows._MOST_TOPICS", 40)
    from lodesmith.data.importing import import_paths

    (tmp_path / "in").mkdir()
    (tmp_path / "in/topics.txt").write_text("<top>\n<num> 1\n<title> owls\n</top>\n" * 3)
    (tmp_path / "in/a.txt").write_text("Owls hunt at night over the fields.")
    report = import_paths([tmp_path / "in"], tmp_path / "out")
    assert report.queries == 0
    assert "more than 40 bytes" in report.to_text()
