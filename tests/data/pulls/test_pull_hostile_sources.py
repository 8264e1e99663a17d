"""What publishers may serve by mistake or malice: typed errors, and nothing half-written."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mirrors
from lodesmith.core.errors import IntegrityError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.check import check
from lodesmith.data.pulls import Folder, Web, pull
from lodesmith.data.pulls._pages import add_page
from lodesmith.data.pulls._stage import Stage

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("squad", "SQuAD-explorer/dataset/train-v1.1.json", b'{"data": [{"title": "x"}]}'),
        ("squad", "SQuAD-explorer/dataset/train-v1.1.json", b'{"data": [{"title": 3, "paragraphs": [{"qas": []}]}]}'),
        ("hotpotqa", "datasets/hotpot/hotpot_train_v1.1.json", b'[{"_id": "x", "question": null, "answer": ""}]'),
        ("hotpotqa", "datasets/hotpot/hotpot_train_v1.1.json", b"<html>"),
        (
            "squad",
            "SQuAD-explorer/dataset/train-v1.1.json",
            b'{"data": [{"title": "x", "paragraphs": [{"context": null, "qas": []}]}]}',
        ),
        (
            "squad",
            "SQuAD-explorer/dataset/train-v1.1.json",
            b'{"data": [{"title": "x", "paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", '
            b'"answers": [{"text": 5}]}]}]}]}',
        ),
        (
            "beir/scifact",
            "thakur/BEIR/datasets/scifact.zip",
            mirrors.zipped(
                {f"scifact/{n}": "" for n in ("corpus.jsonl", "queries.jsonl")}
                | {"scifact/qrels/test.tsv": "x" * (17 << 20)}
            ),
        ),
        ("msmarco", "msmarcoranking/qidpidtriples.train.full.2.tsv.gz", b"1000\t0\t99999999999999999999\n"),
        ("nq", "natural_questions/v1.0-simplified/nq-dev-all.jsonl.gz", b'{"annotations": []}\n'),
        ("nq", "natural_questions/v1.0-simplified/nq-dev-all.jsonl.gz", b"not JSON\n"),
        ("msmarco", "msmarcoranking/qidpidtriples.train.full.2.tsv.gz", b"1 2 3\n"),
        ("msmarco", "msmarcoranking/collectionandqueries.tar.gz", b"<html>" * 200),
        ("beir/scifact", "thakur/BEIR/datasets/scifact.zip", mirrors.zipped({"other/corpus.jsonl": "{}\n"})),
        (
            "beir/scifact",
            "thakur/BEIR/datasets/scifact.zip",
            mirrors.zipped({"scifact/corpus.jsonl": "nothing\n", "scifact/queries.jsonl": ""}),
        ),
        ("wikipedia:de", "datasets/wikimedia/wikipedia/20231101.de/train-00000-of-00001.parquet", b"PAR1 no PAR1"),
    ],
)
def test_files_of_another_layout_are_typed_errors(
    name: str, path: str, content: bytes, published: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mirror"
    shutil.copytree(published, root)
    (root / path).write_bytes(content)
    sums = [line for line in (root / "SHA256SUMS").read_text().splitlines() if path not in line]
    (root / "SHA256SUMS").write_text("\n".join([*sums, f"{hashlib.sha256(content).hexdigest()}  {path}"]))
    with pytest.raises(IntegrityError) as raised:
        pull(name, Folder(root), tmp_path / "out")
    assert raised.value.do
    assert not (tmp_path / "out").exists()


def test_records_that_no_dataset_may_have(published: Path, tmp_path: Path) -> None:
    files = mirrors.beir_files("scifact")
    files["scifact/corpus.jsonl"] += '{"_id": "d9", "title": null, "text": null}\n{"_id": "", "text": "x"}\n'
    files["scifact/queries.jsonl"] += '{"_id": "q9", "text": " "}\n'
    files["scifact/qrels/test.tsv"] += "q9\td0\t1\nq0\tnowhere\t1\n"
    (tmp_path / "mirror").mkdir()
    data = mirrors.zipped(files)
    (tmp_path / "mirror/scifact.zip").write_bytes(data)
    (tmp_path / "mirror/SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()}  scifact.zip\n")
    info = pull("beir/scifact", Folder(tmp_path / "mirror"), tmp_path / "out")[0].info
    assert info["repairs"] == {
        "bad-field": 1, "bad-id": 1, "empty-query": 1, "unknown-query": 1, "unknown-document": 1,
    }  # fmt: skip
    assert check(tmp_path / "out").ok


def test_a_file_that_a_server_has_unpacked_on_its_way(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "mirror"
    for split in ("simplified-nq-train", "nq-dev-all"):
        path = f"natural_questions/v1.0-simplified/{split}.jsonl.gz"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(gzip.decompress((published / path).read_bytes()))
    same = pull("nq", Folder(root), tmp_path / "plain")[0].info
    assert same["fingerprints"] == pull("nq", Folder(published), tmp_path / "packed")[0].info["fingerprints"]


def test_pages_of_every_format_keep_their_bytes(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    stage = Stage(tmp_path / "stage", {})
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        out = BytesIO()
        Image.new("RGB", (3, 2), (9, 8, 7)).save(out, kind)
        assert add_page(stage, kind, {"image": {"bytes": out.getvalue()}, "markdown": kind})
        assert not add_page(stage, kind, {"image": {"bytes": out.getvalue()}})
    assert not add_page(stage, "none", {"image": {"bytes": None, "path": "x.png"}})
    assert add_page(stage, "strange", {"image": b"no image at all"})
    stage.publish(tmp_path / "out", {}, {})
    pages = Dataset.load(tmp_path / "out").documents
    suffixes = {key: page.image.rpartition(".")[2] for key, page in pages.items()}
    assert suffixes == {
        "PNG": "png", "JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "PPM": "ppm",
        "strange": "bin",
    }  # fmt: skip
    assert stage.repairs == {"no-image": 1}
    assert pages["PPM"].text == "PPM"


@pytest.mark.parametrize(
    ("column", "value"), [("query", 5), ("query", b"x"), ("query", ["x"]), ("query", float("nan"))], ids=str
)
def test_columns_of_another_type_are_typed_errors(column: str, value: Any, tmp_path: Path) -> None:
    row = {"query": "q?", "image": mirrors.image(1), "image_filename": "a.png", "answer": "x"}
    mirrors.parquet(tmp_path / "m/vidore/x/data/test-0.parquet", [row | {column: value}])
    with pytest.raises(IntegrityError, match=f"the column '{column}' holds"):
        pull("vidore/x", Folder(tmp_path / "m"), tmp_path / "out")


@pytest.mark.parametrize("score", [None, "x", 0.5, float("nan")], ids=str)
def test_grades_that_are_none(score: Any, tmp_path: Path) -> None:
    tables: dict[str, dict[str, Any]] = {
        "corpus": {"corpus-id": 1, "image": mirrors.image(1)},
        "queries": {"query-id": 1, "query": "q?"},
        "qrels": {"query-id": 1, "corpus-id": 1, "score": score},
    }
    for name, row in tables.items():
        mirrors.parquet(tmp_path / f"m/vidore/x/{name}/test-0.parquet", [row])
    with pytest.raises(IntegrityError, match="no whole number"):
        pull("vidore/x", Folder(tmp_path / "m"), tmp_path / "out")


@pytest.mark.parametrize(
    "card",
    ["license: 2020-99-99", "a: " + "[" * 5000, "dataset_info: [1]", "dataset_info: {dataset_size: .inf}"],
    ids=["date", "deep", "list", "infinite"],
)
def test_cards_that_say_nothing_of_use(card: str, tmp_path: Path) -> None:
    row = {"query": "q?", "image": {"bytes": b"P6 100000 100000 255\n"}, "image_filename": "a", "answer": "x"}
    more = row | {"image": {"bytes": b"P6\nabc"}, "image_filename": "b"}
    mirrors.parquet(tmp_path / "m/vidore/x/data/test-0.parquet", [row, more])
    (tmp_path / "m/vidore/x/README.md").write_text(f"---\n{card}\n---\n")
    (pulled,) = pull("vidore/x", Folder(tmp_path / "m"), tmp_path / "out")
    assert pulled.info["counts"]["documents"] == 2


def test_revisions_of_an_article_stay_together(published: Path, tmp_path: Path) -> None:
    """Questions were asked of pages at different times: another revision of a page is nearly the same text."""
    root = tmp_path / "mirror"
    shutil.copytree(published, root)
    name = "natural_questions/v1.0-simplified/simplified-nq-train.jsonl.gz"
    row = json.loads(gzip.decompress((root / name).read_bytes()).splitlines()[0])
    rows = [row | {"example_id": i, "document_url": row["document_url"].replace("900", f"{i}")} for i in range(40)]
    (root / name).write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    (root / "SHA256SUMS").unlink()
    (pulled,) = pull("nq", Folder(root), tmp_path / "out", split_ratio=0.5)
    assert len({"train", "test"} & pulled.info["counts"]["judgements"].keys()) == 1


def test_ids_with_half_a_character_are_left_out(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", {})
    assert not stage.document(Document("\ud800", "", "a"))
    assert not stage.query(Query("\ud801", "q"))
    assert stage.repairs == {"lone-surrogate": 2}


def test_a_pull_clears_up_after_itself_only(web: Web, tmp_path: Path) -> None:
    (tmp_path / ".s.pull").mkdir()
    for name in (".s.abc_1234.tmp", ".s.de.abc_1234.tmp"):
        (tmp_path / name).mkdir()
    pull("squad", web, tmp_path / "s")
    assert [p.name for p in tmp_path.glob(".s.*")] == [".s.de.abc_1234.tmp"]
