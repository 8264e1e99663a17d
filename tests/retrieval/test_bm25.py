"""BM25 against its formula, its edges, and the published figure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import LodesmithError
from lodesmith.core.records import Dataset
from lodesmith.retrieval.bm25 import BM25

DOCS = {"a": "red apple tree", "b": "green apple apple", "c": "blue sky high over land", "d": ""}


def test_scores_follow_the_formula() -> None:
    retriever = BM25(k1=1.2, b=0.75, language=None).build(DOCS.items())
    found = dict(retriever.search({"q": "apple"}, 10)["q"])
    lengths = {key: len(text.split()) for key, text in DOCS.items()}
    mean = sum(lengths.values()) / len(lengths)
    idf = math.log(1 + (len(DOCS) - 2 + 0.5) / (2 + 0.5))
    for key, count in (("a", 1), ("b", 2)):
        expected = idf * count / (count + 1.2 * (1 - 0.75 + 0.75 * lengths[key] / mean))
        assert found[key] == pytest.approx(expected, rel=1e-5)
    assert set(found) == {"a", "b"}


def test_coverage_by_hand() -> None:
    retriever = BM25(k1=1.2, b=0.75, language=None).build(DOCS.items())
    asked = {"two": "apple sky", "twice": "apple apple", "half": "sky zebra", "strange": "zebra", "empty": ""}
    found = retriever.search(asked, 10)
    coverage = retriever.coverage(asked, found)
    apple, sky, zebra = (math.log(1 + (len(DOCS) - count + 0.5) / (count + 0.5)) for count in (2, 1, 0))
    assert coverage["two"] == pytest.approx(found["two"][0][1] / (apple + sky))
    assert coverage["twice"] == pytest.approx(found["twice"][0][1] / (2 * apple))
    assert coverage["half"] == pytest.approx(found["half"][0][1] / (sky + zebra))
    assert (coverage["strange"], coverage["empty"]) == (0.0, 0.0)
    assert retriever.coverage({"half": asked["half"]}, found) == {"half": coverage["half"]}


def test_no_document_covers_more_than_all() -> None:
    retriever = BM25().build([("a", "apple " * 1000), ("b", "pear"), ("c", "plum " * 9)])
    asked = {"q": "apple"}
    assert 0.7 < retriever.coverage(asked, retriever.search(asked))["q"] < 1


def test_stemming_finds_inflected_words() -> None:
    assert [key for key, _ in BM25().build(DOCS.items()).search({"q": "trees"}, 3)["q"]] == ["a"]


def test_unknown_and_empty_queries_find_nothing() -> None:
    run = BM25().build(DOCS.items()).search({"x": "zebra", "y": "", "z": "apple"}, 3)
    assert run["x"] == [] == run["y"]
    assert len(run["z"]) == 2


def test_ties_go_by_id_descending_and_k_cuts_after_them() -> None:
    docs = {f"d{i}": "same words" for i in range(9)}
    run = BM25().build(docs.items()).search({"q": "words"}, 4)
    assert [key for key, _ in run["q"]] == ["d8", "d7", "d6", "d5"]


def test_alone_or_together_gives_the_same() -> None:
    retriever = BM25().build(DOCS.items())
    both = retriever.search({"x": "apple tree", "y": "sky"}, 5)
    assert retriever.search({"x": "apple tree"}, 5)["x"] == both["x"]


def test_corpus_without_words() -> None:
    assert BM25().build([("a", ""), ("b", "!")]).search({"q": "word"}, 3)["q"] == []


def test_save_and_load(tmp_path: Path) -> None:
    retriever = BM25().build(DOCS.items())
    retriever.save(tmp_path / "i")
    queries = {"x": "apple tree", "y": "sky"}
    found = retriever.search(queries, 5)
    assert BM25.load(tmp_path / "i").search(queries, 5) == found
    assert BM25.load(tmp_path / "i").coverage(queries, found) == retriever.coverage(queries, found)
    data = next((tmp_path / "i").glob("data*.npy"))
    data.write_bytes(data.read_bytes()[:20])
    with pytest.raises(LodesmithError, match="damaged"):
        BM25.load(tmp_path / "i")


@pytest.mark.data
def test_published_figure_on_scifact(collections: Path) -> None:
    """BEIR's flat BM25 has nDCG@10 .679 there."""
    from lodesmith.evaluation.measures import parse, score

    dataset = Dataset.load(collections / "scifact")
    retriever = BM25().build((key, d.content) for key, d in dataset.documents.items())
    run = retriever.search({key: q.text for key, q in dataset.queries_of("test").items()}, 100)
    values = score(run, dataset.split("test"), [parse("nDCG@10")]).values[parse("nDCG@10")]
    assert np.mean(values) >= 0.675
