"""A corpus into a folder: bounded, resumable, and never with a row too many or too few."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import BusyError, InputError, ResumeError
from lodesmith.core.files import locked, read_json
from lodesmith.core.progress import Progress, listen
from lodesmith.core.protocols import Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import encode_to
from lodesmith.encoders.corpus import stream
from lodesmith.testing import HashEncoder


def items(count: int) -> Iterator[tuple[str, str]]:
    return ((f"d{i}", f"document {i} speaks of {i % 7} and {i % 11}") for i in range(count))


class Counting(HashEncoder):
    """Knows which texts it has encoded, and fails where it is told to."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(16)
        self.seen: list[str] = []
        self.sizes: list[int] = []
        self.fail_after = fail_after

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += texts
        self.sizes.append(len(texts))
        return super().encode(texts, side, ids)


def test_the_folder_holds_what_the_encoder_gives(tmp_path: Path) -> None:
    vectors = encode_to(HashEncoder(16), items(300), tmp_path / "v", chunk=50)
    expected = HashEncoder(16).encode([text for _, text in items(300)])
    np.testing.assert_array_equal(vectors.values, expected.values)
    assert vectors.ids == tuple(f"d{i}" for i in range(300))
    assert vectors.info["docs_per_s"] > 0
    assert vectors.info["seconds"] >= 0
    Vectors.load(tmp_path / "v", verify=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode_to(Counting(fail_after=100), items(300), tmp_path / "v", chunk=50, dtype=dtype)
    second = Counting()
    vectors = encode_to(second, items(300), tmp_path / "v", chunk=50, dtype=dtype)
    assert len(second.seen) == 200
    assert vectors.ids == tuple(f"d{i}" for i in range(300))
    assert vectors.info["dtype"] == dtype
    whole = Counting().encode([text for _, text in items(300)]).values
    np.testing.assert_allclose(vectors.values, whole, atol={"float32": 0, "float16": 5e-4, "int8": 4.1e-3}[dtype])
    encode_to(Counting(), items(300), tmp_path / "w", dtype=dtype)
    names = {"values.npy", "offsets.npy", "ids.txt"} | ({"scales.npy"} if dtype == "int8" else set())
    files = [read_json(tmp_path / folder / "manifest.json")["files"] for folder in "vw"]
    assert files[0] == files[1]
    assert files[0].keys() == names


def test_a_finished_folder_is_not_encoded_again_and_may_grow(tmp_path: Path) -> None:
    first = encode_to(HashEncoder(16), items(100), tmp_path / "v")
    again = Counting()
    assert encode_to(again, items(100), tmp_path / "v").info == first.info
    assert again.seen == []
    grown = encode_to(again, items(120), tmp_path / "v")
    assert (len(again.seen), len(grown)) == (20, 120)


def test_a_changed_text_is_noticed(tmp_path: Path) -> None:
    encode_to(HashEncoder(16), items(100), tmp_path / "v")
    changed = [(key, text.replace("document 42 ", "document 43 ")) for key, text in items(100)]
    with pytest.raises(ResumeError, match="a text among the first 100 has changed"):
        encode_to(HashEncoder(16), changed, tmp_path / "v")


def test_another_order_or_a_shorter_corpus_is_noticed(tmp_path: Path) -> None:
    encode_to(HashEncoder(16), items(100), tmp_path / "v")
    with pytest.raises(ResumeError, match="item 1 of the folder is 'd0', but the corpus has 'd99'"):
        encode_to(HashEncoder(16), list(items(100))[::-1], tmp_path / "v")
    with pytest.raises(ResumeError, match="item 51 of the folder is 'd50', but the corpus ends after 50 items"):
        encode_to(HashEncoder(16), items(50), tmp_path / "v")


def test_another_model_side_or_type_is_refused(tmp_path: Path) -> None:
    encode_to(HashEncoder(16), items(10), tmp_path / "v")
    with pytest.raises(ResumeError, match="dimension 16, not 32"):
        encode_to(HashEncoder(32), items(10), tmp_path / "v")
    with pytest.raises(ResumeError, match="info"):
        encode_to(HashEncoder(16), items(10), tmp_path / "v", side="query")
    with pytest.raises(ResumeError, match="dtype 'float32', not 'float16'"):
        encode_to(HashEncoder(16), items(10), tmp_path / "v", dtype="float16")


@pytest.mark.parametrize("second", [3, 700])
def test_an_id_that_occurs_twice_is_refused(tmp_path: Path, second: int) -> None:
    corpus = [*items(second), ("d1", "again")]
    with pytest.raises(InputError, match="the id 'd1' occurs twice"):
        encode_to(HashEncoder(16), corpus, tmp_path / "v")


def test_an_id_that_was_written_before_is_refused(tmp_path: Path) -> None:
    encode_to(HashEncoder(16), items(10), tmp_path / "v")
    with pytest.raises(InputError, match="'d1' occurs twice"):
        encode_to(HashEncoder(16), [*items(10), ("d1", "again")], tmp_path / "v")


def test_halves_are_written_as_halves(tmp_path: Path) -> None:
    vectors = encode_to(HashEncoder(16), items(10), tmp_path / "v", dtype="float16")
    assert vectors.values.dtype == np.float16


@pytest.mark.parametrize(
    ("bad", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e5, "float16"), (np.nan, "int8")]
)
def test_what_the_type_cannot_hold_is_refused(tmp_path: Path, bad: float, dtype: str) -> None:
    class Bad(HashEncoder):
        def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
            vectors = super().encode(texts, side, ids)
            vectors.values[0, 0] = bad
            return vectors

    with pytest.raises(InputError, match="NaN, or a component"):
        encode_to(Bad(16), items(10), tmp_path / "v", dtype=dtype)


