"""A teacher's vectors: read from its store, in the order of the texts' numbers, without the teacher."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.protocols import Side
from lodesmith.data.single_texts import SingleTexts
from lodesmith.data.tokens import FastTokenizer, TokenStore
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.recipes.targets import Targets, Taught, ceiling, dimension_of, sources
from lodesmith.recipes.teaching import teach_vectors
from lodesmith.testing import tiny_dataset

TEXTS: dict[Side, Sequence[str]] = {
    "query": ["the cat", "a dog", "the cat"],
    "document": ["the owl sleeps", "music and rivers", "apples", "the owl sleeps"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers, of 32 and of 24 dimensions, with prompts."""
    folder = tmp_path_factory.mktemp("teachers")
    prompts = {"query": "the moon ", "document": "far "}
    return [tiny_models.build(folder / "a", prompts=prompts), tiny_models.build(folder / "b", "mpnet", dense=24)]


def test_each_text_has_its_own_row(models: list[Path], cache: Path) -> None:
    targets = Targets(sources([str(models[0])], [], TEXTS), TEXTS)
    encoder = TransformerEncoder(models[0])
    assert targets.dimension == 32
    for side, texts in TEXTS.items():
        numbers = np.asarray([len(texts) - 1, 0, 1, 0])
        fresh = encoder.encode([texts[at] for at in numbers], side).values
        np.testing.assert_allclose(targets.take(side, numbers), fresh, atol=2e-3)  # stored in float16
    assert not np.allclose(targets.take("query", np.asarray([0])), encoder.encode(["the cat"], "document").values)


def test_several_teachers_mean_their_cosines(models: list[Path], cache: Path) -> None:
    names = [str(model) for model in models]
    alone = [Targets(sources([name], [], TEXTS), TEXTS) for name in names]
    both = Targets(sources(names, [], TEXTS), TEXTS)
    numbers = np.arange(3)
    rows = both.take("document", numbers)
    assert rows.shape == (3, 56)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    expected = []
    for targets in alone:
        own = targets.take("document", numbers)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        expected.append(own @ own.T)
    np.testing.assert_allclose(rows @ rows.T, np.mean(expected, axis=0), atol=1e-5)


def test_a_dataset_that_was_taught_needs_no_teacher(models: list[Path], cache: Path, tmp_path: Path) -> None:
    teacher = Path(shutil.copytree(models[0], tmp_path / "teacher"))
    dataset = tiny_dataset()
    folder = dataset.save(tmp_path / "tiny")
    teach_vectors(folder, str(teacher), name="teacher")
    asked = [query.content for query in dataset.queries_of("train").values()]
    texts: dict[Side, Sequence[str]] = {
        "query": asked,
        "document": [document.content for document in dataset.documents.values()],
    }
    with_it = Targets(sources([str(teacher)], [folder], texts), texts).take("query", np.arange(len(asked)))
    shutil.rmtree(teacher)
    without = Targets(sources([str(teacher)], [folder], texts), texts).take("query", np.arange(len(asked)))
    np.testing.assert_array_equal(with_it, without)
    with pytest.raises(InputError):  # of a text that nobody has had encoded, only the teacher knows
        sources([str(teacher)], [folder], {**texts, "query": [*asked, "a bee"]})


def test_batches_carry_the_targets_of_their_numbers(models: list[Path], cache: Path, tmp_path: Path) -> None:
    targets = Targets(sources([str(models[0])], [], TEXTS), TEXTS)
    tokenizer = FastTokenizer(TransformerEncoder(models[0]).model[0].tokenizer, 16, "")
    store = TokenStore(tmp_path / "tokens", tokenizer)
    sides = [store.tokens(TEXTS[side]) for side in ("query", "document")]
    batches = Taught(SingleTexts(*sides, batch_size=2), targets)
    assert len(batches) == 3
    assert batches.texts == 5
    for batch in batches:
        for side in ("query", "document"):
            expected = targets.take(side, batch[f"{side}_ids"].numpy())  # type: ignore[arg-type]
            np.testing.assert_array_equal(batch[f"{side}_targets"], expected)
    state = batches.state_dict()
    again = Taught(SingleTexts(*sides, batch_size=2), targets)
    again.load_state_dict(state)
    assert again.state_dict() == state


def test_only_filled_places_have_targets(models: list[Path], cache: Path) -> None:
    targets = Targets(sources([str(models[0])], [], TEXTS), TEXTS)
    batch = {
        "query_ids": torch.tensor([1]),
        "document_ids": torch.tensor([0]),
        "negative_ids": torch.tensor([[2, -1, 1]]),
    }

    class One:
        def __iter__(self) -> object:
            return iter([batch])

    (taught,) = list(Taught(One(), targets))  # type: ignore[arg-type]
    np.testing.assert_array_equal(taught["negative_targets"], targets.take("document", np.asarray([2, 1])))


def test_the_ceiling_is_that_of_principal_components() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 3)) @ generator.normal(size=(3, 12)) + 2.0
    assert ceiling(rows, 3).explained == pytest.approx(1)
    assert ceiling(rows, 3).cosine == pytest.approx(1)
    assert ceiling(rows, 12).explained == pytest.approx(1)
    two = ceiling(rows, 2)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    assert two.explained == pytest.approx(values[:2].sum() / values.sum())
    assert two.explained < 1
    assert two.cosine < 1
    assert "2 dimensions hold" in two.to_text()


def test_only_what_cosine_compares_has_length_one(models: list[Path], cache: Path) -> None:
    teachers = [replace(teacher, metric="dot") for teacher in sources([str(model) for model in models], [], TEXTS)]
    numbers = np.arange(3)
    both = Targets(teachers, TEXTS)
    assert both.metric == "dot"
    alone = [Targets([teacher], TEXTS).take("document", numbers) for teacher in teachers]
    np.testing.assert_array_equal(both.take("document", numbers), np.concatenate(alone, axis=1))
    with pytest.raises(ConfigError, match="cosine and dot"):
        Targets([teachers[0], replace(teachers[1], metric="cosine")], TEXTS)


def test_weights_that_are_there_say_who_the_teacher_is(models: list[Path], cache: Path, tmp_path: Path) -> None:
    teacher = Path(shutil.copytree(models[0], tmp_path / "teacher"))
    folder = tiny_dataset().save(tmp_path / "tiny")
    teach_vectors(folder, str(teacher), name="teacher")
    texts: dict[Side, Sequence[str]] = {"document": [own.content for own in tiny_dataset().documents.values()]}
    (before,) = sources([str(teacher)], [folder], texts)
    shutil.rmtree(teacher)
    tiny_models.build(teacher, "mpnet")
    (after,) = sources([str(teacher)], [folder], texts)
    assert after.fingerprint != before.fingerprint
    assert dimension_of(str(teacher), [folder]) == 32
    shutil.rmtree(teacher)
    assert sources([str(teacher)], [folder], texts)[0].fingerprint == before.fingerprint
    assert dimension_of(str(teacher), [folder]) == 32
    with pytest.raises(InputError):
        dimension_of(str(teacher), [tiny_dataset(50).save(tmp_path / "other")])
