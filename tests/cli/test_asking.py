"""`lode ask` and `lode evaluate --as` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import memory_runs
from command_line import lode
from lodesmith.cli.asking import asked_text
from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset
from lodesmith.encoders import MemoryEncoder
from lodesmith.indexes import folder as folders
from lodesmith.recipes._streaming import Stream
from lodesmith.recipes.asking import Asked, Passage, ask

pytestmark = pytest.mark.usefixtures("cache")
QUESTION = "what does the cat eats ?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.run(tmp_path_factory.mktemp("memory") / "clara")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.dataset(tmp_path_factory.mktemp("data") / "beasts")


@pytest.fixture
def index(capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path) -> Path:
    code, _, err = lode(capsys, "index", "build", run, data, "--out", tmp_path / "index")
    assert code == 0, err
    return tmp_path / "index"


def test_an_answer_is_that_of_the_passages_that_search_finds(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, index: Path
) -> None:
    code, out, err = lode(capsys, "ask", run, index, QUESTION, "-k", 3, "--json")
    assert code == 0, err
    found = json.loads(out)
    _, hits, _ = lode(capsys, "search", index, QUESTION, "-k", 3, "--json")
    expected = json.loads(hits)["queries"][0]["hits"]
    assert [passage["id"] for passage in found["passages"]] == [hit["id"] for hit in expected]
    assert [passage["score"] for passage in found["passages"]] == [hit["score"] for hit in expected]
    assert [passage["text"] for passage in found["passages"]] == [hit["text"] for hit in expected]
    encoder, documents = MemoryEncoder(run / "model"), Dataset.load(data).documents
    memory = folders.vectors_of(index, [hit["id"] for hit in expected])
    rows = memory.values.reshape(3, encoder.count, encoder.dimension)
    assert found["answer"] == str(encoder.answer([QUESTION], [list(rows)])[0])
    sizes = [len(encoder.tokens(documents[hit["id"]].content)) for hit in expected]
    assert found["memory_tokens"] == 3 * encoder.count == 12
    assert (found["text_tokens"], found["tokens_saved"]) == (sum(sizes), sum(sizes) - 12)
    assert all(found[name] > 0 for name in ("retrieval_ms", "prefill_ms", "generation_ms"))


def test_a_reader_sees_the_answer_then_the_passages(capsys: pytest.CaptureFixture[str], run: Path, index: Path) -> None:
    told = ask(str(run), index, QUESTION, 2, max_new_tokens=6)
    code, out, err = lode(capsys, "ask", run, index, QUESTION, "-k", 2, "--max-new-tokens", 6)
    assert code == 0, err
    assert out.startswith(told.answer)
    assert [told.passages[0].id in line for line in out.splitlines()].count(True) == 1
    assert "2 passages as 8 memory tokens for" in out
    assert out.splitlines()[-1].startswith("retrieval ")


def test_pieces_make_the_answer(run: Path, index: Path) -> None:
    pieces: list[str] = []
    told = ask(str(run), index, QUESTION, 2, write=pieces.append)
    assert "".join(pieces) == told.answer
    assert len(pieces) > 1


class _Words:
    """Decodes ids as their characters."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


def test_a_stream_holds_back_what_may_change() -> None:
    pieces: list[str] = []
    stream = Stream(_Words(), [3], pieces.append)
    stream.put(np.zeros((1, 0), int))
    assert stream.first is None
    for text in (" a", "b ", " c", "\ufffd", "d", " "):
        stream.put(np.array([list(map(ord, text))]))
    assert stream.first is not None
    assert pieces == ["a", "b", "  c", "\ufffdd"]
    stream.put(np.array([3]))
    stream.put(np.array([ord("x")]))
    stream.end()
    assert "".join(pieces) == "ab  c\ufffdd"


def test_the_text_of_an_answer_whose_passages_are_gone() -> None:
    told = Asked("q", "", True, (Passage(1, "d1", 0.5, "", "", None),), 4, 1.0, 2.0, 3.0)
    assert asked_text(told).splitlines() == [
        "(no answer)",
        "",
        "  1  0.5000  d1",
        "",
        "1 passages as 4 memory tokens",
        "retrieval 1.0 ms, prefill 2.0 ms, generation 3.0 ms",
    ]
    assert told.to_json()["tokens_saved"] is None


