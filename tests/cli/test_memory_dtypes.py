"""Memory kept in 32, 16 and 8 bits: encoded, interrupted, indexed, searched, asked, added to; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_runs
from command_line import lode
from lodesmith.core.files import read_json, write_json
from lodesmith.core.protocols import Side
from lodesmith.core.records import Dataset, Document
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import MemoryEncoder
from lodesmith.encoders.corpus import stream
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")
SIZES = {"float32": 4, "float16": 2, "int8": 1}
CLOSE = 2e-3
"""Of cosines: the memory of random weights is less than that away from its own in 8 bits."""
ASKED = [text for text, _, _ in memory_runs.ASKED.values()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.run(tmp_path_factory.mktemp("memory") / "clara")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.dataset(tmp_path_factory.mktemp("data") / "beasts")


def done(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, err = lode(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_an_encoded_folder_takes_the_room_of_its_type(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    held: dict[str, Vectors] = {}
    for dtype, width in SIZES.items():
        told = done(capsys, "encode", run, data, "--out", tmp_path / dtype, "--dtype", dtype)
        held[dtype] = Vectors.load(tmp_path / dtype, verify=True)
        assert told["dtype"] == held[dtype].info["dtype"] == read_json(tmp_path / dtype / "manifest.json")["dtype"]
        size = (tmp_path / dtype / "values.npy").stat().st_size - 128
        assert size == told["rows"] * told["dimension"] * width
    whole = held["float32"].values
    step = np.abs(whole).max(axis=1, keepdims=True) / 127
    assert (np.abs(np.asarray(held["int8"].values) - whole) <= step * 0.501).all()
    told = done(capsys, "encode", run, data, "--out", tmp_path / "plain")
    assert told["dtype"] == "float16"
    np.testing.assert_array_equal(Vectors.load(tmp_path / "plain").values, held["float16"].values)
    assert done(capsys, "encode", run, data, "--out", tmp_path / "int8")["dtype"] == "int8"  # it goes on as it began
    code, _, err = lode(capsys, "encode", run, data, "--out", tmp_path / "int8", "--dtype", "float16")
    assert (code, "was begun with dtype 'int8', not 'float16'" in err) == (2, True)


@pytest.mark.parametrize("dtype", SIZES)
def test_an_interrupted_one_ends_as_if_nothing_had_been(
    capsys: pytest.CaptureFixture[str],
    run: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
) -> None:
    real = MemoryEncoder.encode
    seen: list[list[str]] = []

    def encode(self: Any, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        seen.append(list(ids or []))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, texts, side, ids)

    for name, value in {"_FIRST": 2, "_FEWEST": 2, "_SECONDS": 0.0}.items():
        monkeypatch.setattr(stream, name, value)
    done(capsys, "encode", run, data, "--out", tmp_path / "whole", "--dtype", dtype)
    monkeypatch.setattr(MemoryEncoder, "encode", encode)
    code, _, _ = lode(capsys, "encode", run, data, "--out", tmp_path / "cut", "--dtype", dtype)
    assert code == 130
    assert not (tmp_path / "cut" / "manifest.json").exists()
    assert done(capsys, "encode", run, data, "--out", tmp_path / "cut")["items"] == 8
    chunks = [["d0", "d1"], ["d2", "d3"], ["d4", "d5"], ["d6", "d7"]]
    assert seen == [*chunks[:3], *chunks[2:]]  # the third was lost, nothing else is encoded twice
    files = [read_json(tmp_path / name / "manifest.json")["files"] for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_ranking_and_greedy_answers_survive_8_bits(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    scores: dict[str, list[dict[str, float]]] = {}
    answers, measures, sizes = {}, {}, {}
    for dtype in SIZES:
        index = tmp_path / dtype
        assert done(capsys, "index", "build", run, data, "--out", index, "--dtype", dtype)["dtype"] == dtype
        found = [done(capsys, "search", index, text, "-k", 8)["queries"][0]["hits"] for text in ASKED]
        scores[dtype] = [{hit["id"]: hit["score"] for hit in hits} for hits in found]
        options = ["-k", 2, "--max-new-tokens", 4]  # random weights: further on, one near tie changes all that follows
        answers[dtype] = [done(capsys, "ask", run, index, text, *options)["answer"] for text in ASKED]
        measures[dtype] = done(capsys, "evaluate", index, data)["measures"]
        (values,) = index.rglob("values.npy")
        sizes[dtype] = values.stat().st_size - 128
    for whole, *others in zip(*(scores[dtype] for dtype in SIZES), strict=True):
        for other in others:
            assert next(iter(whole)) == next(iter(other))
            assert max(abs(whole[key] - other[key]) for key in whole) < CLOSE
            for a, b in combinations(other, 2):  # two change places only where they were that close
                assert whole[a] > whole[b] - 2 * CLOSE
    assert answers["int8"] == answers["float16"] == answers["float32"]
    assert any(answers["int8"])
    assert measures["int8"]["R@1"] == measures["float32"]["R@1"]
    assert [sizes["float32"] // size for size in sizes.values()] == [1, 2, 4]


def test_an_index_in_8_bits_through_its_life(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    done(capsys, "index", "build", run, data, "--out", index, "--dtype", "int8")
    more = Dataset.of([Document("new", "", "the owl likes music"), Document("d0", "", "the cat sleeps")])
    assert done(capsys, "index", "add", index, more.save(tmp_path / "more"))["added"] == 2
    kinds = {read_json(place)["dtype"] for place in (index / "vectors").rglob("manifest.json")}
    assert (kinds, read_json(index / "manifest.json")["dtype"]) == ({"int8"}, "int8")
    (tmp_path / "ids.txt").write_text("d3\n")
    assert done(capsys, "index", "delete", index, "--ids", tmp_path / "ids.txt")["deleted"] == 1
    before = done(capsys, "search", index, ASKED[0], "-k", 9)["queries"][0]["hits"]
    assert {hit["id"] for hit in before} == {"new", *(f"d{at}" for at in range(8) if at != 3)}
    done(capsys, "index", "compact", index)
    done(capsys, "index", "verify", index)
    assert done(capsys, "search", index, ASKED[0], "-k", 9)["queries"][0]["hits"] == before
    assert done(capsys, "ask", run, index, ASKED[0], "-k", 3)["memory_tokens"] == 12
    (scales,) = index.rglob("scales.npy")
    raw = bytearray(scales.read_bytes())
    raw[-2] ^= 1
    scales.write_bytes(raw)
    for verb in (("index", "verify", index), ("search", index, ASKED[0]), ("ask", run, index, ASKED[0])):
        code, _, err = lode(capsys, *verb)
        assert (code, "scales.npy" in err) == (2, True)


def test_a_folder_that_an_earlier_version_began_in_float32_goes_on(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    done(capsys, "encode", run, data, "--out", tmp_path / "v", "--dtype", "float32")
    (tmp_path / "v" / "manifest.json").unlink()
    assert done(capsys, "encode", run, data, "--out", tmp_path / "v")["dtype"] == "float32"
    write_json(tmp_path / "v" / "journal.json", read_json(tmp_path / "v" / "journal.json") | {"dtype": None})
    code, _, err = lode(capsys, "encode", run, data, "--out", tmp_path / "v")
    assert (code, "begun with dtype None" in err) == (2, True)


def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        code, _, err = lode(capsys, *arguments)
        assert (code, "Traceback" in err) == (2, False)
        assert len(err.splitlines()) <= 2
        return err

    texts = tiny_dataset(5).save(tmp_path / "tiny")
    for verb in (("encode",), ("index", "build")):
        told = refused(*verb, tiny_model, texts, "--out", tmp_path / "out", "--dtype", "int8")
        assert "int8 keeps memory tokens, compared by aligned; this model's vectors are compared by cosine" in told
        assert "--dtype float16" in told
        assert "--codec int8" in told
        told = refused(*verb, run, data, "--out", tmp_path / "out", "--dtype", "int4")
        assert "no dtype is called 'int4'" in told
        assert "did you mean 'int8'?" in told
    assert not (tmp_path / "out").exists()
    told = refused("evaluate", run / "model", data, "--codec", "int8")
    assert "'model' has memory tokens" in told
    assert "lode index build MODEL DATASET --dtype int8" in told


def test_one_vector_a_document_in_16_bits(capsys: pytest.CaptureFixture[str], tiny_model: Path, tmp_path: Path) -> None:
    texts = tiny_dataset(20).save(tmp_path / "tiny")
    assert done(capsys, "encode", tiny_model, texts, "--out", tmp_path / "v")["dtype"] == "float32"
    found = {}
    for dtype in ("float32", "float16"):
        index = tmp_path / dtype
        done(capsys, "index", "build", tiny_model, texts, "--out", index, "--dtype", dtype)
        (values,) = index.rglob("values.npy")
        assert Vectors.load(values.parent).values.dtype == dtype
        hits = done(capsys, "search", index, "the cat eats", "-k", 20)["queries"][0]["hits"]
        found[dtype] = {hit["id"]: hit["score"] for hit in hits}
    assert found["float32"].keys() == found["float16"].keys()
    assert all(abs(score - found["float16"][key]) < 1e-3 for key, score in found["float32"].items())
