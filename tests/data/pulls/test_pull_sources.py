"""Each source against the mirror: what the dataset folder holds, from a server and from a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mirrors
from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset
from lodesmith.core.registry import names
from lodesmith.data.check import check
from lodesmith.data.pulls import Folder, Origin, Web, pull

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
    assert "the passages that 3 queries a split name" in few["notes"][1]
    assert (few["name"], few["pull"]["name"]) == ("msmarco (limit 3)", "msmarco")
    named = {i for row in rows(tmp_path / "few", "columns/negatives.jsonl") for i in row["ids"]}
    assert named <= set(Dataset.load(tmp_path / "few").documents)


def test_msmarco_says_which_task_it_is(web: Web, tmp_path: Path) -> None:
    pulled = pull("msmarco", web, tmp_path / "m")[0]
    (note,) = pulled.info["notes"]
    for part in (
        "passage ranking",
        "8,841,823",
        "6,980",
        "v1.1",
        f"{sum(1 / rank for rank in range(1, 11)) / 10:.3f}"[1:],
    ):
        assert part in note
    assert f"note: {note}" in pulled.to_text()
    assert pulled.info["name"] == "msmarco"


def test_a_part_is_called_so_in_tables(web: Web, tmp_path: Path) -> None:
    """Figures of two corpora are never taken for those of one dataset."""
    for name, limit in (("squad", 2), ("beir/scifact", 1), ("wikipedia:de", 3)):
        one(name, web, tmp_path / "part", limit=limit)
        assert Dataset.load(tmp_path / "part").name == f"{name} (limit {limit})"
        assert pull(name, web, tmp_path / "part", limit=limit)[0].present
        shutil.rmtree(tmp_path / "part")


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