def test_what_cannot_be_asked(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, index: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        code, _, err = lode(capsys, "ask", *arguments)
        assert (code, "Traceback" in err) == (2, False)
        assert len(err.splitlines()) <= 2
        return err

    assert "the index has 8 documents, and 9 are to be read" in refused(run, index, QUESTION, "-k", 9)
    assert "the index has the model" in refused(run / "stages" / "compress", index, QUESTION)
    assert "is no memory model" in refused(tiny_model, index, QUESTION)
    assert "the question is empty" in refused(run, index, " ")
    assert "not an index folder" in refused(run, data, QUESTION)


def test_answers_are_measured_and_compared(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    options = ["--as", "closed,text,full", "--pool", "oracle", "--documents", 2, "--candidates", 4]
    files = ["--out", tmp_path / "out", "--report", tmp_path / "a.html", "--markdown", tmp_path / "a.md"]
    code, out, err = lode(capsys, "evaluate", run, data, *options, *files)
    assert code == 0, err
    for words in ("beasts, oracle pool", "4 queries", "CoverEM [95\u00a0%]", "context tokens", "clara, full", "R@5"):
        assert words in out
    assert "CoverEM" in (tmp_path / "a.md").read_text()
    assert "tokens of context a question" in (tmp_path / "a.html").read_text()

    code, out, err = lode(capsys, "evaluate", run, data, *options, "--limit", 3, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [each["queries"] for each in found["evaluations"]] == [3, 3, 3]
    assert found["evaluations"][0]["answers"].keys() == {"q0", "q1", "q2"}
    assert found["comparison"]["baseline"] == "clara, text"

    kept = sorted((tmp_path / "out").glob("*.json"))
    code, out, err = lode(capsys, "compare", *kept, "--report", tmp_path / "b.html")
    assert code == 0, err
    assert "Δ CoverEM to clara, closed" in out
    assert "tokens of context a question" in (tmp_path / "b.html").read_text()
    two = [path for path in kept if "closed" not in path.name]
    code, out, _ = lode(capsys, "compare", *two, "--measure", "R@1", "--json")
    assert (code, json.loads(out)["measure"]) == (0, "R@1")
    code, _, err = lode(capsys, "compare", *kept, "--measure", "R@1")
    assert (code, "has no R@1" in err, "--measure" in err) == (2, True, True)


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str], run: Path, data: Path) -> None:
    for options, words in (
        (["--pool", "oracle"], "--pool is of answers"),
        (["--as", "full", "--measures", "R@7"], "--measures and --as do not go together"),
        (["--as", "full", "--codec", "float16"], "--codec and --as do not go together"),
        (["--as", "fulll"], "no way to answer called 'fulll'"),
        (["--as", ""], "no way to answer is named"),
        (["--as", "full", "--pool", "gold"], "no pool is called 'gold'"),
        (["--as", "full", "--split", "dev"], "no split 'dev'"),
    ):
        code, _, err = lode(capsys, "evaluate", run, data, *options)
        assert (code, words in err) == (2, True), err


def test_vectors_of_items_are_those_of_the_current_generation(index: Path) -> None:
    before = folders.vectors_of(index, ["d5", "d0", "d7"])
    assert before.ids == ("d5", "d0", "d7")
    new = folders.vectors_of(index, ["d1"])
    moved = type(new)(new.values, new.offsets, ("d5",))
    folders.delete(index, ["d7"])
    folders.add(index, moved)
    after = folders.vectors_of(index, ["d0", "d5", "d0"])
    np.testing.assert_array_equal(after.values, np.concatenate([before.values[4:8], new.values, before.values[4:8]]))
    assert len(folders.vectors_of(index, [])) == 0
    with pytest.raises(InputError, match="'d7' is not in the index"):
        folders.vectors_of(index, ["d7"])
