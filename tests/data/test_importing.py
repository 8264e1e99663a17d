"""Files and folders of a user's become a dataset; what cannot be read is reported and the rest goes on."""

from __future__ import annotations

import gzip
import json
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
