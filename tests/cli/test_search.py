"""`lode search`: one query, a batch, and a conversation at a terminal, over each kind of index."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from command_line import lode
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")

KINDS = ("flat", "hnsw", "ivf", "ivfpq")
QUERY = "the cat eats apples"
END = b"\x04"  # Ctrl-D


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(30).save(tmp_path / "tiny")


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    """An untrained bag of the words of the dataset."""
    from lodesmith.encoders import Bag, Vocabulary

    texts = [document.content for document in tiny_dataset(30).documents.values()]
    folder = tmp_path / "tower"
    Bag(Vocabulary.build(texts, min_count=1), dimension=16).save(folder)
    return folder


@pytest.fixture
def index(tower: Path, dataset: Path, tmp_path: Path) -> Path:
    from lodesmith.recipes.storing import build_index

    build_index(str(tower), dataset, tmp_path / "index")
    return tmp_path / "index"


def give(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    """Standard input from a file."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


# each kind of index


@pytest.mark.parametrize("model", ["tower", "tiny_model"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_query_and_a_batch(
    model: str,
    kind: str,
    dataset: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = request.getfixturevalue(model), tmp_path / "out"
    assert lode(capsys, "index", "build", folder, dataset, "--index", kind, "--out", out)[0] == 0
    code, told, _ = lode(capsys, "search", out, QUERY, "-k", "5", "--json")
    one = json.loads(told)["queries"]
    assert (code, len(one), len(one[0]["hits"])) == (0, 1, 5)
    assert [hit["rank"] for hit in one[0]["hits"]] == [1, 2, 3, 4, 5]
    scores = [hit["score"] for hit in one[0]["hits"]]
    assert scores == sorted(scores, reverse=True)
    give(monkeypatch, f"\ufeff{QUERY}\r\n \na dog\n".encode())
    batch = json.loads(lode(capsys, "search", out, "-k", "5", "--json")[1])["queries"]
    assert [answer["query"] for answer in batch] == [QUERY, "a dog"]
    assert [hit["score"] for hit in batch[0]["hits"]] == pytest.approx(scores, abs=1e-5), "alone as in a batch"
    _, text, _ = lode(capsys, "search", out, QUERY, "-k", "2")
    first = one[0]["hits"][0]
    assert text.splitlines()[:2] == [QUERY, f"  1  {first['score']:.4f}  {first['id']}  {first['title']}"]
    assert first["text"] in text


@pytest.mark.parametrize(
    ("arguments", "raw", "says"),
    [
        (("",), b"", "the query is empty"),
        ((" \t",), b"", "the query is empty"),
        (("\udcff",), b"", "not valid UTF-8"),
        ((), b"\n \n", "there is no query"),
        ((), b"one\n\xff\n", "standard input:2"),
    ],
)
def test_no_query(
    index: Path,
    arguments: tuple[str, ...],
    raw: bytes,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, raw)
    code, out, err = lode(capsys, "search", index, *arguments)
    assert (code, out, says in err) == (2, "", True), err


# at a terminal


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal as standard input; what is written here was typed."""
    import pty

    ours, theirs = pty.openpty()
    terminal: TextIO = os.fdopen(theirs, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", terminal)
    yield ours
    terminal.close()
    os.close(ours)


def test_each_line_is_answered_by_an_object(index: Path, keyboard: int, capsys: pytest.CaptureFixture[str]) -> None:
    os.write(keyboard, f"{QUERY}\n  \na dog\n".encode() + END)
    code, out, err = lode(capsys, "search", index, "-k", "3", "--json")
    answers: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [[one["query"] for one in answer["queries"]] for answer in answers] == [[QUERY], ["a dog"]]
    assert all(len(answer["queries"][0]["hits"]) == 3 for answer in answers)
    assert err == "one query a line; Ctrl-D ends\n" + 4 * "query> " + "\n", "and the prompt is not among the results"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # as in a UTF-8 and in a C locale
def test_a_line_that_cannot_be_read_ends_nothing(
    index: Path, keyboard: int, errors: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(sys.stdin, io.TextIOWrapper)
    sys.stdin.reconfigure(errors=errors)
    os.write(keyboard, b"\xff\n" + f"{QUERY}\n".encode() + END)
    code, out, err = lode(capsys, "search", index, "-k", "1", "--json")
    assert (code, "error: " in err, "not valid UTF-8" in err) == (0, True, True)
    assert [json.loads(line)["queries"][0]["query"] for line in out.splitlines()] == [QUERY]


def test_a_query_of_the_command_line_asks_for_no_more(
    index: Path, keyboard: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = lode(capsys, "search", index, QUERY)
    assert (code, out.startswith(QUERY), err) == (0, True, "")


def test_what_is_no_index_is_said_before_anything_is_typed(
    dataset: Path, keyboard: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = lode(capsys, "search", dataset)
    assert (code, "query>" in err) == (2, False)


def test_a_conversation(index: Path) -> None:
    """A process of its own with a terminal on all sides."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lodesmith.cli.main", "search", str(index), "-k", "2"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "dumb"})
    os.close(theirs)
    told = until(ours, "query> ")
    os.write(ours, f"{QUERY}\n".encode())
    told = until(ours, "query> ")
    assert told.startswith(f"{QUERY}\n  1  "), "the terminal's own echo, then the first hit"
    assert "\n  2  " in told
    assert "\n  3  " not in told
    os.write(ours, END)
    until(ours, None)
    os.close(ours)
    assert process.wait(60) == 0


def until(terminal: int, end: str | None) -> str:
    """What the terminal shows up to these words; None: up to its end."""
    shown = ""
    while end is None or not shown.endswith(end):
        try:
            raw = os.read(terminal, 1 << 16)
        except OSError as error:
            if error.errno == errno.EIO:  # the process has closed its side
                break
            raise
        if not raw:
            break
        shown += raw.decode().replace("\r", "")
    assert end is None or shown.endswith(end), shown
    return shown
