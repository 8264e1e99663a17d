"""Queries that share a document with training are told apart from those that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import read_json
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.results import Estimate, Evaluation
from lodesmith.evaluation.parts import estimates, part
from lodesmith.recipes.overlap import measured, notes_of, overlap, saved
from lodesmith.recipes.pairs import Pairs
from lodesmith.recipes.train import plan


def evaluation(system: str, values: dict[str, float]) -> Evaluation:
    per_query = {key: {"nDCG@10": value} for key, value in values.items()}
    return Evaluation(system, "toy", "test", len(per_query), estimates(per_query), per_query, missing=1)


def test_a_query_is_shared_where_a_relevant_document_was_a_positive() -> None:
    documents = [Document("a", "", "one"), Document("b", "", "two"), Document("c", "", "one"), Document("d", "", "x")]
    judged = {
        "same": {"a": 1},
        "equal text": {"c": 1},
        "one of two": {"b": 1, "a": 1},
        "new": {"b": 1},
        "judged, not relevant": {"a": 0, "d": 1},
    }
    dataset = Dataset.of(documents, [Query(key, key) for key in judged], {"test": judged})
    pairs = Pairs(np.array([[0, 0]]), np.array([[0, 0], [0, 1]]), {"t": "t"}, {})  # d1 is known, and not trained on
    found = overlap(dataset, pairs, "test")
    assert found.shared == {"same", "equal text", "one of two"}
    assert found.new == {"new", "judged, not relevant"}


def test_both_parts_are_measured_and_compared_with_the_base() -> None:
    base = evaluation("base", {"s1": 0.2, "s2": 0.4, "n1": 0.9, "n2": 0.5})
    own = evaluation("own", {"s1": 0.8, "s2": 0.9, "n1": 0.7, "n2": 0.5})
    dataset = Dataset.of([Document("a", "", "one")], (), {"test": {}})
    found = overlap(dataset, Pairs(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), {}, {}), "test")
    assert measured([base, own], found, "base", "own") == {}
    assert notes_of({}) == []
    found = type(found)(frozenset({"s1", "s2"}), frozenset({"n1", "n2"}))
    told = measured([base, own], found, "base", "own")
    assert told["shared"]["systems"]["own"]["mean"] == pytest.approx(0.85)
    assert told["new"]["systems"]["base"]["mean"] == pytest.approx(0.7)
    assert told["shared"]["difference"]["difference"] == pytest.approx(0.55)
    assert told["new"]["difference"]["difference"] == pytest.approx(-0.1)
    third = evaluation("third", {"s1": 0.1, "s2": 0.4, "n1": 0.2, "n2": 0.5})
    more = measured([base, own, third], found, "base", "own")
    assert more["shared"]["difference"] == told["shared"]["difference"]  # a family of one comparison
    assert measured([base, own], type(found)(frozenset({"s1"}), found.new), "base", "own") == {}
    first, second = notes_of(told)
    assert first.startswith("The 2 queries with a relevant document")
    assert "of own 0.850, of base 0.300" in first
    assert "of own 0.600, of base 0.700; difference -0.100" in second


def test_a_part_has_its_own_figures() -> None:
    whole = evaluation("own", {"a": 0.0, "b": 1.0, "c": 1.0})
    kept = part(whole, {"b", "c", "not there"})
    assert (kept.queries, kept.missing, kept.measures["nDCG@10"]) == (2, 0, Estimate(1.0, 1.0, 1.0))
    kept.check()
    with pytest.raises(InputError, match="none of these 1 queries"):
        part(whole, {"x"})


def test_the_run_tells_it(tmp_path: Path, tiny_model: Path) -> None:
    documents = [Document(f"d{at}", "", f"text {at} of {at % 7} and {at % 5}") for at in range(24)]
    queries = [Query(f"q{at}", f"what of {at % 7} and {at % 5}") for at in range(24)]
    judged = {f"q{at}": {f"d{at}": 1} for at in range(24)}
    train = {key: judged[key] for key in list(judged)[:12]}
    test = {"q12": {"d12": 1}, "q13": {"d13": 1}, "q14": {"d3": 1}, "q15": {"d4": 1}}
    folder = Dataset.of(documents, queries, {"train": train, "test": test}).save(tmp_path / "data")
    settings = {"data.path": str(folder), "base": str(tiny_model), "data.validation": None, "stages.0.epochs": 1}
    training = plan("isotropic", settings, out=tmp_path / "run")
    list(training.events())
    told = read_json(tmp_path / "run" / "overlap.json")
    assert (told["shared"]["queries"], told["new"]["queries"]) == (2, 2)
    assert training.summary["notes"] == notes_of(told)
    assert notes_of(told)[0].split(";")[0] in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("content", ['{"trained": 1}', '{"trained": "a", "base": "b"}', "3", "[]"])
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "overlap.json").write_text(content)
    with pytest.raises((IntegrityError, InputError), match=r"overlap\.json"):
        saved(tmp_path / "overlap.json")


def test_each_measure_has_its_own_interval() -> None:
    per_query = {str(at): {"nDCG@10": float(at % 2), "R@10": 1.0} for at in range(20)}
    found = estimates(per_query)
    assert found["R@10"] == Estimate(1.0, 1.0, 1.0)
    assert found["nDCG@10"].low < 0.5 < found["nDCG@10"].high
