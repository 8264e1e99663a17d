"""Each source against the mirror: what the dataset folder holds, from a server and from a folder."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mirrors
from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.registry import names
from lodesmith.data.check import check
from lodesmith.data.pulls import Folder, Origin, Web, pull
from lodesmith.data.pulls._pages import add_page
from lodesmith.data.pulls._stage import Stage

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

# name → documents, queries, judgements of each split
COUNTS: dict[str, tuple[int, int, dict[str, int]]] = {
    "beir/scifact": (5, 4, {"test": 4}),
    "beir/trec-covid": (5, 4, {"test": 5}),
    "beir/arguana": (6, 4, {"test": 4}),
    "beir/msmarco": (5, 4, {"dev": 4, "test": 4, "train": 4}),
    "beir/cqadupstack/tex": (5, 4, {"test": 4}),
    "msmarco": (60, 26, {"train": 20, "dev": 6}),
    "squad": (12, 24, {"train": 16, "dev": 8}),
    "hotpotqa": (33, 8, {"train": 12, "dev": 4}),
    "nq": (8, 5, {"train": 4, "dev": 1}),
    "wikipedia": (24, 0, {}),
    "wikipedia:de": (6, 0, {}),
    "wikipedia:de:20231101": (6, 0, {}),
    "vidore/arxivqa_test_subsampled": (5, 5, {"test": 5}),
    "vidore/esg_reports_v2": (4, 3, {"test": 4}),
    "colpali_train_set": (22, 22, {"test": 2, "train": 20}),
}


def test_every_source_is_tested() -> None:
    assert {name.replace(":", "/").partition("/")[0] for name in COUNTS} == set(names("data.pulls"))
    assert len(names("data.pulls")) == 8


def one(name: str, origin: Origin, out: Path, **options: Any) -> dict[str, Any]:
    return pull(name, origin, out, **options)[0].info


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_layout(name: str, web: Web, published: Path, tmp_path: Path) -> None:
    info = one(name, web, tmp_path / "served")
    documents, queries, judgements = COUNTS[name]
    assert info["counts"] == {"documents": documents, "queries": queries, "judgements": judgements}
    report = check(tmp_path / "served")
    assert report.ok, report.to_text()
    data = Dataset.load(tmp_path / "served")
    assert data.fingerprint == info["fingerprints"]["dataset"]
    assert len(data.documents) == documents
    assert info["licence"]
    assert all(len(file["sha256"] or "") in (0, 64) for file in info["files"])
    assert not list(tmp_path.glob(".served*"))
    again = one(name, Folder(published), tmp_path / "from-folder")
    assert again["fingerprints"] == info["fingerprints"]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_beir_repairs_and_same_ids(web: Web, tmp_path: Path) -> None:
    info = one("beir/trec-covid", web, tmp_path / "covid")
    assert info["repairs"] == {"negative-grade": 1}
    assert "q0\td4\t0\n" in (tmp_path / "covid/qrels/test.tsv").read_text()
    assert info["drop_same_id"] is False
    assert one("beir/arguana", web, tmp_path / "arguana")["drop_same_id"] is True
    assert one("beir/quora", web, tmp_path / "quora")["drop_same_id"] is True
    assert rows(tmp_path / "covid", "corpus.jsonl")[0].keys() == {"_id", "title", "text"}


def test_beir_limit_keeps_the_corpus(web: Web, tmp_path: Path) -> None:
    info = one("beir/scifact", web, tmp_path / "few", limit=2)
    assert info["counts"]["documents"] == 5
    assert info["counts"]["queries"] == 2
    same = one("beir/scifact", web, tmp_path / "same", limit=2)
    assert same["fingerprints"] == info["fingerprints"]
    drawn = {one("beir/scifact", web, tmp_path / f"{s}", limit=1, seed=s)["fingerprints"]["dataset"] for s in range(8)}
    assert len(drawn) > 1


def test_groups(web: Web, mirror: mirrors.Mirror, tmp_path: Path) -> None:
    done = pull("beir:quick", web, tmp_path / "beir")
    assert [(p.name, p.out.name) for p in done] == [("beir/scifact", "scifact"), ("beir/nfcorpus", "nfcorpus")]
    forums = pull("beir/cqadupstack", web, tmp_path / "cqa")
    assert [p.out.name for p in forums] == mirrors.FORUMS
    assert all(check(p.out).ok for p in [*done, *forums])
    assert len(mirror.asked("cqadupstack.zip")) == 1
    assert sorted(p.name for p in (tmp_path / "cqa").iterdir()) == mirrors.FORUMS
    assert len(pull("beir:full", web, tmp_path / "full")) == 26
    assert (tmp_path / "full/cqadupstack/tex/corpus.jsonl").exists()


def test_msmarco_triplets(web: Web, tmp_path: Path) -> None:
    one("msmarco", web, tmp_path / "m")
    negatives = rows(tmp_path / "m", "columns/negatives.jsonl")
    assert len(negatives) == 20
    data = Dataset.load(tmp_path / "m")
    for row in negatives:
        assert len(row["ids"]) == 8
        assert not set(row["ids"]) & set(data.split("train")[row["query"]])
        assert set(row["ids"]) <= set(data.documents)
    assert json.loads((tmp_path / "m/columns/negatives.meta.json").read_text())["source"].startswith("https://")


def test_msmarco_limit_and_ratio(web: Web, tmp_path: Path) -> None:
    info = one("msmarco", web, tmp_path / "half", split_ratio=0.5)
    parts = info["counts"]["judgements"]
    assert parts["train"] + parts["test"] == 20
    assert 4 <= parts["train"] <= 16
    assert parts["dev"] == 6
    few = one("msmarco", web, tmp_path / "few", limit=3)
    assert few["counts"]["judgements"] == {"train": 3, "dev": 3}
    assert few["counts"]["documents"] < 60
    assert "figures" in few["notes"][0]
    named = {i for row in rows(tmp_path / "few", "columns/negatives.jsonl") for i in row["ids"]}
    assert named <= set(Dataset.load(tmp_path / "few").documents)


def test_squad_is_divided_by_article(web: Web, tmp_path: Path) -> None:
    one("squad", web, tmp_path / "s", split_ratio=0.5)
    data = Dataset.load(tmp_path / "s")
    sides = [{d.partition("#")[0] for j in data.split(s).values() for d in j} for s in ("train", "test")]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert data.queries["train000"].answers == ("answer 0",)
    assert data.documents["train_article_0#1"].text == "The train context 0.1: «ü» answer."
    limited = one("squad", web, tmp_path / "l", limit=5)
    assert limited["counts"]["judgements"] == {"train": 5, "dev": 5}
    assert limited["counts"]["documents"] == 6


def test_hotpotqa_negatives_are_its_distractors(web: Web, tmp_path: Path) -> None:
    one("hotpotqa", web, tmp_path / "h")
    data = Dataset.load(tmp_path / "h")
    row = rows(tmp_path / "h", "columns/negatives.jsonl")[0]
    assert [data.documents[i].title for i in row["ids"]] == ["train C0", "train D0", "Shared"]
    positive = [data.documents[i] for i in data.split("train")["train0"]]
    assert [d.title for d in positive] == ["train A0", "train B0"]
    assert positive[0].text == "train A0 begins here. It ends here."


def test_nq_long_and_short_answers(web: Web, tmp_path: Path) -> None:
    info = one("nq", web, tmp_path / "n")
    data = Dataset.load(tmp_path / "n")
    assert info["questions_without_long_answer"] == 2
    assert data.documents["900-0"].text == "First paragraph of 0."
    assert data.documents["900-0"].title == "Page 0"
    assert data.queries["5000"].answers == ("First paragraph",)
    assert dict(data.split("train")["5001"]) == {"901-1": 1}, "a row of a table is judged as its table"
    assert dict(data.split("dev")["5009"]) == {"907-0": 1}
    assert data.documents["907-0"].text == "First paragraph of 7."
    assert "902-0" not in data.documents


def test_nq_limit_ends_the_reading(web: Web, tmp_path: Path) -> None:
    info = one("nq", web, tmp_path / "n", limit=1)
    assert info["counts"]["judgements"] == {"train": 1, "dev": 1}
    held = one("nq", web, tmp_path / "r", split_ratio=0.5)["counts"]["judgements"]
    assert held.get("train", 0) + held.get("test", 0) == 4


def test_wikipedia_passages(web: Web, mirror: mirrors.Mirror, tmp_path: Path) -> None:
    info = one("wikipedia", web, tmp_path / "w")
    first, second, *_ = rows(tmp_path / "w", "corpus.jsonl")
    assert first == {"_id": "0#1", "title": "en 0.0", "text": "This is an article about things."}
    assert second["title"] == "en 0.0 — History"
    assert second["text"] == "It began long ago and went on for many years, it is said."
    assert (info["revision"], info["licence"]) == (mirrors.REVISION, "cc-by-sa-3.0, gfdl")
    mirror.requests.clear()
    few = one("wikipedia", web, tmp_path / "few", limit=7, words=6)
    assert few["counts"]["documents"] == 7
    assert all(len(row["text"].split()) <= 6 for row in rows(tmp_path / "few", "corpus.jsonl"))
    assert len([r for r in mirror.requests if r[1].endswith(".parquet")]) == 1
    other = one("wikipedia", web, tmp_path / "other", limit=7, words=6, seed=3)
    assert other["fingerprints"] != few["fingerprints"]


def test_vidore_first_layout(web: Web, tmp_path: Path) -> None:
    one("vidore/arxivqa_test_subsampled", web, tmp_path / "v")
    data = Dataset.load(tmp_path / "v")
    by_text = {query.text: dict(data.split("test")[key]) for key, query in data.queries.items()}
    assert by_text["a?"] == {"images/4.png": 1}, "of a question that is asked twice the last page counts"
    assert by_text["c?"] == {"images/1.png": 1}
    assert len(list((tmp_path / "v/images").iterdir())) == 5
    page = data.documents["images/2.png"]
    assert (tmp_path / "v" / page.image).read_bytes() == mirrors.png(2)
    limited = one("vidore/arxivqa_test_subsampled", web, tmp_path / "l", limit=2)
    assert limited["counts"] == {"documents": 5, "queries": 2, "judgements": {"test": 2}}


def test_vidore_second_layout(web: Web, tmp_path: Path) -> None:
    one("vidore/esg_reports_v2", web, tmp_path / "v")
    data = Dataset.load(tmp_path / "v")
    assert dict(data.split("test")["0"]) == {"0": 1, "3": 2}
    assert data.documents["0"].image == data.documents["3"].image, "one file for pages with the same bytes"
    assert len(list((tmp_path / "v/images").iterdir())) == 3
    assert one("vidore/esg_reports_v2", web, tmp_path / "l", limit=1)["counts"]["queries"] == 1


def test_colpali_is_streamed_in_the_order_of_the_seed(web: Web, mirror: mirrors.Mirror, tmp_path: Path) -> None:
    info = one("colpali_train_set", web, tmp_path / "c", limit=6)
    assert info["counts"]["judgements"] == {"test": 2, "train": 6}
    train = [r[1] for r in mirror.requests if "/data/train-" in r[1]]
    assert len(train) == 2, "two shards of four hold six pairs"
    assert len(info["files"]) == 3
    same = one("colpali_train_set", web, tmp_path / "same", limit=6)
    assert same["fingerprints"] == info["fingerprints"]
    orders = set()
    for seed in range(4):
        one("colpali_train_set", web, tmp_path / f"{seed}", limit=6, seed=seed)
        orders.add((tmp_path / f"{seed}/queries.jsonl").read_text())
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("scifact", {}, "nothing is called"),
        ("beir/scifcat", {}, "did you mean 'scifact'"),
        ("beir/bioasq", {}, "may not be passed on"),
        ("beir:quik", {}, "did you mean 'quick'"),
        ("beir", {}, "names no dataset"),
        ("beir/scifact/tex", {}, "no part"),
        ("beir/scifact", {"words": 5}, "does not take --words"),
        ("wikipedia", {"split_ratio": 0.5}, "does not take --split-ratio"),
        ("msmarco", {"split_ratio": 1.0}, "between 0 and 1"),
        ("msmarco", {"limit": 0}, "at least 1"),
        ("squad/x", {}, "no part"),
        ("vidore/..", {}, "no dataset's name"),
        ("vidore/a/b", {}, "vidore/NAME"),
        ("wikipedia:de:2023", {}, "wikipedia:de:20231101"),
    ],
)
def test_names_and_options_are_checked(
    name: str, options: dict[str, Any], says: str, published: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as raised:
        pull(name, Folder(published), tmp_path / "out", **options)
    assert says in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_left_alone(web: Web, mirror: mirrors.Mirror, tmp_path: Path) -> None:
    pull("squad", web, tmp_path / "s")
    mirror.requests.clear()
    again = pull("squad", web, tmp_path / "s")[0]
    assert again.present
    assert not mirror.requests
    assert again.to_json()["counts"]["documents"] == 12
    with pytest.raises(InputError, match="another pull"):
        pull("squad", web, tmp_path / "s", limit=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a dataset"):
        pull("squad", web, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").exists()


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
    info = one("beir/scifact", Folder(tmp_path / "mirror"), tmp_path / "out")
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
    same = one("nq", Folder(root), tmp_path / "plain")
    assert same["fingerprints"] == one("nq", Folder(published), tmp_path / "packed")["fingerprints"]


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
