"""Several datasets as one."""

from __future__ import annotations

from pathlib import Path

import pytest

import lodesmith as lode
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.joined import folders_of, join, load_several
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.testing import tiny_dataset


def small(name: str, word: str, **info: object) -> Dataset:
    documents = [Document(f"d{at}", "", f"{word} {at}", image="p.png" if at else "") for at in range(2)]
    judgements = {"train": {"q": {"d1": 2}}} | ({"test": {"q": {"d0": 1}}} if name == "b" else {})
    return Dataset.of(documents, [Query("q", f"which {word}", ("it",))], judgements, name=name, **info)


def test_records_and_judgements_go_by_name_and_id() -> None:
    both = join([small("a", "apple"), small("b", "pear")])
    assert list(both.documents) == ["a/d0", "a/d1", "b/d0", "b/d1"]
    assert both.documents["b/d1"] == Document("b/d1", "", "pear 1", "p.png")
    assert both.queries["a/q"] == Query("a/q", "which apple", ("it",))
    assert len(both.documents) == 4
    assert both.judgements == {
        "train": {"a/q": {"a/d1": 2}, "b/q": {"b/d1": 2}},
        "test": {"b/q": {"b/d0": 1}},
    }
    assert both.name == "a+b"
    assert "d0" not in both.documents
    assert "c/d0" not in both.documents


def test_equal_names_are_numbered_and_slashes_do_not_split_an_id_wrongly() -> None:
    both = join([small("x/y", "apple"), small("x/y", "pear"), small("x-y", "plum")])
    assert list(both.queries) == ["x-y/q", "x-y~2/q", "x-y~3/q"]
    assert both.queries["x-y~3/q"].text == "which plum"
    three = join([small("a~2", "one"), small("a", "two"), small("a", "three")])
    assert list(three.queries) == ["a~2/q", "a/q", "a~3/q"]
    ids = Dataset.of([Document("a/b/c", "", "text")], name="n")
    assert join([ids, ids]).documents["n/a/b/c"].text == "text"


def test_what_leaves_out_the_query_s_own_id_is_not_mixed_with_what_does_not() -> None:
    assert join([small("a", "x", drop_same_id=True), small("b", "y", drop_same_id=True)]).drop_same_id
    with pytest.raises(InputError, match="own id cannot be joined"):
        join([small("a", "x", drop_same_id=True), small("b", "y")])
    with pytest.raises(InputError, match="no datasets"):
        join([])


def test_folders_with_commas_between_them(tmp_path: Path) -> None:
    for name in ("a", "b", "a,b"):
        small(name, name).save(tmp_path / name)
    first, second = tmp_path / "a", tmp_path / "b"
    assert folders_of(f"{first}, {second},") == [first, second]
    assert folders_of(str(tmp_path / "a,b")) == [tmp_path / "a,b"]
    both = load_several(f"{first},{second}")
    assert both.documents["b/d1"].image == str(second / "p.png")
    assert load_several(str(first)).documents.keys() == {"d0", "d1"}
    assert both.fingerprint == load_several(f"{first},{second}").fingerprint != load_several(str(first)).fingerprint
    with pytest.raises(InputError, match="no such dataset folder"):
        load_several(f"{first},{tmp_path / 'none'}")


@pytest.mark.usefixtures("cache")
def test_a_recipe_trains_on_several(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny_dataset().save(tmp_path / name)
    settings = {"data": f"{tmp_path / 'one'},{tmp_path / 'two'}", "encoder.dimension": 8, "stages.1.epochs": 1}
    with pytest.raises(ConfigError, match="names a folder twice"):
        lode.train("two_tower_bag", out=tmp_path / "x", data=f"{tmp_path / 'one'},{tmp_path}/./one")
    with pytest.raises(ConfigError, match="has no data"):
        lode.train("two_tower_bag", out=tmp_path / "x", data=",")
    list(lode.train("two_tower_bag", out=tmp_path / "run", **settings))
    measured = lode.Evaluation.load(next((tmp_path / "run" / "evaluations").glob("bm25*.json")))
    assert any(key.startswith("tiny~2/") for key in measured.per_query)
    with pytest.raises(InputError, match="no such dataset folder"):
        lode.train(
            "two_tower_bag", out=tmp_path / "x", **(settings | {"data": f"{tmp_path / 'one'},{tmp_path / 'no'}"})
        )
