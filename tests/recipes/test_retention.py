"""A student against its teacher: what is told, by the library and by the verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import lode
from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset
from lodesmith.encoders import truncate
from lodesmith.evaluation.significance import holm
from lodesmith.recipes._scores import Scores
from lodesmith.recipes._speed import speed
from lodesmith.recipes.retention import Retention, retention, thirds
from lodesmith.recipes.systems import load_encoder, resolve
from lodesmith.testing import HashEncoder, tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def student(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return truncate(tiny_model, 1, "first", tmp_path_factory.mktemp("student") / "cut")


@pytest.fixture
def data() -> Dataset:
    return tiny_dataset(60)


@pytest.fixture
def found(student: Path, tiny_model: Path, data: Dataset) -> Retention:
    return retention(str(student), str(tiny_model), data, timed=False)


def test_all_figures_are_of_both_systems(found: Retention) -> None:
    measure = "nDCG@10"
    own, whole = found.student.measures[measure].mean, found.teacher.measures[measure].mean
    assert found.retained.mean == pytest.approx(own / whole)
    assert found.pair.difference == pytest.approx(own - whole)
    assert (found.pair.a, found.pair.b) == ("cut", "model")
    assert 0 < found.agreement["overlap@10"].mean < 1
    assert -1 <= found.agreement["spearman@100"].low <= found.agreement["spearman@100"].high <= 1
    assert all(own < whole for own, whole in found.size.values() if own and whole)
    assert found.size["weights"][0] is not None
    json.dumps(found.to_json(), allow_nan=False)


def test_parts_hold_all_queries_and_are_corrected_together(found: Retention) -> None:
    for kind in ("length", "rarest word"):
        assert sum(each.pair.queries for each in found.parts if each.kind == kind) == found.student.queries
    assert [each.pair.p_holm for each in found.parts] == holm([each.pair.p for each in found.parts])


def test_the_worst_queries_come_first_and_none_is_a_gain(found: Retention) -> None:
    gaps = [loss.student - loss.teacher for loss in found.losses]
    assert gaps == sorted(gaps)
    assert max(gaps) < 0
    assert len(gaps) <= 10


def test_thirds_keep_equal_values_together() -> None:
    values = {f"q{at}": number for at, number in enumerate([1.0, 1, 1, 1, 2, 2, 3, 3, 9])}
    parts = thirds(values, "{:.0f}", "words")
    assert [label for label, _ in parts] == ["1 words", "2 words", "3–9 words"]
    assert [len(group) for _, group in parts] == [4, 2, 3]
    assert thirds({}, "{}", "words") == []
    assert thirds({"a": 1.0}, "{}", "words") == []
    few = {f"q{at}": number for at, number in enumerate([1.0, 2, 2, 2, 2, 2, 2, 9])}
    assert [(label, len(group)) for label, group in thirds(few, "{:.0f}", "words")] == [("1–9 words", 8)]
    even = {f"q{at}": float(at) for at in range(9)}
    assert [len(group) for _, group in thirds(even, "{:.0f}", "words")] == [3, 3, 3]


def test_scores_are_those_of_the_search(tiny_model: Path, data: Dataset) -> None:
    system = resolve(str(tiny_model), data)
    texts = {key: query.content for key, query in data.queries_of("test").items()}
    scores = Scores.of(system, texts)
    assert scores is not None
    for query, ranking in system.retriever.search(texts, 20).items():
        wanted = [score for _, score in ranking]
        assert np.allclose(scores(query, [document for document, _ in ranking]), wanted, atol=1e-6)
    assert Scores.of(resolve("bm25", data), texts) is None


def test_systems_without_vectors_have_no_speed(tiny_model: Path, data: Dataset) -> None:
    found = retention("bm25", str(tiny_model), data)
    assert found.speed is None
    assert set(found.agreement) == {"overlap@10"}
    assert found.size["weights"][0] is None


def test_speed_is_a_ratio_of_both(student: Path, tiny_model: Path, data: Dataset) -> None:
    texts = [document.content for document in data.documents.values()]
    told = speed(load_encoder(str(student)), load_encoder(str(tiny_model)), texts, rounds=2, seconds=0.01)
    assert told.low <= told.ratio <= told.high
    assert told.student / told.teacher == pytest.approx(told.ratio, rel=1)
    assert (told.tensors or 0) > 0
    assert speed(HashEncoder(), load_encoder(str(student)), texts, rounds=1, seconds=0.01).tensors is None
    with pytest.raises(InputError, match="0 documents"):
        speed(HashEncoder(), HashEncoder(), [])


def test_one_system_twice_is_refused(tiny_model: Path, data: Dataset) -> None:
    with pytest.raises(InputError, match="the same"):
        retention(str(tiny_model), f"{tiny_model}/", data)


def test_the_verb_writes_what_it_shows(
    student: Path, tiny_model: Path, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data.save(tmp_path / "data")
    files = {name: tmp_path / f"r.{name}" for name in ("json", "html", "md")}
    options = ["--out", files["json"], "--report", files["html"], "--markdown", files["md"], "--json"]
    code, out, err = lode(capsys, "evaluate", student, folder, "--teacher", tiny_model, *options)
    assert code == 0, err
    told = json.loads(out)["retentions"]
    assert told == [json.loads(files["json"].read_text())]
    assert "where the student loses" in files["md"].read_text()
    assert "% [" in files["html"].read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "bm25", "--codec", "int8"], "do not go together"),
        (["--teacher", "bm25", "--run", "x.trec"], "do not go together"),
        (["--report", "x.html"], "with --teacher, --traces or --as"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], message: str, tmp_path: Path, data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = lode(capsys, "evaluate", "random", data.save(tmp_path / "data"), *options)
    assert code == 2
    assert message in err