def test_an_empty_corpus_makes_an_empty_folder(tmp_path: Path) -> None:
    vectors = encode_to(HashEncoder(16), [], tmp_path / "v")
    assert vectors.values.shape == (0, 16)
    assert len(Vectors.load(tmp_path / "v", verify=True)) == 0


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with locked(tmp_path / "v"), pytest.raises(BusyError):
        encode_to(HashEncoder(16), items(10), tmp_path / "v")


def test_the_stream_is_read_as_it_is_needed(tmp_path: Path) -> None:
    encoder = Counting()
    ahead = []

    def watched() -> Iterator[tuple[str, str]]:
        for at, item in enumerate(items(2000)):
            ahead.append(at - len(encoder.seen))
            yield item

    encode_to(encoder, watched(), tmp_path / "v", chunk=100)
    assert max(ahead) <= 100
    assert max(encoder.sizes) <= 100


def test_huge_texts_make_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_CHARACTERS", 1000)
    encoder = Counting()
    encode_to(encoder, ((f"d{i}", "word " * 100) for i in range(10)), tmp_path / "v")
    assert encoder.sizes == [2] * 5


def test_slow_encoders_get_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000, 50))
    monkeypatch.setattr(stream.time, "perf_counter", lambda: float(next(ticks)))  # each chunk takes 50 s
    encoder = Counting()
    encode_to(encoder, items(300), tmp_path / "v")
    assert encoder.sizes[:4] == [128, 32, 32, 32]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[Progress] = []
    with listen(told.append):
        encode_to(HashEncoder(16), items(100), tmp_path / "v", chunk=40, total=100)
    assert [p.done for p in told] == [0, 40, 80, 100]
    assert {(p.label, p.total, p.unit) for p in told} == {("encode documents", 100, "texts")}


WORK = """
import sys, time
from pathlib import Path
from lodesmith.encoders import encode_to
from lodesmith.testing import HashEncoder

class Slow(HashEncoder):
    def encode(self, texts, side="document", ids=None):
        time.sleep(0.005)
        return super().encode(texts, side, ids)

items = ((f"d{i}", f"document {i} speaks of {i % 7} and {i % 11}") for i in range(3000))
encode_to(Slow(16), items, Path(sys.argv[1]), chunk=20)
"""


def test_killed_again_and_again_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    rng = np.random.default_rng(0)
    written = [0]
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WORK, str(folder)])
        while process.poll() is None and _count(folder) < written[-1] + int(rng.integers(40, 200)):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        written.append(_count(folder))
    assert not (folder / "manifest.json").exists()
    vectors = encode_to(HashEncoder(16), items(3000), folder)
    expected = HashEncoder(16).encode([text for _, text in items(3000)])
    assert vectors.ids == tuple(f"d{i}" for i in range(3000))
    np.testing.assert_array_equal(vectors.values, expected.values)
    Vectors.load(folder, verify=True)


def _count(folder: Path) -> int:
    journal = folder / "journal.json"
    return int(read_json(journal).get("note", {}).get("books", {}).get("items", 0)) if journal.exists() else 0
