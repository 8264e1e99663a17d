"""A hybrid of student and teacher: its router, folder, curve and verb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import lode
from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.records import Dataset
from lodesmith.core.run import Run
from lodesmith.encoders import truncate
from lodesmith.recipes._hybrid_curve import permuted_p
from lodesmith.recipes._hybrid_folder import check_space, hybrid_of
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.hybrid import hybrid, outcomes
from lodesmith.recipes.systems import resolve
from lodesmith.testing import HashEncoder, tiny_dataset


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A hybrid folder, made once."""
    place = tmp_path_factory.mktemp("hybrid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LODESMITH_CACHE", str(place / "cache"))
        patch.setattr("lodesmith.recipes._hybrid_curve._TIMED", 5)
        student = truncate(tiny_model, 1, "first", place / "cut")
        folder = tiny_dataset(160).save(place / "data")
        curve = hybrid(str(student), str(tiny_model), folder, place / "out", level=0.7)
    return {"curve": curve, "out": place / "out", "data": folder, "student": student, "teacher": tiny_model}


@pytest.fixture
def here(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("LODESMITH_CACHE", str(made["out"].parent / "cache"))
    return made


def test_the_curve_is_what_the_folder_measures_as_a_system(here: dict[str, Any]) -> None:
    data, curve = Dataset.load(here["data"]), here["curve"]
    shares = [point.share for point in curve.points]
    assert shares == sorted(shares)
    assert len(shares) == 5
    for point in (curve.points[0], curve.points[4]):
        system = resolve(f"{here['out']}@{point.threshold:.17f}", data)
        evaluation, _ = evaluate_system(replace(system, timed=False), data)
        assert evaluation.measures["nDCG@10"].mean == pytest.approx(point.quality.mean)
    default = resolve(str(here["out"]), data)
    assert default.name == f"out@{curve.points[2].threshold:g}"
    alone, _ = evaluate_system(replace(resolve(str(here["teacher"]), data), timed=False), data)
    assert alone.measures["nDCG@10"].mean == pytest.approx(curve.teacher.quality.mean)


def test_chance_lies_on_the_line_and_the_oracle_above_all(here: dict[str, Any]) -> None:
    curve = here["curve"]
    low, high = curve.student.quality.mean, curve.teacher.quality.mean
    for point in curve.points:
        assert point.random == pytest.approx(low + point.share * (high - low))
        assert point.gain.mean == pytest.approx(point.quality.mean - point.random)
        assert point.oracle >= max(point.quality.mean, point.random) - 1e-12
        assert point.query_ms == pytest.approx(curve.latency.routed + point.share * curve.latency.teacher)
        assert 0 < point.p <= 1


def test_reliability_is_told_of_both_splits(here: dict[str, Any]) -> None:
    report = json.loads((here["out"] / "report.json").read_text())
    data = Dataset.load(here["data"])
    assert report["training"]["reliability"]["queries"] == len(data.judgements["train"])
    assert report["reliability"]["queries"] == len(data.judgements["test"])
    assert report["training"]["target"] == "overlap"
    assert (here["out"] / "curve.svg").read_text().startswith("<svg")


def test_models_are_found_wherever_the_folder_stands(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert resolve(str(here["out"]), Dataset.load(here["data"])).cost["parameters"]


def test_a_changed_router_or_model_is_refused(here: dict[str, Any], tmp_path: Path) -> None:
    manifest = json.loads((here["out"] / "manifest.json").read_text())
    manifest |= {name: str(here[name]) for name in ("student", "teacher")}
    data = tiny_dataset(20)

    def folder(**change: Any) -> str:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
        return str(tmp_path)

    (tmp_path / "router.json").write_bytes((here["out"] / "router.json").read_bytes())
    assert resolve(folder(), data).retriever.search({"q": "cat"}, 1)
    with pytest.raises(IntegrityError, match="the student is not the one"):
        resolve(folder(student=str(here["teacher"])), data)
    with pytest.raises(IntegrityError, match="damaged"):
        resolve(folder(threshold=None), data)
    (tmp_path / "router.json").write_text("{}")
    with pytest.raises(IntegrityError, match="SHA-256"):
        resolve(folder(), data)


def test_spellings(here: dict[str, Any]) -> None:
    out = here["out"]
    assert hybrid_of(str(out)) == (out, None)
    assert hybrid_of(f"{out}@.25") == (out, 0.25)
    assert hybrid_of("minilm") is None
    assert hybrid_of(f"{here['student']}@0.5") is None
    for wrong in ("1.5", "-1", "abc", ""):
        with pytest.raises(ConfigError, match=rf"threshold is '{wrong}'"):
            hybrid_of(f"{out}@{wrong}")


def test_another_dimension_names_the_projected_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "modules.json").write_text("[]")
    wide, narrow = HashEncoder(64), HashEncoder(32)
    with pytest.raises(InputError, match=r"32 dimensions, and the teacher's index has 64(.|\n)*run/model$"):
        check_space(str(run / "model_student"), narrow, wide)
    with pytest.raises(InputError, match="a run of distil"):
        check_space("minilm", narrow, wide)
    check_space("minilm", wide, wide)


def test_what_a_router_predicts() -> None:
    data = tiny_dataset(8)
    judged = data.judgements["train"]
    one = next(iter(judged))
    right = {query: next(iter(judged[query])) for query in judged}
    others = {query: {f"x{at}": -at for at in range(9)} for query in judged}
    teacher = Run.of({query: {right[query]: 1.0, **others[query]} for query in judged})
    student = Run.of(
        {query: {right[query]: 1.0, **others[query]} for query in judged if query != one} | {one: {"y": 1.0}}
    )
    for target in ("overlap", "judged"):
        found = outcomes(student, teacher, data, "train", target, 0.5)  # type: ignore[arg-type]
        assert dict(zip(data.queries_of("train"), found.tolist(), strict=True)) == {
            query: float(query == one) for query in data.queries_of("train")
        }


def test_p_is_small_for_the_right_choice_and_not_for_chance() -> None:
    gains = np.concatenate([np.full(10, 1.0), np.zeros(40)])
    assert permuted_p(gains, np.arange(50) < 10, permutations=500) == pytest.approx(1 / 501)
    assert permuted_p(gains, np.arange(50) % 5 == 0, permutations=500) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "nothing"}, "has no split 'nothing'"),
        ({"split": "test"}, "what it learned from"),
        ({"split": "dev"}, "learns from 40 queries"),
        ({"target": "luck"}, "no target is called 'luck'"),
        ({"level": 0.0}, "level is 0"),
        ({"out": "data"}, "exists and is not a hybrid"),
        ({"teacher": "bm25"}, "not one model"),
    ],
)
def test_what_cannot_be_made(here: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    place = {"out": tmp_path / "new"} | {k: here["data"] for k in settings if k == "out"}
    models = {"student": str(here["student"]), "teacher": str(here["teacher"])}
    asked = models | {key: value for key, value in settings.items() if key != "out"} | place
    with pytest.raises((InputError, ConfigError), match=message):
        hybrid(dataset=here["data"], **asked)
    assert not (tmp_path / "new").exists()


def test_the_verb(
    here: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodesmith.recipes._hybrid_curve._TIMED", 3)
    asked = ("hybrid", here["student"], here["teacher"], here["data"], "--target", "judged")
    code, out, err = lode(capsys, *asked, "--out", tmp_path / "a")
    assert code == 0, err
    assert "oracle" in out
    assert "router on 80 train queries that were held out: Brier" in out
    code, out, _ = lode(capsys, "evaluate", f"{tmp_path / 'a'}@0.4", here["data"], "--json")
    assert code == 0
    assert json.loads(out)["system"] == "a@0.4"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_an_outcome_that_hardly_happens_is_told(
    here: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    monkeypatch.setattr(
        "lodesmith.recipes.hybrid.outcomes", lambda *_, **__: (np.arange(80) < share * 80).astype(float)
    )
    monkeypatch.setattr("lodesmith.recipes.hybrid.curve", lambda *_, **__: _enough())
    with pytest.raises(_Enough):
        hybrid(str(here["student"]), str(here["teacher"]), here["data"], tmp_path / "new")
    assert (f"is that of {np.ceil(share * 80):.0f} of 80 queries" in caplog.text) == (share < 0.05)


class _Enough(Exception):  # noqa: N818 - it is no error
    pass


def _enough() -> None:
    raise _Enough
