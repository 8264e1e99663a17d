"""The stage: what is sealed survives, what is not is cut off; and the small readers around it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import sha256_file
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.check import check
from lodesmith.data.pulls import Folder, pull
from lodesmith.data.pulls._errors import LayoutError, SizeError
from lodesmith.data.pulls._ids import Ids
from lodesmith.data.pulls._json import elements
from lodesmith.data.pulls._parquet import rows, seeded
from lodesmith.data.pulls._remote import sample, share
from lodesmith.data.pulls._settings import setting
from lodesmith.data.pulls._source import tsv
from lodesmith.data.pulls._stage import Stage
from lodesmith.data.pulls.wikipedia import clean, outline

KEY = {"name": "x"}


def filled(stage: Stage, numbers: range) -> Stage:
    for i in numbers:
        stage.document(Document(f"d{i}", "t", f"text «{i}»"))
        stage.query(Query(f"q{i}", f"question {i}", ("a", "b")))
        stage.judge("test", f"q{i}", f"d{i}")
        stage.negatives(f"q{i}", ["d0"])
    return stage


def test_a_dataset_with_the_fingerprint_that_loading_it_gives(tmp_path: Path) -> None:
    stage = filled(Stage(tmp_path / "stage", KEY), range(5))
    info = stage.publish(tmp_path / "out", {"name": "x", "drop_same_id": True}, {"what": "test"})
    data = Dataset.load(tmp_path / "out")
    assert data.fingerprint == info["fingerprints"]["dataset"] == data.info["fingerprints"]["dataset"]
    assert data.drop_same_id
    assert info["counts"] == {"documents": 5, "queries": 5, "judgements": {"test": 5}}
    assert check(tmp_path / "out").ok
    assert json.loads((tmp_path / "out/columns/negatives.meta.json").read_text()) == {"what": "test"}


def test_unsealed_lines_are_cut_off(tmp_path: Path) -> None:
    first = filled(Stage(tmp_path / "stage", KEY), range(3))
    first.notes["seen"] = 3
    first.commit("one")
    filled(first, range(3, 6))
    first.image("x.png", b"123")
    first.close()
    again = Stage(tmp_path / "stage", KEY)
    assert (again.steps, again.resumed, again.notes) == (["one"], ("one",), {"seen": 3})
    assert again.has_document("d2")
    assert not again.has_document("d3")
    assert not again.document(Document("d1", "", "again"))
    filled(again, range(3, 6))
    whole = filled(Stage(tmp_path / "whole", KEY), range(6)).publish(tmp_path / "a", {}, {})
    assert again.publish(tmp_path / "b", {}, {})["fingerprints"] == whole["fingerprints"]


@pytest.mark.parametrize("damage", ["key", "state", "short", "gone"])
def test_a_stage_that_cannot_be_trusted_is_emptied(tmp_path: Path, damage: str) -> None:
    stage = filled(Stage(tmp_path / "stage", KEY), range(3))
    stage.commit("one")
    stage.close()
    if damage == "state":
        (tmp_path / "stage/state.json").write_text('{"key": 1')
    if damage == "short":
        (tmp_path / "stage/corpus.jsonl").write_text("")
    if damage == "gone":
        (tmp_path / "stage/queries.jsonl").unlink()
    again = Stage(tmp_path / "stage", {"name": "y"} if damage == "key" else KEY)
    assert (again.steps, list(again.folder.iterdir())) == ([], [])
    assert again.document(Document("d1", "", "new"))


def test_what_no_dataset_may_have_is_left_out_and_counted(tmp_path: Path) -> None:
    stage = filled(Stage(tmp_path / "stage", KEY), range(2))
    assert not stage.document(Document("d1", "", "twice"))
    assert not stage.document(Document("tab\there", "", "x"))
    assert not stage.query(Query("q1", "twice"))
    assert not stage.query(Query("q9", "  "))
    stage.judge("test", "q9", "d1")
    stage.judge("test", "q1", "d9")
    stage.judge("test", "q0", "d1", -2)
    stage.judge("test", "q0", "d0", 3)
    stage.document(Document("d5", "", "half \ud800 of a pair"))
    info = stage.publish(tmp_path / "out", {}, {})
    assert info["repairs"] == {
        "duplicate-id": 2, "bad-id": 1, "empty-query": 1, "negative-grade": 1, "unknown-query": 1,
        "unknown-document": 1, "lone-surrogate": 1,
    }  # fmt: skip
    data = Dataset.load(tmp_path / "out")
    assert dict(data.split("test")["q0"]) == {"d0": 3, "d1": 0}, "of two grades the later one counts"
    assert data.documents["d5"].text == "half ? of a pair"
    assert check(tmp_path / "out").ok


def test_held_out_queries_are_a_share_and_groups_stay_together(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", KEY)
    stage.split_by(0.7, seed=1)
    for i in range(1000):
        stage.document(Document(f"d{i}", "", "x"))
        stage.query(Query(f"q{i}", "x"))
        stage.judge("train", f"q{i}", f"d{i}", group=f"g{i // 2}")
        stage.judge("dev", f"q{i}", f"d{i}")
    counts = stage.publish(tmp_path / "out", {}, {})["counts"]["judgements"]
    assert 640 < counts["train"] < 760
    assert (counts["train"] + counts["test"], counts["dev"]) == (1000, 1000)
    data = Dataset.load(tmp_path / "out")
    groups = [{int(q[1:]) // 2 for q in data.split(s)} for s in ("train", "test")]
    assert not groups[0] & groups[1]


def test_a_missing_image_is_noticed(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", KEY)
    stage.document(Document("p", "", "", stage.image("a.png", b"123")))
    (tmp_path / "stage/images/a.png").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        stage.publish(tmp_path / "out", {}, {})
    assert not (tmp_path / "out").exists()


@given(
    st.lists(st.one_of(st.integers(0, 10**10).map(str), st.text(max_size=4), st.from_regex(r"0\d?", fullmatch=True)))
)
def test_ids_agree_with_a_set(keys: list[str]) -> None:
    ids, known = Ids(), set[str]()
    for key in keys:
        assert ids.add(key) is (key not in known)
        known.add(key)
    assert len(ids) == len(known)
    assert all(key in ids for key in known)
    assert "absent" not in ids
    assert "999999998" in ids or "999999998" not in known


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=3), max_size=9), st.integers(0, 3))
def test_elements_agree_with_a_whole_parse(values: list[dict[str, str]], indent: int) -> None:
    text = json.dumps(values, indent=indent or None, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()
    for raw in (text, f'{{"data": {text}, "version": "1"}}'):
        assert list(elements(io.BytesIO(raw.encode()), "x")) == json.loads(text)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[", b'[{"a": 1}', b'[{"a": 1}, 3]', b'[{"a": ', b'[{"a": "\xff"}]', b"[1]"]
)
def test_broken_arrays(raw: bytes) -> None:
    with pytest.raises(LayoutError, match="x: "):
        list(elements(io.BytesIO(raw), "x"))


def test_long_elements_are_read_across_chunks() -> None:
    values = [{"text": "é" * 600_000}, {"n": 1}]
    assert list(elements(io.BytesIO(json.dumps(values, ensure_ascii=False).encode()), "x")) == values


def test_tsv_lines_have_their_columns() -> None:
    assert list(tsv(io.BytesIO(b"1\ta b\r\n2\tc\n"), 2, "x.tsv")) == [["1", "a b"], ["2", "c"]]
    for raw in (b"1\n", b"1\t2\t3\n", b"\xff\t2\n"):
        with pytest.raises(LayoutError, match=r"x\.tsv:1"):
            list(tsv(io.BytesIO(raw), 2, "x.tsv"))


def test_draws_do_not_depend_on_the_order(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(100)]
    assert sample(keys, 10, 3) == sample(keys[::-1], 10, 3)
    assert sample(keys, 10, 3) < sample(keys, 20, 3)
    assert sample(keys, 10, 3) != sample(keys, 10, 4)
    assert sample(keys, None, 0) == set(keys)
    assert 0 <= share(0, "x") < 1
    assert seeded(range(9), 1, "a") != seeded(range(9), 1, "b")
    assert sorted(seeded(range(9), 5)) == list(range(9))


def test_parquet_files_that_are_none(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from mirrors import parquet

    parquet(tmp_path / "a.parquet", [{"id": i, "text": f"t{i}"} for i in range(7)])
    assert [r["id"] for r in rows(tmp_path / "a.parquet", ("id", "absent"))] == list(range(7))
    drawn = [r["id"] for r in rows(tmp_path / "a.parquet", ("id",), order=(1, "a"))]
    assert sorted(drawn) == list(range(7))
    with pytest.raises(LayoutError, match="no column 'title'"):
        list(rows(tmp_path / "a.parquet", ("title",)))
    raw = (tmp_path / "a.parquet").read_bytes()
    for damaged in (raw[: len(raw) // 2], b"", b"PAR1" * 9):
        (tmp_path / "b.parquet").write_bytes(damaged)
        with pytest.raises(LayoutError, match="no whole Parquet file"):
            list(rows(tmp_path / "b.parquet", ("id",)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("HF_TOKEN=abc", "abc"),
        ("export HF_TOKEN = 'a b'\n", "a b"),
        ('# HF_TOKEN=no\nHF_TOKEN="x#y"', "x#y"),
        ("HF_TOKEN=abc # mine", "abc"),
        ("OTHER=1", ""),
    ],
)
def test_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str) -> None:
    (tmp_path / ".env").write_text(text)
    assert setting("HF_TOKEN") == value
    monkeypatch.setenv("HF_TOKEN", "environment")
    assert setting("HF_TOKEN") == "environment"


def test_articles_are_cleaned() -> None:
    assert clean("Paris (; ) is ( ,  ) a city [ ] ,\u200b big .") == "Paris is a city, big."
    article = "Lead one.\n\nLead two.\n\nEarly life\nBorn in 1900.\n\nMore of it.\n\nSee also\nA list\n\nReferences"
    found = outline("Ada", article)
    assert [(s.headings, s.paragraphs) for s in found.sections] == [
        ((), ("Lead one.", "Lead two.")),
        (("Early life",), ("Born in 1900.", "More of it.")),
    ]
    assert outline("Ada", "Only one line without an end").sections[0].paragraphs == ("Only one line without an end",)
    assert outline("Ada", "").sections == ()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("nq", "natural_questions/v1.0-simplified/simplified-nq-train.jsonl.gz"),
        ("msmarco", "msmarcoranking/qidpidtriples.train.full.2.tsv.gz"),
    ],
)
def test_a_compressed_file_that_ends_early(tmp_path: Path, published: Path, name: str, path: str) -> None:
    root = tmp_path / "mirror"
    shutil.copytree(published, root)
    raw = (root / path).read_bytes()
    (root / path).write_bytes(raw[: len(raw) // 2])
    sums = [line for line in (root / "SHA256SUMS").read_text().splitlines() if path not in line]
    sums.append(f"{sha256_file(root / path)}  {path}")
    (root / "SHA256SUMS").write_text("\n".join(sums))
    with pytest.raises(SizeError, match="ended before"):
        pull(name, Folder(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()
