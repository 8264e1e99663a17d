"""Trainings of a memory model that are refused: settings that mean nothing, and data or models they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import memory_worlds
import pytest
from memory_worlds import training

from lodesmith.core.errors import ConfigError, InputError, LodesmithError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.recipes.train import plan

pytestmark = pytest.mark.filterwarnings("ignore:.*")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"stages.0.pairs": "judged"}, "memory tokens are learned from answers"),
        ({"stages.2.pairs": "text"}, "memory tokens are learned from answers"),
        ({"stages.0.objective": {"use": "contrast"}}, "reads no answers"),
        ({"stages.1.objective": {"use": "mimic"}, "stages.1.pairs": "none"}, "reads no answers"),
        ({"stages.0.monitor": "nDCG@10"}, "not measured by nDCG@10"),
        ({"stages.0.monitor": "teacher"}, "not measured by teacher"),
        ({"teacher": "minilm"}, "mimics nobody"),
        ({"stages.1.chunk": 8}, "chunk and pool are of pairs"),
        ({"stages.0.pool": 8}, "chunk and pool are of pairs"),
        ({"evaluation.validate_on": "anything"}, "answers are validated on the training data alone"),
        ({"traces": {"mode": "use"}}, "has neither"),
        ({"document_encoder": {"use": "memory"}}, "no tower of its own"),
        ({"data.negatives": "negatives"}, "finds the column itself"),
        ({"stages.0.name": "instruct"}, "a name of its own"),
        ({"stages.0.name": "../../there"}, "a name of its own"),
        ({"stages.0.objective.together": 0}, "together 0"),
        ({"stages.0.objective.answer": 0.0, "stages.0.objective.mse": 0.0}, "has no term"),
        ({"stages.2.objective.candidates": 1}, "cannot be chosen among 1"),
        ({"stages.2.objective.temperature": 0.0}, "above 0"),
        ({"stages.0.objective.kinds": []}, "kinds is empty"),
        ({"encoder.rates": 4}, "rates"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(
    more: dict[str, Any], said: str, dataset: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        training(dataset, base, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        ("late", {"stages.0.pairs": "answers"}, "answers are for the encoder memory"),
        ("late", {"stages.0.objective": {"use": "compress"}}, "for the encoder memory"),
        ("isotropic", {"stages.0.objective": {"use": "end_to_end"}}, "for the encoder memory"),
    ],
)
def test_answers_are_for_memory_models(
    recipe: str, more: dict[str, Any], said: str, dataset: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(recipe, {"data": str(dataset), "base": str(base), **more}, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"stages.0.objective.kinds": ["simpel"]}, "no kind of examples is called 'simpel'"),
        ({"stages.1.objective.kinds": ["paraphrase"]}, "the stage 'instruct' has no example: "),
        ({"stages.1.objective.documents": 16}, "has 15 documents, and 16 are read"),
        ({"base": "minilm"}, "no causal language model"),
        ({"encoder.rate": 17}, "rate 17 is not between 1 and document_length, 16"),
        ({"encoder.document_length": 1000, "encoder.rate": 4}, "more than the 256 tokens of the model"),
        ({"encoder.lora": {"ranks": 2}}, "lora has no setting 'ranks'"),
        ({"encoder.prompt": "{question}"}, "has {documents} 0 times"),
        ({"data.train": "trian"}, "trian"),
    ],
)
def test_what_does_not_fit_the_data_or_the_model_is_refused(
    more: dict[str, Any], said: str, dataset: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(LodesmithError) as caught:
        list(training(dataset, base, tmp_path / "run", **more).events())
    assert said in str(caught.value)


def test_a_dataset_without_answers_is_refused(base: Path, tmp_path: Path) -> None:
    place = memory_worlds.write(tmp_path / "beasts", answered=False)
    with pytest.raises(InputError, match="no example of train has an answer"):
        list(training(place, base, tmp_path / "run").events())


def test_a_prompt_that_is_too_long_is_refused_while_training(base: Path, tmp_path: Path) -> None:
    documents = [Document(f"d{n}", "", "the cat") for n in range(3)]
    queries = [Query("q", "what does the cat eats ? " * 60, ("moon",))]
    Dataset.of(documents, queries, {"train": {"q": {"d0": 1}}}, name="long").save(tmp_path / "long")
    with pytest.raises(InputError, match="tokens, and the model reads 256 at most"):
        list(training(tmp_path / "long", base, tmp_path / "run", **{"data.validation": None}).events())
