"""Encode, index and search from the command line, over a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lodesmith.cli.main import main
from lodesmith.core.records import Dataset, Document
from lodesmith.core.vectors import Vectors
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


def lode(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, object], str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), json.loads(out) if out else {}, err


def hits(found: dict[str, object]) -> list[str]:
    return [hit["id"] for hit in found["queries"][0]["hits"]]  # type: ignore[index]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(30).save(tmp_path / "tiny")


def test_an_index_through_its_life(
    capsys: pytest.CaptureFixture[str], dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    code, built, _ = lode(capsys, "index", "build", tiny_model, dataset, "--out", index)
    assert (code, built["documents"], built["truncated"]) == (0, 30, 0.0)
    text = "The cat eats apples."
    _, before, _ = lode(capsys, "search", index, text, "-k", "30")
    assert sorted(hits(before)) == sorted(f"d{i}" for i in range(30))
    assert all(hit["text"] for hit in before["queries"][0]["hits"])  # type: ignore[index]

    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfd2\r\nd3\r\nnope\r\n")
    code, gone, _ = lode(capsys, "index", "delete", index, "--ids", tmp_path / "ids.txt")
    assert (code, gone["deleted"], gone["not_there"]) == (0, 2, ["nope"])
    _, after, _ = lode(capsys, "search", index, text, "-k", "30")
    assert hits(after) == [key for key in hits(before) if key not in ("d2", "d3")]

    assert lode(capsys, "index", "compact", index)[0] == 0
    assert lode(capsys, "index", "verify", index)[0] == 0
    assert hits(lode(capsys, "search", index, text, "-k", "30")[1]) == hits(after)
    assert lode(capsys, "index", "add", index, dataset)[1]["added"] == 30
    assert hits(lode(capsys, "search", index, text, "-k", "30")[1]) == hits(before)

    values = next(index.rglob("values.npy"))
    raw = bytearray(values.read_bytes())
    raw[-3] ^= 1
    values.write_bytes(raw)
    for verb in (("index", "verify", index), ("search", index, text)):
        code, _, err = lode(capsys, *verb)
        assert (code, "values.npy" in err) == (2, True)


def test_texts_of_added_documents_are_shown(
    capsys: pytest.CaptureFixture[str], dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    lode(capsys, "index", "build", tiny_model, dataset, "--out", index)
    more = Dataset.of([Document("new", "", "The zebra reads.")]).save(tmp_path / "more")
    assert lode(capsys, "index", "add", index, more)[0] == 0
    _, found, _ = lode(capsys, "search", index, "The zebra reads.", "-k", "31")
    texts = {hit["id"]: hit["text"] for hit in found["queries"][0]["hits"]}  # type: ignore[index]
    assert texts["new"] == "The zebra reads."
    assert len(texts) == 31
    assert all(texts.values())


def test_queries_from_standard_input(
    capsys: pytest.CaptureFixture[str], dataset: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lode(capsys, "index", "build", tiny_model, dataset, "--out", tmp_path / "index", "--passages", "8")

    def read(raw: bytes) -> None:
        file = tmp_path / "stdin"
        file.write_bytes(raw)
        monkeypatch.setattr("sys.stdin", file.open(encoding="utf-8"))

    read(b"the cat\n\nthe owl\n")
    _, found, _ = lode(capsys, "search", tmp_path / "index", "-k", "2")
    assert [answer["query"] for answer in found["queries"]] == ["the cat", "the owl"]  # type: ignore[index, union-attr]
    read(b"the cat\n\xff\n")
    code, _, err = lode(capsys, "search", tmp_path / "index")
    assert (code, "standard input:2" in err) == (2, True)


def test_encode_continues_and_refuses_what_is_not_its_own(
    capsys: pytest.CaptureFixture[str], dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    code, report, _ = lode(capsys, "encode", tiny_model, dataset, "--out", out)
    assert (code, report["items"], report["truncated"]) == (0, 30, 0.0)
    assert lode(capsys, "encode", tiny_model, dataset, "--out", out)[0] == 0
    assert Vectors.load(out, verify=True).ids[0] == "d0"
    other = tiny_dataset(30, seed=5).save(tmp_path / "other")
    code, _, err = lode(capsys, "encode", tiny_model, other, "--out", out)
    assert (code, "has changed" in err) == (2, True)
    code, _, err = lode(capsys, "index", "build", tiny_model, dataset, "--out", dataset)
    assert (code, "dataset folder" in err) == (2, True)
