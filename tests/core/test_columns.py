"""Columns: joined by id, resumable, atomic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lodesmith.core.columns import Column, ColumnWriter, names
from lodesmith.core.errors import BusyError, InputError

MADE = {"system": "bm25", "k": 3}


def write(folder: Path, owners: list[str], made_by: dict[str, object] = MADE) -> dict[str, object]:
    with ColumnWriter(folder, "negatives", "query", made_by) as column:
        for owner in column.missing(owners):
            column.add(owner, [{"ids": [f"d{owner}"]}], {"kept": 1})
        return column.finish()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    meta = write(tmp_path, ["b", "a"])
    column = Column.load(tmp_path, "negatives")
    assert list(column.rows) == ["b", "a"]
    assert column.one("a") == {"ids": ["da"]}
    assert column.one("z") is None
    assert column.key == "query"
    assert column.info == meta
    assert meta["counts"] == {"done": 2, "rows": 2, "kept": 2}
    assert names(tmp_path) == ["negatives"]


def test_no_row_and_several_rows(tmp_path: Path) -> None:
    with ColumnWriter(tmp_path, "remarks", "document", {}) as column:
        column.add("none", [], {"too-short": 1})
        column.add("two", [{"question": "é?"}, {"question": "b?"}])
        column.finish(seconds=2)
    read = Column.load(tmp_path, "remarks")
    assert [row["question"] for row in read.rows["two"]] == ["é?", "b?"]
    assert "none" not in read.rows
    assert read.info["counts"] == {"done": 2, "rows": 2, "too-short": 1}
    assert read.info["seconds"] == 2
    assert json.loads((tmp_path / "columns/remarks.jsonl").read_text().splitlines()[0]) == {
        "document": "two",
        "question": "é?",
    }


def test_a_finished_column_is_not_made_again(tmp_path: Path) -> None:
    first = write(tmp_path, ["a"])
    with ColumnWriter(tmp_path, "negatives", "query", MADE) as column:
        assert column.finished
        assert column.missing(["a", "b"]) == []
        assert column.finish() == first


def test_another_maker_makes_it_anew_and_the_old_one_stays_until_then(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    before = (tmp_path / "columns/negatives.jsonl").read_bytes()
    with ColumnWriter(tmp_path, "negatives", "query", {"system": "minilm"}) as column:
        assert column.missing(["a"]) == ["a"]
        column.add("a", [{"ids": ["other"]}])
        assert (tmp_path / "columns/negatives.jsonl").read_bytes() == before
        column.finish()
    assert Column.load(tmp_path, "negatives").one("a") == {"ids": ["other"]}


KILLED = """
import os, signal, sys
from lodesmith.core.columns import ColumnWriter
with ColumnWriter(sys.argv[1], "negatives", "query", {"system": "bm25", "k": 3}) as column:
    for owner in "abc":
        column.add(owner, [{"ids": ["d" + owner]}], {"kept": 1})
    column.sync()
    column._journal.write(b'{"id": "d", "rows": [{"ids"'); column._journal.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == []
    with ColumnWriter(tmp_path, "negatives", "query", MADE) as column:
        assert column.missing("abcde") == ["d", "e"]
        for owner in "de":
            column.add(owner, [{"ids": [f"d{owner}"]}], {"kept": 1})
        meta = column.finish()
    assert meta["counts"]["kept"] == 5
    assert {k: r[0]["ids"] for k, r in Column.load(tmp_path, "negatives").rows.items()} == {
        k: [f"d{k}"] for k in "abcde"
    }


def test_a_journal_of_another_maker_is_dropped(tmp_path: Path) -> None:
    with ColumnWriter(tmp_path, "negatives", "query", MADE) as column:
        column.add("a", [])
    with ColumnWriter(tmp_path, "negatives", "query", {"k": 4}) as column:
        assert column.missing(["a"]) == ["a"]
        assert column.counts == {}


@pytest.mark.parametrize("text", ["[1]", "{", "", "\x00"])
def test_a_broken_meta_file_or_maker_makes_it_anew(tmp_path: Path, text: str) -> None:
    write(tmp_path, ["a"])
    (tmp_path / "columns/negatives.meta.json").write_text(text)
    with ColumnWriter(tmp_path, "negatives", "query", MADE) as column:
        assert column.missing(["a"]) == ["a"]
        column.add("a", [])
    (tmp_path / "columns/.negatives.work/made_by.json").write_text(text)
    write(tmp_path, ["a", "b"])
    assert list(Column.load(tmp_path, "negatives").rows) == ["a", "b"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with ColumnWriter(tmp_path, "negatives", "query", MADE), pytest.raises(BusyError):
        ColumnWriter(tmp_path, "negatives", "query", MADE).__enter__()
    write(tmp_path, ["a"])  # free again


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        ('{"ids": []}', "no 'query'"),
        ('{"query": 3}', "must name its"),
        ('{"query": "a\\tb"}', "control character"),
        ('{"document": "a"}', "no 'query'"),
    ],
)
def test_broken_lines_are_located(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "columns").mkdir()
    (tmp_path / "columns/x.jsonl").write_text(f'{{"query": "q"}}\n\n{line}\n')
    with pytest.raises(InputError, match=says) as raised:
        Column.load(tmp_path, "x")
    assert raised.value.line == 3


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    with pytest.raises(InputError, match="there are: negatives"):
        Column.load(tmp_path, "negativs")
    with pytest.raises(InputError, match="no such dataset"):
        ColumnWriter(tmp_path / "nowhere", "x", "query", {})


def test_an_empty_column_takes_the_place_of_none(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    kept = (tmp_path / "columns/negatives.jsonl").read_bytes()
    with ColumnWriter(tmp_path, "negatives", "query", {"system": "other"}) as column:
        column.add("a", [], {"empty": 1})
        with pytest.raises(InputError, match="is kept"):
            column.finish()
    assert (tmp_path / "columns/negatives.jsonl").read_bytes() == kept
    with ColumnWriter(tmp_path, "new", "query", {"system": "other"}) as column:
        column.add("a", [], {"empty": 1})
        assert column.finish()["counts"]["rows"] == 0


def test_a_name_is_no_path(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    for name in ("../negatives", "/etc/passwd", "", "a/b"):
        with pytest.raises(InputError, match="cannot name a column"):
            Column.load(tmp_path, name)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """Killed while it wrote a file, and after the column was there but for its journal."""
    write(tmp_path, ["a"])
    work = tmp_path / "columns" / ".negatives.work"
    for name in (".negatives.jsonl.abcdefgh.tmp", ".negatives.meta.json.abcdefgh.tmp", ".other.jsonl.abcdefgh.tmp"):
        (tmp_path / "columns" / name).write_text("half")
    (work / ".made_by.json.abcdefgh.tmp").write_text("half")
    (work / "journal.jsonl").write_text("{}")
    (work / "made_by.json").write_text("{}")
    before = (tmp_path / "columns" / "negatives.jsonl").read_bytes()
    write(tmp_path, ["a"])
    assert {path.name for path in work.iterdir()} == {".lock"}
    left = {path.name for path in (tmp_path / "columns").iterdir() if path.is_file()}
    assert left == {"negatives.jsonl", "negatives.meta.json", ".other.jsonl.abcdefgh.tmp"}
    assert (tmp_path / "columns" / "negatives.jsonl").read_bytes() == before
