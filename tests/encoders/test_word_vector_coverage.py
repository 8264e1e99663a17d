"""What word vectors cover, and that the rows of a trained bag are word vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tower_worlds import flip

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.encoders import Bag, TowerPair, Vocabulary
from lodesmith.encoders.word_vectors import WordVectors, coverage, read_word_vectors


def test_the_rows_of_a_bag_are_word_vectors(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["the cat the dog"], min_count=1)
    bag = Bag(vocabulary, dimension=3)
    found = read_word_vectors(bag.save(tmp_path / "run" / "model"))
    assert found.words == ("the", "cat", "dog")
    np.testing.assert_array_equal(found.values, bag.embedding.weight.detach().numpy()[2:])
    (tmp_path / "run" / "recipe.yaml").write_text("name: x\n")
    assert read_word_vectors(tmp_path / "run", only={"cat"}).words == ("cat",)
    with pytest.raises(InputError, match="none of the wanted words is among its 3"):
        read_word_vectors(tmp_path / "run", only={"bee"})
    flip(tmp_path / "run" / "model" / "model.safetensors")
    with pytest.raises(IntegrityError, match="the manifest says"):
        read_word_vectors(tmp_path / "run")


def test_folders_without_word_vectors(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["the cat"], min_count=1)
    TowerPair(Bag(vocabulary, 3), Bag(vocabulary, 3)).save(tmp_path / "pair")
    with pytest.raises(InputError, match="no bag of words for both sides"):
        read_word_vectors(tmp_path / "pair")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    with pytest.raises(InputError, match="no model yet"):
        read_word_vectors(tmp_path / "run")


# ----------------------------------------------------------------------- coverage


def test_coverage_counts_types_and_tokens_and_names_what_is_missing() -> None:
    vocabulary = Vocabulary.build(["the cat the dog the owl owl"], min_count=1)
    found = coverage(vocabulary, {"the", "cat", "elsewhere"})
    assert found == {
        "types": 4,
        "types_known": 0.5,
        "tokens": 7,
        "tokens_known": 1 - 3 / 7,
        "missing": {"owl": 2, "dog": 1},
    }
    many = Vocabulary.build([" ".join(f"w{n} " * (n + 1) for n in range(20))], min_count=1)
    assert list(coverage(many, {"w19"})["missing"]) == [f"w{n}" for n in range(18, 8, -1)]
    assert coverage(Vocabulary.build([]), {})["tokens_known"] == 1.0


@pytest.mark.parametrize("limits", [(1, None), (2, None), (2, 4), (1, 3), (9, None)])
def test_a_vocabulary_that_is_cut_equals_one_that_is_built_so(limits: tuple[int, int | None]) -> None:
    texts = ["the cat the dog the owl owl", "dog bee"]
    cut, built = (
        Vocabulary.build(texts, min_count=1).cut(*limits),
        Vocabulary.build(texts, min_count=limits[0], max_size=limits[1]),
    )
    assert cut.fingerprint == built.fingerprint


@pytest.mark.parametrize(("scale", "level"), [(1, "INFO"), (0, "WARNING")])
def test_a_tower_logs_what_its_vectors_cover(scale: int, level: str, caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = Vocabulary.build(["the the the the" if scale else "owl owl owl owl", "cat dog the"], min_count=1)
    vectors = WordVectors(("the", "cat"), np.ones((2, 3), np.float32))
    with caplog.at_level("INFO"):
        Bag(vocabulary, dimension=3, init=vectors)
    (record,) = (record for record in caplog.records if "word vectors for" in record.message)
    assert record.levelname == level
    assert record.message.endswith("; without one: dog" if scale else "; without one: owl, dog")
