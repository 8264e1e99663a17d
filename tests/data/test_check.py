"""Every kind of bad input is counted and located, and a clean copy adds up."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset
from lodesmith.data.check import check
from lodesmith.data.problems import ERRORS, WARNINGS, Report

CORPUS = b'{"_id": "d1", "text": "one"}\n{"_id": "d2", "title": "T", "text": "two"}\n'
QUERIES = b'{"_id": "q1", "text": "first question"}\n{"_id": "q2", "text": "another matter"}\n'
TEST = b"query-id\tcorpus-id\tscore\nq1\td1\t1\n"
TRAIN = b"query-id\tcorpus-id\tscore\nq2\td2\t2\n"


def sound(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, raw in (("corpus.jsonl", CORPUS), ("queries.jsonl", QUERIES)):
        (folder / name).write_bytes(raw)
    (folder / "qrels" / "test.tsv").write_bytes(TEST)
    (folder / "qrels" / "train.tsv").write_bytes(TRAIN)
    return folder


def add(name: str, raw: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(raw)

    return change


def put(name: str, raw: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(raw)

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def document(raw: bytes) -> Callable[[Path], None]:
    return add("corpus.jsonl", raw + b"\n")


def judgement(raw: bytes) -> Callable[[Path], None]:
    return add("qrels/test.tsv", raw + b"\n")


def truncated_gz(folder: Path) -> None:
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS * 500)[:-30])


# kind, the change that brings it, file and line of the first example
BROKEN = [
    ("broken-json", document(b'{"_id": "d3", "text"'), "corpus.jsonl", 3),
    ("bom", put("corpus.jsonl", b"\xef\xbb\xbf" + CORPUS), "corpus.jsonl", 1),
    ("crlf", put("corpus.jsonl", CORPUS.replace(b"\n", b"\r\n")), "corpus.jsonl", 1),
    ("invalid-utf8", document(b'{"_id": "d3", "text": "caf\xe9"}'), "corpus.jsonl", 3),
    ("lone-surrogate", document(b'{"_id": "d3", "text": "\\ud83d"}'), "corpus.jsonl", 3),
    ("nan", document(b'{"_id": "d3", "text": "x", "n": NaN}'), "corpus.jsonl", 3),
    ("duplicate-key", document(b'{"_id": "d3", "_id": "d4", "text": "x"}'), "corpus.jsonl", 3),
    ("deep-nesting", document(b'{"_id": "d3", "x": ' + b"[" * 99_999 + b"}"), "corpus.jsonl", 3),
    ("long-line", document(b'{"_id": "d3", "text": "' + b"x" * (17 << 20) + b'"}'), "corpus.jsonl", 3),
    ("not-object", document(b'"d3"'), "corpus.jsonl", 3),
    ("duplicate-id", document(b'{"_id": "d1", "text": "again"}'), "corpus.jsonl", 3),
    ("empty-text", document(b'{"_id": "d3", "text": " "}'), "corpus.jsonl", 3),
    ("empty-query", add("queries.jsonl", b'{"_id": "q3", "text": ""}\n'), "queries.jsonl", 3),
    ("integer-id", document(b'{"_id": 3, "text": "x"}'), "corpus.jsonl", 3),
    ("bad-id", document(b'{"_id": "d\\t3", "text": "x"}'), "corpus.jsonl", 3),
    ("bad-id", document(b'{"_id": "d\\u00003", "text": "x"}'), "corpus.jsonl", 3),
    ("path-id", document(b'{"_id": "../../etc/passwd", "text": "x"}'), "corpus.jsonl", 3),
    ("space-id", document(b'{"_id": "d 3", "text": "x"}'), "corpus.jsonl", 3),
    ("missing-id", document(b'{"text": "x"}'), "corpus.jsonl", 3),
    ("bad-field", document(b'{"_id": "d3", "text": ["x"]}'), "corpus.jsonl", 3),
    ("blank-line", document(b""), "corpus.jsonl", 3),
    ("unknown-document", judgement(b"q1\td9\t1"), "qrels/test.tsv", 3),
    ("unknown-query", judgement(b"q9\td1\t1"), "qrels/test.tsv", 3),
    ("negative-grade", judgement(b"q1\td2\t-1"), "qrels/test.tsv", 3),
    ("fractional-grade", judgement(b"q1\td2\t0.5"), "qrels/test.tsv", 3),
    ("bad-grade", judgement(b"q1\td2\tyes"), "qrels/test.tsv", 3),
    ("bad-grade", put("qrels/test.tsv", b"q1\td1\tyes\nq1\td2\t1\n"), "qrels/test.tsv", 1),
    ("duplicate-judgement", judgement(b"q1\td1\t1"), "qrels/test.tsv", 3),
    ("conflicting-judgement", judgement(b"q1\td1\t2"), "qrels/test.tsv", 3),
    ("no-positive", put("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq1\td1\t0\n"), "qrels/test.tsv", 2),
    ("field-count", judgement(b"q1 0 d1 1"), "qrels/test.tsv", 3),
    ("missing-file", remove("corpus.jsonl"), "corpus.jsonl", None),
    ("missing-file", remove("queries.jsonl"), "queries.jsonl", None),
    ("unreadable", truncated_gz, "corpus.jsonl", None),
    ("shared-query", judgement(b"q2\td1\t1"), "qrels/train.tsv", 2),
    ("shared-document", judgement(b"q1\td2\t1"), "qrels/train.tsv", 2),
    (
        "near-duplicate-query",
        put("queries.jsonl", b'{"_id": "q1", "text": "What is it?"}\n{"_id": "q2", "text": "what IS it"}\n'),
        "queries.jsonl",
        2,
    ),
    ("unknown-query", put("columns/traces.jsonl", b'{"query": "q7", "text": "t"}\n'), "columns/traces.jsonl", 1),
    ("broken-json", put("dataset.json", b"{"), "dataset.json", None),
]


@pytest.mark.parametrize(("kind", "change", "file", "line"), BROKEN, ids=[f"{i}-{b[0]}" for i, b in enumerate(BROKEN)])
def test_each_problem_is_reported_where_it_is(
    tmp_path: Path, kind: str, change: Callable[[Path], None], file: str, line: int | None
) -> None:
    folder = sound(tmp_path / "broken")
    change(folder)
    report = check(folder, fix=tmp_path / "clean")
    problem = report.problems[kind]
    assert (problem.examples[0].file, problem.examples[0].line) == (file, line)
    assert problem.severity == ("error" if kind in ERRORS else "warning")
    assert report.ok == all(p.severity == "warning" for p in report.problems.values())
    assert problem.kind in report.to_text()
    assert json.loads(json.dumps(report.to_json()))["problems"][kind]["count"] == problem.count
    _adds_up(folder, tmp_path / "clean", report)


def _adds_up(folder: Path, clean: Path, report: Report) -> None:
    """kept + rejected = read, the reject file holds exactly the rejected lines, and the copy has no errors."""
    rejects = [json.loads(line) for line in (clean / "rejects.jsonl").read_text().split("\n")[:-1]]
    for name, count in report.files.items():
        assert count.rejected == sum(reject["file"] == name for reject in rejects)
        if (folder / name).exists():
            read = sum(1 for line in (folder / name).read_bytes().split(b"\n") if line.strip())
            assert count.read == read
            assert count.kept == (clean / name).read_bytes().count(b"\n")
    if "corpus.jsonl" in report.files and not report.problems.keys() & {"missing-file", "unreadable"}:
        again = check(clean)
        assert again.ok
        assert not again.total.rejected
        Dataset.load(clean)


def test_all_kinds_are_tried() -> None:
    tried = {kind for kind, *_ in BROKEN}
    assert set(ERRORS) <= tried
    assert set(WARNINGS) - tried == {"no-judgements", "unexamined"}


def test_a_sound_folder_is_sound(tmp_path: Path) -> None:
    report = check(sound(tmp_path / "a"))
    assert report.ok
    assert report.problems == {}
    assert report.total.read == report.total.kept == 8
    assert report.to_text().endswith("no errors")


def test_what_can_be_mended_is_mended(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    put(
        "corpus.jsonl",
        b'\xef\xbb\xbf{"_id": 7, "text": "one", "extra": "\xc3\xa9"}\r\n{"_id": "d2", "text": "two"}\r\n',
    )(folder)
    put("qrels/test.tsv", b"q1\t7\t2.0\r\nq1\td2\t0\r\n")(folder)
    report = check(folder, fix=tmp_path / "b")
    assert report.total.rejected == 0
    assert (tmp_path / "b" / "corpus.jsonl").read_bytes() == (
        '{"_id": "7", "text": "one", "extra": "é"}\n{"_id": "d2", "text": "two"}\n'.encode()
    )
    assert Dataset.load(tmp_path / "b").judgements["test"] == {"q1": {"7": 2, "d2": 0}}
    counts = json.loads((tmp_path / "b" / "dataset.json").read_text())["counts"]
    assert counts == {"documents": 2, "queries": 2, "judgements": {"test": 2, "train": 1}}


def test_rejects_keep_their_bytes_readable(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    document(b'{"_id": "d3", "text": "caf\xe9"}')(folder)
    check(folder, fix=tmp_path / "b")
    (reject,) = map(json.loads, (tmp_path / "b" / "rejects.jsonl").read_text().splitlines())
    assert reject == {
        "file": "corpus.jsonl",
        "line": 3,
        "kind": "invalid-utf8",
        "raw": '{"_id": "d3", "text": "caf\\xe9"}',
    }


def test_examples_are_limited_and_counts_are_not(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    document(b"junk\n" * 50)(folder)
    problem = check(folder, examples=7).problems["broken-json"]
    assert (problem.count, len(problem.examples)) == (50, 7)


def test_gz_columns_and_info_are_carried(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS))
    (folder / "corpus.jsonl").unlink()
    put("dataset.json", b'{"licence": "CC0", "fingerprints": {"dataset": "stale"}}')(folder)
    put("columns/traces.jsonl", b'{"query": "q1", "text": "t"}\n')(folder)
    put("columns/traces.meta.json", b"{}")(folder)
    assert check(folder, fix=tmp_path / "b").ok
    assert (tmp_path / "b" / "corpus.jsonl").read_bytes() == CORPUS
    assert (tmp_path / "b" / "columns" / "traces.jsonl").exists()
    assert (tmp_path / "b" / "columns" / "traces.meta.json").exists()
    info = Dataset.load(tmp_path / "b").info
    assert info["licence"] == "CC0"
    assert "fingerprints" not in info


def test_where_the_copy_may_not_go(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for target in (folder, folder / "inside", tmp_path / "mine"):
        with pytest.raises(InputError):
            check(folder, fix=target)
    with pytest.raises(InputError, match="no such dataset folder"):
        check(tmp_path / "none")
    assert (folder / "corpus.jsonl").read_bytes() == CORPUS


def test_memory_does_not_follow_the_length_of_texts(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    with (folder / "corpus.jsonl").open("ab") as file:
        file.writelines(b'{"_id": "x%d", "text": "%s"}\n' % (i, b"word " * 20_000) for i in range(300))
        file.write(b"z" * (40 << 20) + b"\n")
    tracemalloc.start()
    report = check(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.files["corpus.jsonl"].kept == 302
    assert peak < 52 << 20, "twice the longest line that is read, and some"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_line_of_a_gigabyte_and_ten_million_tiny_lines(tmp_path: Path) -> None:
    folder = sound(tmp_path / "a")
    with (folder / "corpus.jsonl").open("r+b") as file:
        file.seek(1 << 30)  # a hole: a line of NULs that takes no room
        file.write(b"\n")
        for _ in range(100):
            file.write(b"{}\n" * 100_000)
    program = (
        "import json, sys; from lodesmith.data.check import check\n"
        "report = check(sys.argv[1]).to_json()\n"
        # not ru_maxrss, which a process inherits from the one that started it
        "report['rss'] = next(int(row.split()[1]) for row in open('/proc/self/status') if row.startswith('VmHWM'))\n"
        "print(json.dumps(report))"
    )
    answer = subprocess.run([sys.executable, "-c", program, folder], check=True, capture_output=True).stdout
    report = json.loads(answer)
    assert report["problems"]["long-line"]["count"] == 1
    assert report["problems"]["missing-id"]["count"] == 10_000_000
    assert report["files"]["corpus.jsonl"]["kept"] == 2
    assert report["rss"] < 200 << 10, "kilobytes"


@pytest.mark.data
def test_the_collections_have_no_errors(collections: Path) -> None:
    report = check(collections / "cranfield")
    assert report.ok
    assert [(e.line, e.file) for e in report.problems["empty-text"].examples] == [
        (471, "corpus.jsonl"),
        (995, "corpus.jsonl"),
    ]
    shared = check(collections / "scifact").problems["shared-document"]
    data = Dataset.load(collections / "scifact")
    train, test = ({d for docs in data.split(s).values() for d in docs} for s in ("train", "test"))
    assert shared.count == len(train & test)


PIECES = [
    b'{"_id": "d1", "text": "x"}',
    b'"',
    b"{",
    b"}",
    b"[",
    b"\\ud800",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\n",
    b"\t",
]
PIECES += [
    b"q1",
    b"d1",
    b"1",
    b"-1",
    b"0.5",
    b"NaN",
    b"\x00",
    b"\xe2\x80\xa8",
    b'{"_id": 1, "text": ""}',
    b"1e999",
    b"null",
    b" ",
]


@example([b"", b"", b"\xef\xbb\xbf\xef\xbb\xbf1", b""])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), min_size=4, max_size=4))
def test_no_input_gives_a_traceback(tmp_path: Path, raws: list[bytes]) -> None:
    folder = tmp_path / "fuzz"
    names = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "columns/c.jsonl")
    for name, raw in zip(names, raws, strict=True):
        folder.mkdir(exist_ok=True)
        put(name, raw)(folder)
    report = check(folder, fix=tmp_path / "clean")
    _adds_up(folder, tmp_path / "clean", report)
    with suppress(InputError):
        Dataset.load(folder)
        assert not report.files["corpus.jsonl"].rejected, "whatever is rejected cannot be loaded"
        assert not report.files["queries.jsonl"].rejected
