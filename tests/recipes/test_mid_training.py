"""A whole training that mimics a late-interaction teacher's token attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_runs

from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders.tokens import LateInteractionEncoder
from lodesmith.recipes.interactions import Interactions, interactions_of
from lodesmith.recipes.systems import load_encoder
from lodesmith.recipes.train import Training, plan
from lodesmith.testing import HashEncoder, tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset(120).save(tmp_path / "tiny")


def training(recipe: str, dataset: Path, model: Path, out: Path, *, reported: bool = False, **more: object) -> Training:
    small = {"encoder.dimension": 8, "stages.0.epochs": 1, **more}
    found = plan(recipe, small_runs.overrides(dataset, model, **small), out=out, resume="auto", reported=reported)
    assert isinstance(found, Training)
    return found


@pytest.fixture
def teacher(dataset: Path, tiny_model: Path, tmp_path: Path) -> Path:
    list(training("late", dataset, tiny_model, tmp_path / "teacher", **{"encoder.dimension": 16}).events())
    return tmp_path / "teacher"


def test_a_student_learns_to_attend_as_its_teacher(
    dataset: Path, tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    more = {"teacher": str(teacher), "stages.0.epochs": 6, "stages.0.optim.lr": 1e-3, "data.validation": None}
    planned = training("mid", dataset, tiny_model, tmp_path / "run", reported=True, **more)
    seen = [event.terms["attention"] for event in planned.events() if isinstance(event, events.Step)]
    assert seen[-1] < 0.7 * seen[0]
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["teacher"] == load_encoder(str(teacher)).fingerprint
    assert json.loads((tmp_path / "run/teacher.json").read_text())["ceiling"] is None
    names = {path.stem for path in (tmp_path / "run/evaluations").iterdir()}
    assert {"random", "bm25", "teacher", "mid", "untrained"} <= names
    assert LateInteractionEncoder(tmp_path / "run/model").dimension == 8


def test_the_same_bits_after_a_kill(dataset: Path, tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    script = """
import sys, torch
torch.set_num_threads(1)
from lodesmith.recipes.train import plan
data, base, teacher, out = sys.argv[1:]
settings = {"data": data, "base": base, "teacher": teacher, "encoder.dimension": 8, "stages.0.batch_size": 16}
settings["stages.0.epochs"] = 3
for event in plan("mid", settings, out=__import__("pathlib").Path(out), resume="auto", reported=False).events():
    print(type(event).__name__, flush=True)
print("end")
"""
    small_runs.killed_is_whole(script, (str(dataset), str(tiny_model), str(teacher)), tmp_path, 1)


def test_attention_alone_and_validated(dataset: Path, tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    alone = {"stages.0.objective.infonce": 0.0, "stages.0.objective.hinge": None}
    planned = training("mid", dataset, tiny_model, tmp_path / "run", teacher=str(teacher), **alone)
    happened = list(planned.events())
    steps = [event for event in happened if isinstance(event, events.Step)]
    assert all(event.terms.keys() == {"attention"} for event in steps)
    assert all("loss" in event.measures for event in happened if isinstance(event, events.Validation))


# ----------------------------------------------------------------------------------------------------- the store


class Letters:
    """A vector a word, by its first letter."""

    metric = "maxsim"
    dimension = 26
    asked = 0

    @property
    def fingerprint(self) -> str:
        return fingerprint({"letters": 1})

    def encode(self, texts: list[str], side: Side = "document", ids: list[str] | None = None) -> Vectors:
        self.asked += len(texts)
        rows = [np.eye(26, dtype=np.float32)[[ord(word[0]) - 97 for word in text.split()]] for text in texts]
        bounds = np.cumsum([0, *map(len, rows)])
        names = tuple(map(str, range(len(texts)))) if ids is None else tuple(ids)
        return Vectors(np.concatenate([np.zeros((0, 26), np.float32), *rows]), bounds, names)


PAIRS = [("b a", "a b c d"), ("c", "c"), ("b a", "z")]


def test_the_shares_that_are_kept(tmp_path: Path) -> None:
    found = interactions_of(Letters(), PAIRS, softness=0.5, top=2, cache=tmp_path)
    taken = found.take(np.asarray([0, 2, 1]))
    assert taken["offsets"].tolist() == [0, 2, 4, 5]
    assert taken["lengths"].tolist() == [4, 1, 1]
    most = np.exp(2) / (np.exp(2) + 3)
    assert taken["columns"].tolist() == [[1, 0], [0, 1], [0, -1], [0, -1], [0, -1]]
    np.testing.assert_allclose(taken["mass"][0], [most, (1 - most) / 3], atol=5e-4)
    assert taken["mass"][4].tolist() == [1.0, 0.0]
    assert found.bytes == 5 * 2 * 4 + 4 * 8 + 3 * 8


def test_they_are_made_once_and_again_when_damaged(tmp_path: Path) -> None:
    settings = {"softness": 0.5, "top": 2, "cache": tmp_path}
    teacher = Letters()
    first = np.array(interactions_of(teacher, PAIRS, **settings).mass)
    assert teacher.asked == 2 + 3  # each text once
    again = Letters()
    interactions_of(again, PAIRS, **settings)
    assert again.asked == 0
    (folder,) = (tmp_path / "interactions").iterdir()
    for damage in ("mass.npy", "manifest.json"):
        with (folder / damage).open("r+b") as file:
            file.truncate(100)
        healed = interactions_of(Letters(), PAIRS, **settings)
        np.testing.assert_array_equal(healed.mass, first)
    (folder / "manifest.json").write_text('{"files": {}}')
    np.testing.assert_array_equal(interactions_of(Letters(), PAIRS, **settings).mass, first)
    interactions_of(Letters(), PAIRS, softness=0.6, top=2, cache=tmp_path)
    assert len(list((tmp_path / "interactions").iterdir())) == 2


def test_a_teacher_of_one_vector_a_text_has_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one vector a text"):
        interactions_of(HashEncoder(), PAIRS, softness=0.5, top=2, cache=tmp_path)
    none = Interactions(
        np.zeros((0, 2), np.uint16), np.zeros((0, 2), np.float16), np.zeros(1, np.int64), np.zeros(0, np.int64)
    )
    assert none.take(np.asarray([], np.int64))["columns"].shape == (0, 2)


def test_what_is_refused(dataset: Path, tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    for more, said in (
        ({}, "mimics a teacher"),
        ({"teacher": f"{teacher},minilm"}, "several teachers"),
        ({"teacher": str(teacher), "stages.0.pairs": "none"}, "learns from them"),
        ({"teacher": str(teacher), "encoder.use": "projected", "encoder.dimension": 8}, "one vector a text|dimension"),
    ):
        with pytest.raises(ConfigError, match=said):
            training("mid", dataset, tiny_model, tmp_path / "x", **more)
    with pytest.raises(InputError, match="one vector a text"):
        list(training("mid", dataset, tiny_model, tmp_path / "y", teacher=str(tiny_model)).events())
    other = {"teacher": str(teacher), "encoder.document_length": 4}
    with pytest.raises(InputError, match="tokens of a document of which the teacher has"):
        list(training("mid", dataset, tiny_model, tmp_path / "z", **other).events())
