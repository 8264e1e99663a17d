"""`lode export`: the folder serves as a model, the report says how equal it is, and what differs is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import lode
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.records import Dataset
from lodesmith.encoders import Bag, TransformerEncoder, Vocabulary
from lodesmith.recipes import _equality, exporting
from lodesmith.recipes.exporting import export
from lodesmith.recipes.systems import load_encoder
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_dataset(40).save(tmp_path / "data")


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != "data"]


def test_the_verb_writes_a_model_that_is_evaluated_like_any(
    tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int8"
    code, told, _ = lode(
        capsys, "export", tiny_model, "--to", "int8", "--out", out, "--check", data, "--limit", 12, "--json"
    )
    assert code == 0
    report = json.loads(told)
    assert report.pop("folder") == str(out)
    assert report == json.loads((out / "equality.json").read_text())
    assert report["bytes"]["ratio"] == pytest.approx(report["bytes"]["exported"] / report["bytes"]["source"])
    assert report["batch_dependence"] < 1e-5
    assert 0.99 < report["texts"]["cosine"]["min"] <= report["texts"]["cosine"]["mean"] < 1
    ranked = report["nDCG@10"]
    assert ranked["difference"] == pytest.approx(ranked["exported"] - ranked["source"])
    assert 0 < ranked["p"] <= 1
    assert 0.5 < report["top10_overlap"] <= 1
    speed = report["speed"]
    rates = speed["documents_per_second"]
    assert speed["ratio_to_packed"] == pytest.approx(rates["exported"] / rates["packed"])
    assert speed["ratio_to_padded"] == pytest.approx(rates["exported"] / rates["padded"])
    assert isinstance(load_encoder(str(out)), TransformerEncoder)
    code, told, _ = lode(capsys, "evaluate", out, data, "--json")
    assert code == 0
    assert "nDCG@10" in told


def test_the_text_says_what_the_report_does(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    found = export(str(tiny_model), "int8", tmp_path / "int8", check=data)
    told = found.to_text()
    for part in ("cosine to the source", "nDCG@10", "of the ten best", "× those of the packed source", "bytes on disk"):
        assert part in told
    short = export(str(tiny_model), "int8", tmp_path / "without")
    assert "documents" not in short.report
    assert "nDCG@10" not in short.to_text()


def test_a_float32_export_with_other_vectors_is_refused_and_leaves_nothing(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_FLOAT32", ("int8",))
    with pytest.raises(InputError, match="gives other vectors"):
        export(str(tiny_model), "int8", tmp_path / "out", check=data)
    assert left(tmp_path) == []


def test_vectors_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="nan of the largest"):
        exporting._accept("onnx", {"difference": float("nan")}, "model")


@pytest.mark.parametrize(
    ("to", "model", "error", "message"),
    [
        ("onx", None, ConfigError, "did you mean 'onnx'"),
        ("int8", "nowhere/at/all", InputError, "no such model"),
    ],
)
def test_mistakes_are_told(
    tiny_model: Path, tmp_path: Path, to: str, model: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(model or str(tiny_model), to, tmp_path / "out")
    assert left(tmp_path) == []


def test_a_folder_that_is_there_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(InputError, match="is there already"):
        export(str(tiny_model), "int8", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_a_bag_is_told_of_codecs(tmp_path: Path) -> None:
    words = Vocabulary.build(["the cat eats apples", "a dog likes the moon"], min_count=1)
    Bag(words, dimension=8).save(tmp_path / "bag")
    with pytest.raises(ConfigError, match="--codec int8"):
        export(str(tmp_path / "bag"), "int8", tmp_path / "out")


def test_the_sample_has_all_that_is_relevant() -> None:
    data = tiny_dataset(40)
    relevant = {key for grades in data.split("test").values() for key, grade in grades.items() if grade > 0}
    few, all_of_them = (_equality.sampled(data, "test", limit).dataset for limit in (1, 1000))
    assert set(few.documents) == relevant
    assert list(all_of_them.documents) == list(data.documents)
    some = _equality.sampled(data, "test", len(relevant) + 3).dataset
    assert len(some.documents) == len(relevant) + 3
    with pytest.raises(InputError, match="split"):
        _equality.sampled(data, "nowhere", 5)


def test_agreement_is_measured() -> None:
    wanted = np.eye(4)
    found = np.eye(4)
    found[0] = [0.0, 0.5, 0.0, 0.0]
    told = _equality._agreement(wanted * 2, found * 2)
    assert told["count"] == 4
    assert told["cosine"]["min"] == 0
    assert told["cosine"]["mean"] == pytest.approx(0.75)
    assert told["difference"] == pytest.approx(1.0)


def test_a_run_of_two_lists_is_compared() -> None:
    from lodesmith.core.run import Run

    data: Dataset = tiny_dataset(40)
    judged = data.split("test")
    best = {query: {key: float(grade) for key, grade in grades.items()} for query, grades in judged.items()}
    worst = {query: {"none": 1.0} for query in judged}
    sample = _equality.Sample(data, "test")
    told = _equality._ranked({"source": Run.of(best), "exported": Run.of(worst)}, sample)
    assert told["top10_overlap"] == 0
    assert told["nDCG@10"]["source"] == pytest.approx(1.0)
    assert told["nDCG@10"]["difference"] == pytest.approx(-1.0)
