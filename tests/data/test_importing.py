"""Files and folders of a user's become a dataset; what cannot be read is reported and the rest goes on."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.check import check
from lodesmith.data.importing import import_paths
from lodesmith.data.rows import kind_of, split_of


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_folder_of_texts(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "my docs",
        {
            "b/guide.md": "# Guide\n\nOne two three.\n\n## More\n\nFour five.\n",
            "a note.txt": "Just some words here.",
            "page.html": "<title>T</title><p>hello",
            "old.rst": "Title\n=====\n\ntext\n",
            ".hidden.txt": "no",
            ".git/x.txt": "no",
            "image.png": b"\x89PNG",
        },
    )
    report = import_paths([folder], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert list(data.documents.values()) == [
        Document("a%20note.txt#1", "a note", "Just some words here."),
        Document("old.rst#1", "Title", "text"),
        Document("page.html#1", "T", "hello"),
        Document("b/guide.md#1", "Guide", "One two three."),
        Document("b/guide.md#2", "Guide — More", "Four five."),
    ]
    assert report.files == {".html": 1, ".md": 1, ".rst": 1, ".txt": 1}
    assert report.skipped == {".png": 1}
    assert (report.documents, report.refused, data.name) == (5, 0, "my docs")
    assert check(tmp_path / "out").ok
    assert json.loads(json.dumps(report.to_json()))["documents"] == 5
    assert report.to_text().startswith("5 passages from 4 files")


def test_passages_keep_to_the_budget_and_ids_are_stable(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a.txt": "Many words stand here. " * 100})
    import_paths([folder], tmp_path / "out", words=50)
    data = Dataset.load(tmp_path / "out")
    assert list(data.documents) == [f"a.txt#{i}" for i in range(1, 10)]
    assert all(len(d.text.split()) <= 50 for d in data.documents.values())
    first = data.fingerprint
    import_paths([folder], tmp_path / "out", words=50)
    assert Dataset.load(tmp_path / "out").fingerprint == first


def test_unreadable_files_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in",
        {
            "a.txt": "good text",
            "binary.txt": b"ab\x00cd",
            "broken.pdf": b"%PDF-1.4 nothing",
            "empty.md": "",
            "latin.txt": "caf\xe9 cr\xe8me".encode("latin-1"),
            "rows.jsonl": b'{"_id": "x", "text": "row"}\nbroken\n{"_id": "x", "text": "again"}\n',
            "wide.txt": "wörter".encode("utf-16"),
        },
    )
    (folder / "dangling.txt").symlink_to(folder / "nowhere")
    report = import_paths([folder], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert {d.text for d in data.documents.values()} == {"good text", "café crème", "row", "wörter"}
    assert report.latin1 == 1
    assert report.refused == len(report.problems) == 6
    found = {(p.file, p.line) for p in report.problems}
    expected = {("binary.txt", None), ("broken.pdf", None), ("empty.md", None), ("dangling.txt", None)}
    assert found == {*expected, ("rows.jsonl", 2), ("rows.jsonl", None)}
    assert "6 problems" in report.to_text()


def test_a_beir_folder_comes_over_whole(tmp_path: Path) -> None:
    made = Dataset.of(
        [Document("d 1", "T", "x"), Document("2", "", "y")],
        [Query("q", "what", ("a",))],
        {"dev": {"q": {"2": 3}}},
        licence="CC0",
        drop_same_id=True,
    )
    folder = made.save(tmp_path / "in")
    write(folder, {"columns/traces.jsonl": '{"query": "q", "text": "t"}\n', "rejects.jsonl": "{}\n"})
    packed = gzip.compress((folder / "corpus.jsonl").read_bytes())
    (folder / "corpus.jsonl").unlink()
    write(folder, {"corpus.jsonl.gz": packed})
    report = import_paths([folder], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert data.fingerprint == made.fingerprint
    assert data.info["licence"] == "CC0"
    assert (tmp_path / "out" / "columns" / "traces.jsonl").exists()
    assert report.refused == 0


def test_tsv_as_of_ms_marco_and_trec(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in",
        {
            "collection.tsv": "0\tfirst passage\n1\tTitle\tsecond passage\nbad\n",
            "queries.dev.tsv": "10\twhat is first\n11\twhat is second\n",
            "qrels.dev.tsv": "10\t0\t0\t1\n11 0 1 2\n11\t0\t99\t1\n",
            "topics.1-2.txt": "<top>\n<num> Number: 301\n<title> Organised crime\n\n<desc> x\n</top>\n",
            "qrels.test.txt": "301 0 1 1\n",
        },
    )
    report = import_paths([folder], tmp_path / "out", name="mini")
    data = Dataset.load(tmp_path / "out")
    assert data.documents["1"] == Document("1", "Title", "second passage")
    assert data.queries["301"].text == "Organised crime"
    assert data.judgements == {"dev": {"10": {"0": 1}, "11": {"1": 2}}, "test": {"301": {"1": 1}}}
    assert data.name == "mini"
    assert report.refused == 2, "a line with one field, and a judgement on an absent document"


def test_jsonl_spellings_and_several_paths(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a", {"x.jsonl": '{"id": 5, "contents": "five", "title": "T"}\n{"body": "no id"}\n', "t.txt": "t"}
    )
    write(tmp_path / "b", {"t.txt": "other"})
    import_paths([folder, tmp_path / "b", tmp_path / "b" / "t.txt"], tmp_path / "out")
    documents = Dataset.load(tmp_path / "out").documents
    assert documents["5"] == Document("5", "T", "five")
    assert documents["2"].text == "no id"
    assert {"a/t.txt#1", "b/t.txt#1", "t.txt#1"} <= set(documents)


def test_the_output_is_never_its_own_input(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a.txt": "text"})
    for _ in range(2):
        report = import_paths([folder], folder / "out")
        assert (report.documents, report.refused) == (1, 0)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"a.png": "x"})
    with pytest.raises(InputError, match=r"no text was found.*\.png"):
        import_paths([folder], tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        import_paths([tmp_path / "none"], tmp_path / "out")
    with pytest.raises(InputError, match="not a dataset"):
        import_paths([folder], folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind", "split"),
    [
        ("corpus.jsonl", "documents", "test"),
        ("queries.train.tsv.gz", "queries", "train"),
        ("dev-queries.jsonl", "queries", "dev"),
        ("qrels/valid.tsv", "judgements", "dev"),
        ("qrels.dl19-passage.txt", "judgements", "test"),
        ("readme.txt", "", "test"),
        ("manual.pdf", "", "test"),
    ],
)
def test_kinds_by_name(tmp_path: Path, name: str, kind: str, split: str) -> None:
    assert kind_of(tmp_path / name) == kind
    assert split_of(Path(name)) == split


@pytest.mark.data
def test_scifact_comes_over_unchanged(collections: Path, tmp_path: Path) -> None:
    import_paths([collections / "scifact"], tmp_path / "out")
    assert Dataset.load(tmp_path / "out").fingerprint == Dataset.load(collections / "scifact").fingerprint


PNG = b"\x89PNG\r\n\x1a\n"


def test_an_image_takes_the_place_of_nothing(tmp_path: Path) -> None:
    """Neither of the dataset's own files, nor of an image that another corpus has under the same name."""
    for folder, body in (("one", PNG + b"1"), ("two", PNG + b"2")):
        corpus = {"_id": folder, "text": "t", "image": "images/p.png"}
        own = [{"_id": f"{folder}{i}", "text": "t", "image": i} for i in ("corpus.jsonl", "./queries.jsonl", "QRELS/x")]
        lines = "".join(json.dumps(row) + "\n" for row in [corpus, *own])
        write(tmp_path / folder, {"corpus.jsonl": lines, "queries.jsonl": "{}", "QRELS/x": "", "images/p.png": body})
    report = import_paths([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert set(data.documents) == {"one", "two"}
    assert (tmp_path / "out" / data.documents["one"].image).read_bytes() == PNG + b"1"
    assert (tmp_path / "out" / data.documents["two"].image).read_bytes() == PNG + b"2"
    assert sum("is no image file beside it" in problem.detail for problem in report.problems) == 6


def test_what_follows_a_clash_of_ids_goes_with_it(tmp_path: Path) -> None:
    """Two files that number their queries alike: the second's judgements are not the first's."""
    row = {"_id": "1", "query": "first", "pos": ["p one"], "neg": ["n one"]}
    other = {"_id": "1", "query": "second", "pos": ["p two"], "neg": ["n two"]}
    folder = write(tmp_path / "in", {"a.jsonl": json.dumps(row), "b.jsonl": f"{json.dumps(other)}\n{json.dumps(row)}"})
    report = import_paths([folder], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert data.queries["1"].text == "first"
    assert [data.documents[d].text for d in data.judgements["train"]["1"]] == ["p one"]
    assert report.refused == 1
    assert report.columns == {"negatives": 2}, "the third row says the same as the first"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"b.txt": "Some words."})
    os.mkfifo(folder / "a.txt")
    report = import_paths([folder], tmp_path / "out")
    assert (report.documents, report.problems[0].detail) == (1, "this is no regular file")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in\xe9"))
    folder.mkdir()
    for byte in (b"\xe8", b"\xe9"):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + byte + b".jsonl"))
        path.write_text(json.dumps({"query": repr(byte), "pos": ["p"], "neg": ["n"]}))
    report = import_paths([folder], tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert (report.queries, report.refused) == (2, 0)
    assert data.name == "in\\xe9"
    assert set(data.queries) == {"\\xe8:1", "\\xe9:1"}


def test_hostile_markup_is_read_in_time_linear_in_it(tmp_path: Path) -> None:
    """Tags that are never closed: each of these took minutes when every one was looked for to the end."""
    head = "<DOC><DOCNO>1</DOCNO>"
    files: dict[str, str | bytes] = {}
    files |= {f"{i}.trec": head.replace("1", str(i)) + tag * 40_000 + "</DOC>" for i, tag in enumerate(UNCLOSED)}
    files |= {"topics.txt": "<top><num> 7 <title> found </top>" + "<num> 1 " * 40_000, "note.txt": "Some words."}
    import_paths([write(tmp_path / "in", files)], tmp_path / "out")
    assert {"0", "1", "2", "3"} < set(Dataset.load(tmp_path / "out").documents)
    assert list(Dataset.load(tmp_path / "out").queries) == ["7"]


UNCLOSED = ("<TITLE> a ", "<script> a ", "<TEXT <p ", "<!-- a ")
